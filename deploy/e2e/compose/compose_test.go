//go:build e2ecompose

package compose

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/event"
)

const (
	jobs = 50
	// healthyMost is how long a stack with a killed container may be ill.
	healthyMost = 30 * time.Second
	// endMost is for a batch of jobs, with a kill in the middle.
	endMost = 3 * time.Minute
)

// kinds are the containers of the stack, each with the number of callbacks of a
// batch after which it is killed.
var kinds = []struct {
	service string
	after   int
}{
	{"sqs", 1}, {"ingest", 1}, {"nats", 20}, {"launcher", 20}, {"kubernetes", 60}, {"watcher", 60}, {"notifier", 75}, {"webhooks", 75}, {"console", 75},
}

func TestCompose(t *testing.T) {
	s := newStack(t)
	t.Cleanup(func() { _ = os.Remove(s.kubeconfig()) })
	out := s.make(t, "up")
	t.Logf("%s\n%s", out, s.run(t, "docker", "ps", "-a"))
	if !strings.Contains(out, s.console()) {
		t.Errorf("make up does not say where the console is")
	}
	s.make(t, "kubeconfig")
	ok := t.Run("images", s.images) &&
		t.Run("confinement", s.confinement) &&
		t.Run("the sample", s.sample) &&
		t.Run("fifty", s.fifty) &&
		t.Run("the console", s.shown) &&
		t.Run("kill", s.kill) &&
		t.Run("docker kill", s.dockerKill) &&
		t.Run("scale", s.scale) &&
		t.Run("down and up", s.downAndUp) &&
		t.Run("faults", s.faults)
	if !ok {
		t.Log(s.logs())
	}
	s.make(t, "down", "VOLUMES=1")
	if left := s.containers(t, ""); len(left) > 0 {
		t.Errorf("make down left %d containers", len(left))
	}
	if volumes := s.run(t, "docker", "volume", "ls", "-q", "--filter", "label=com.docker.compose.project="+s.project); volumes != "" {
		t.Errorf("make down VOLUMES=1 left %s", volumes)
	}
}

// images: small, labelled, of no user with rights.
func (s *stack) images(t *testing.T) {
	var total int64
	for _, name := range []string{"jobrelay", "jobrelay-parts", "jobrelay-kubernetes"} {
		var image []struct {
			Size   int64
			Config struct {
				User   string
				Labels map[string]string
			}
		}
		if err := json.Unmarshal([]byte(s.run(t, "docker", "image", "inspect", name+":dev")), &image); err != nil {
			t.Fatal(err)
		}
		t.Logf("%-20s %4d MB, version %s", name, image[0].Size/1e6, image[0].Config.Labels["org.opencontainers.image.version"])
		total += image[0].Size
		if name == "jobrelay" && image[0].Size > 140e6 {
			t.Errorf("%s has %d bytes", name, image[0].Size)
		}
		if image[0].Config.User != "65532:65532" {
			t.Errorf("%s runs as %q", name, image[0].Config.User)
		}
		for _, label := range []string{"title", "description", "version", "revision", "source", "licenses"} {
			if image[0].Config.Labels["org.opencontainers.image."+label] == "" {
				t.Errorf("%s has no label %s", name, label)
			}
		}
	}
	if total > 400e6 {
		t.Errorf("the images have %d bytes together", total)
	}
}

// confinement: what compose.yaml promises is what Docker was told.
func (s *stack) confinement(t *testing.T) {
	count := map[string]int{}
	for _, c := range s.containers(t, "") {
		count[c.service()]++
		h := c.HostConfig
		if !h.ReadonlyRootfs || h.Privileged || len(h.CapAdd) > 0 || fmt.Sprint(h.CapDrop) != "[ALL]" ||
			!slices.Contains(h.SecurityOpt, "no-new-privileges:true") || c.Config.User != "65532:65532" {
			t.Errorf("%s: %+v as %s", c.Name, h, c.Config.User)
		}
		if h.Memory == 0 || h.PidsLimit == nil || *h.PidsLimit <= 0 || h.RestartPolicy.Name != "unless-stopped" {
			t.Errorf("%s has no limits: %+v", c.Name, h)
		}
		if h.LogConfig.Type != "json-file" || h.LogConfig.Config["max-size"] == "" || h.LogConfig.Config["max-file"] == "" {
			t.Errorf("%s: its log grows for ever: %+v", c.Name, h.LogConfig)
		}
		for port, bindings := range h.PortBindings {
			for _, b := range bindings {
				if b.HostIP != "127.0.0.1" {
					t.Errorf("%s: port %s is on %q", c.Name, port, b.HostIP)
				}
			}
		}
	}
	want := map[string]int{"nats": 1, "sqs": 1, "kubernetes": 1, "webhooks": 1, "ingest": 1, "launcher": 1, "watcher": 1, "notifier": 2, "console": 1}
	if !maps.Equal(count, want) {
		t.Errorf("containers %v, want %v", count, want)
	}
}

func (s *stack) sample(t *testing.T) {
	out := s.make(t, "send")
	t.Log(out)
	for _, want := range []string{`"status":0,"detail":{"jobId":`, `"status":1,"detail":{"podId":`, `"status":2,"detail":{"duration":`} {
		if strings.Count(out, want) != 1 {
			t.Errorf("%s is not there once", want)
		}
	}
}

func (s *stack) fifty(t *testing.T) {
	b := s.batch("fifty", "webhooks", jobs)
	began := time.Now()
	s.send(t, b.bodies...)
	if repeats := b.check(t, endMost); repeats > 0 {
		t.Errorf("%d repeats without a fault", repeats)
	}
	t.Logf("%d messages to %d callbacks in %s", jobs, 3*jobs, time.Since(began).Round(100*time.Millisecond))
}

// shown: the console has what was before, at its address on loopback and by no other name.
func (s *stack) shown(t *testing.T) {
	get := func(path, host string) (status int, body string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.console()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return 0, err.Error()
		}
		return res.StatusCode, string(text)
	}
	for path, wants := range map[string][]string{
		"/": {`data-count="completed"`, "notifier"}, "/jobs?service=fifty": {"fifty 0"},
		"/jobs/" + event.Key("fifty 0"): {"fifty 0", "busybox", `data-lane="Callback 2"`},
	} {
		body := ""
		s.eventually(t, healthyMost, func() bool {
			var status int
			status, body = get(path, "")
			return status == http.StatusOK && !slices.ContainsFunc(wants, func(want string) bool { return !strings.Contains(body, want) })
		}, func() string { return fmt.Sprintf("%s with %q: %s", path, wants, body) })
		if status, _ := get(path, "attacker.example"); status != http.StatusMisdirectedRequest {
			t.Errorf("%s by another name: %d", path, status)
		}
	}
}

// kill: the process of one container of each kind ends by SIGKILL in the middle
// of fifty jobs; the restart policy brings it back.
func (s *stack) kill(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.service, func(t *testing.T) {
			b := s.batch("kill-"+kind.service, "webhooks", jobs)
			s.send(t, b.bodies...)
			b.awaitCalls(t, kind.after)
			victim := s.containers(t, kind.service)[0]
			killed := time.Now()
			s.crash(t, victim)
			s.eventually(t, healthyMost, func() bool {
				for _, c := range s.containers(t, kind.service) {
					if c.ID == victim.ID {
						return c.healthy() && c.State.StartedAt.After(victim.State.StartedAt)
					}
				}
				return false
			}, func() string { return "the health of " + victim.Name })
			itself := time.Since(killed)
			s.awaitHealth(t, healthyMost-itself)
			all := time.Since(killed)
			repeats := b.check(t, endMost)
			t.Logf("%-10s healthy after %4.1f s, all after %4.1f s, callbacks complete after %5.1f s, %d repeats",
				kind.service, itself.Seconds(), all.Seconds(), time.Since(killed).Seconds(), repeats)
		})
	}
}

// dockerKill: `docker kill -s KILL` of one container of each kind at once. To
// Docker that is a stop by hand, which switches the restart policy off: make up
// brings them back.
func (s *stack) dockerKill(t *testing.T) {
	b := s.batch("docker-kill", "webhooks", jobs)
	s.send(t, b.bodies...)
	b.awaitCalls(t, jobs)
	args := []string{"kill", "-s", "KILL"}
	for _, kind := range kinds {
		args = append(args, s.containers(t, kind.service)[0].ID)
	}
	s.run(t, "docker", args...)
	began := time.Now()
	s.make(t, "up")
	t.Logf("all healthy %s after the kill of one of each kind; %d repeats", time.Since(began).Round(100*time.Millisecond), b.check(t, endMost))
}

func (s *stack) scale(t *testing.T) {
	s.make(t, "scale", "NOTIFIERS=4")
	if n := len(s.containers(t, "notifier")); n != 4 {
		t.Fatalf("%d notifiers", n)
	}
	b := s.batch("scale", "webhooks", jobs)
	s.send(t, b.bodies...)
	b.check(t, endMost)
	shared := 0
	for _, c := range s.containers(t, "notifier") {
		if strings.Contains(s.run(t, "docker", "logs", c.ID), `"scale `) {
			shared++
		}
	}
	t.Logf("%d of 4 notifiers delivered", shared)
	if shared < 2 {
		t.Errorf("the load is on %d notifier alone", shared)
	}
}

// downAndUp: nothing runs in between, and all that was is known after it.
func (s *stack) downAndUp(t *testing.T) {
	old := s.batch("before", "webhooks", 5)
	s.send(t, old.bodies...)
	old.check(t, endMost)
	uids := func() string {
		var out []string
		for _, j := range s.jobs(t, old.service) {
			out = append(out, string(j.UID))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	before, stored := uids(), s.stored(t)
	s.make(t, "down")
	if left := s.containers(t, ""); len(left) > 0 {
		t.Errorf("make down left %d containers", len(left))
	}
	if networks := s.run(t, "docker", "network", "ls", "-q", "--filter", "label=com.docker.compose.project="+s.project); networks != "" {
		t.Errorf("make down left the networks %s", networks)
	}
	s.make(t, "up")
	if after := uids(); after != before {
		t.Errorf("Jobs before %s\nafter %s", before, after)
	}
	if now := s.stored(t); now < stored {
		t.Errorf("NATS holds %d events, before %d", now, stored)
	}
	b := s.batch("after", "webhooks", 5)
	s.send(t, append(old.bodies, b.bodies...)...)
	b.check(t, endMost)
	all, _ := s.heard(t)
	for _, id := range old.ids {
		if len(all[id]) > 0 {
			t.Errorf("an id of before was taken anew: %v", all[id])
		}
	}
}

// stored is how many events NATS holds.
func (s *stack) stored(t *testing.T) (events int) {
	res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/jsz?streams=1", s.ports["NATS_MONITOR_PORT"]))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var js struct {
		Accounts []struct {
			Streams []struct {
				Name  string
				State struct{ Messages int }
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.NewDecoder(res.Body).Decode(&js); err != nil {
		t.Fatal(err)
	}
	for _, account := range js.Accounts {
		for _, stream := range account.Streams {
			if stream.Name == "EVENTS" {
				events = stream.State.Messages
			}
		}
	}
	if events == 0 {
		t.Fatalf("NATS has no events: %+v", js)
	}
	return events
}

// faults: each link is slow, and cut in the middle of jobs.
func (s *stack) faults(t *testing.T) {
	s.make(t, "up", "FAULTS=1")
	s.make(t, "kubeconfig") // its containers are new
	for _, link := range []string{"sqs", "nats", "kubernetes", "webhooks"} {
		t.Run(link, func(t *testing.T) {
			s.make(t, "fault-slow", "LINK="+link, "MS=100")
			b := s.batch("fault-"+link, "toxiproxy", 20)
			s.send(t, b.bodies...)
			if link != "sqs" {
				b.awaitCalls(t, 5)
			}
			s.make(t, "fault-cut", "LINK="+link)
			_, heard := s.heard(t)
			time.Sleep(3 * time.Second) // the length of the fault
			s.make(t, "fault-reset", "LINK="+link)
			whole := time.Now()
			repeats := b.check(t, endMost)
			t.Logf("%-10s complete %.1f s after the link was whole, %d repeats (%d calls at the cut)", link, time.Since(whole).Seconds(), repeats, heard)
		})
	}
	s.awaitHealth(t, healthyMost)
	s.make(t, "up")
	if left := s.containers(t, "toxiproxy"); len(left) > 0 {
		t.Error("toxiproxy stays after make up without FAULTS")
	}
}
