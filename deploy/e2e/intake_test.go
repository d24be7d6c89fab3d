//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
)

// TestIntakeAndLaunchUnderFire: a SIGKILL of an ingest or a launcher every 1.5 s
// while 1,000 messages and their duplicates arrive: one Job an id.
func TestIntakeAndLaunchUnderFire(t *testing.T) {
	n := seed(t)
	s := under(t, map[faults.Role]int{faults.Watcher: 1, faults.Notifier: 1})
	plan := faults.Plan{Seed: n, Every: 1500 * time.Millisecond, For: 60 * time.Second, Weights: map[faults.Role]int{faults.Ingest: 1, faults.Launcher: 1}}
	var sent faults.Sent
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() error { return s.Inject(ctx, plan) })
	group.Go(func() (err error) {
		sent, err = s.Send(ctx, faults.Load{Messages: 1000, Duplicates: 0.3, Over: 55 * time.Second, Seed: n})
		return err
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	r := settle(t, s, n, sent)
	if r.Kills[faults.Ingest] < 5 || r.Kills[faults.Launcher] < 5 {
		t.Errorf("the faults did not happen: %v", r.Kills)
	}
}

// TestWhatALaunchWaitsFor is a quota, a launch deadline, places and a pause, on
// one stack with a policy.
func TestWhatALaunchWaitsFor(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	err := os.WriteFile(policy, []byte("services: {hasty: {launchDeadline: 5s}, narrow: {maxActive: 3}}"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	d := startDev(t, filepath.Join(dir, "dev"), "JOBRELAY_POLICY_FILE="+policy)
	t.Run("a quota, while others go on", d.quota)
	t.Run("a quota past the launch deadline", d.quotaTooLong)
	t.Run("three places", d.places)
	t.Run("a pause", d.pause)
}

// limited makes a namespace with room for n Jobs.
func (d *dev) limited(t *testing.T, name string, n int) {
	t.Helper()
	if _, err := d.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	quotas := d.kube.CoreV1().ResourceQuotas(name)
	if _, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "jobs"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": *resource.NewQuantity(int64(n), resource.DecimalSI)}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d.eventually("the quota", time.Minute, func() bool {
		q, err := quotas.Get(t.Context(), "jobs", metav1.GetOptions{})
		_, account := d.kube.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil && account == nil && len(q.Status.Hard) > 0
	})
}

// in is a message for another namespace and service.
func in(namespace, service, m string) string {
	m = strings.Replace(m, `"namespace":"default"`, fmt.Sprintf(`"namespace":%q`, namespace), 1)
	return strings.Replace(m, `"service":"e2e"`, fmt.Sprintf(`"service":%q`, service), 1)
}

// live counts the Jobs of a namespace and service without their end.
func (d *dev) live(t *testing.T, namespace, service string) (n int, ended []batchv1.Job) {
	t.Helper()
	jobs, err := d.kube.BatchV1().Jobs(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + service})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs.Items {
		if j.Status.CompletionTime == nil {
			n++
		} else {
			ended = append(ended, j)
		}
	}
	return n, ended
}

// quota: 60 messages for a namespace with room for five Jobs all run in turn,
// where somebody removes what ended; another namespace is not delayed.
func (d *dev) quota(t *testing.T) {
	const n, room = 60, 5
	d.limited(t, "narrow-ns", room)
	r := newReceiver(t)
	var ids, messages []string
	for i := range n {
		ids = append(ids, fmt.Sprint("in turn ", i))
		messages = append(messages, in("narrow-ns", "turns", message(ids[i], "busybox", r.URL(), "")))
	}
	d.send(messages...)
	d.eventually("a full namespace", time.Minute, func() bool {
		live, ended := d.live(t, "narrow-ns", "turns")
		return live+len(ended) == room
	})
	begin := time.Now()
	d.send(message("not delayed", "busybox", r.URL(), ""))
	calls := r.await(d, time.Minute, "not delayed")
	t.Logf("with %d waiting, a message for another namespace had its end after %s", n-room, time.Since(begin).Round(10*time.Millisecond))
	ended := 0
	for _, id := range ids {
		if c := calls[id]; len(c) > 0 && c[len(c)-1].Status == 2 {
			ended++
		}
	}
	if ended > room {
		t.Errorf("%d of the %d had their end before it", ended, n)
	}
	d.eventually("all in turn", 3*time.Minute, func() bool {
		// That there are no more Jobs than the quota has room for is the API server's to
		// see to, and where its quota controller recounts from a cache that trails, there
		// is one more for a moment.
		_, ended := d.live(t, "narrow-ns", "turns")
		heard := heard(t, r.Calls())
		for _, j := range ended { // what the watcher has recorded: others wait for its room
			if c := heard[j.Annotations["jobrelay.dev/id"]]; len(c) == 3 {
				background := metav1.DeletePropagationBackground
				_ = d.kube.BatchV1().Jobs("narrow-ns").Delete(t.Context(), j.Name, metav1.DeleteOptions{PropagationPolicy: &background})
			}
		}
		return len(heard) == n+1 && !slices.ContainsFunc(ids, func(id string) bool { return len(heard[id]) < 3 })
	})
	t.Logf("all %d ran in turn in %s", n, time.Since(begin).Round(10*time.Millisecond))
	for id, c := range heard(t, r.Calls()) {
		if s, repeats := statuses(t, c); fmt.Sprint(s) != "[0 1 2]" || repeats != 0 {
			t.Errorf("%s: %v, %d repeats", id, s, repeats)
		}
	}
}

// quotaTooLong: what finds no room until its launch deadline ends with 99.
func (d *dev) quotaTooLong(t *testing.T) {
	const n, room = 12, 5
	d.limited(t, "hasty-ns", room)
	r := newReceiver(t)
	var ids, messages []string
	for i := range n {
		ids = append(ids, fmt.Sprint("hasty ", i))
		messages = append(messages, in("hasty-ns", "hasty", message(ids[i], "busybox", r.URL(), "")))
	}
	d.send(messages...)
	ran, refused := 0, 0
	for id, c := range r.await(d, time.Minute, ids...) {
		last := c[len(c)-1]
		switch s, _ := statuses(t, c); {
		case fmt.Sprint(s) == "[0 1 2]":
			ran++
		case fmt.Sprint(s) == "[99]" && last.Detail.Error.ErrorCode == "QUOTA_EXCEEDED":
			refused++
			if refused == 1 {
				t.Log(last.raw)
			}
		default:
			t.Errorf("%s: %v %s", id, s, last.raw)
		}
	}
	if ran != room || refused != n-room {
		t.Errorf("%d ran, %d were refused", ran, refused)
	}
}

// places: never more than three Jobs of the service are without their end.
func (d *dev) places(t *testing.T) {
	const n = 15
	r := newReceiver(t)
	var ids, messages []string
	for i := range n {
		ids = append(ids, fmt.Sprint("narrow ", i))
		messages = append(messages, in("default", "narrow", message(ids[i], "sim/succeed:1s", r.URL(), "")))
	}
	d.send(messages...)
	most := 0
	d.eventually("the end of all", 2*time.Minute, func() bool {
		live, ended := d.live(t, "default", "narrow")
		most = max(most, live)
		return len(ended) == n
	})
	if most != 3 {
		t.Errorf("at most %d at once, want 3", most)
	}
	for id, c := range r.await(d, time.Minute, ids...) {
		if s, repeats := statuses(t, c); fmt.Sprint(s) != "[0 1 2]" || repeats != 0 {
			t.Errorf("%s: %v, %d repeats", id, s, repeats)
		}
	}
}

// pause: what an operator paused waits, also over a restart, until it is resumed.
func (d *dev) pause(t *testing.T) {
	operator := func(args ...string) {
		t.Helper()
		if out, code := run(t.Context(), append(args, "--nats-url", d.NATS.URL), nil); code != 0 {
			t.Fatal(out)
		}
	}
	r := newReceiver(t)
	operator("pause", "halted")
	d.send(in("default", "halted", message("halted", "busybox", r.URL(), "")), message("goes on", "busybox", r.URL(), ""))
	calls := r.await(d, time.Minute, "goes on")
	if len(calls["halted"]) > 0 {
		t.Fatalf("%+v", calls["halted"])
	}
	operator("resume", "halted")
	begin := time.Now()
	r.await(d, time.Minute, "halted")
	t.Logf("ended %s after it was resumed", time.Since(begin).Round(10*time.Millisecond))
}

// TestPartsAway: NATS, then the API server, then SQS away for 30 s while messages
// arrive: nothing is lost, /readyz of who needs it tells, and what comes back is
// used again.
func TestPartsAway(t *testing.T) {
	var away atomic.Bool
	var endpoint atomic.Pointer[url.URL]
	proxy := &http.Server{ReadHeaderTimeout: time.Minute}
	front := httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(endpoint.Load()); r.Out.Host = r.In.Host }}
	proxy.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		front.ServeHTTP(w, r)
	})
	address := serve(t, proxy)
	none := map[faults.Role]int{}
	for _, role := range faults.Services() {
		none[role] = 0 // until the proxy knows where SQS is
	}
	s, err := faults.Start(t.Context(), faults.Config{Dir: t.TempDir(), Replicas: none, Env: []string{"AWS_ENDPOINT_URL_SQS=http://" + address}})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s)
	u, err := url.Parse(s.SQSEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	endpoint.Store(u)
	for _, role := range faults.Services() {
		if err := s.Scale(t.Context(), role, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	process := func(name string) (down, up func() error, back func() error) {
		p := s.Process(name)
		return p.Kill, p.Start, p.Ready
	}
	natsDown, natsUp, natsBack := process("nats-1")
	kubeDown, kubeUp, kubeBack := process("kubernetes-1")
	var all []faults.Sent
	for i, part := range []struct {
		name     string
		down, up func() error
		back     func() error
		needs    []faults.Role
	}{
		{"NATS", natsDown, natsUp, natsBack, faults.Services()},
		{"the API server", kubeDown, kubeUp, kubeBack, []faults.Role{faults.Launcher, faults.Watcher}},
		{"SQS, which answers 503,", func() error { away.Store(true); return nil }, func() error { away.Store(false); return nil }, func() error { return nil }, []faults.Role{faults.Ingest}},
	} {
		sent := make(chan faults.Sent, 1)
		group, ctx := errgroup.WithContext(t.Context())
		group.Go(func() error {
			out, err := s.Send(ctx, faults.Load{Name: fmt.Sprint("part-", i), Messages: 60, Duplicates: 0.2, Over: 35 * time.Second, Seed: uint64(i)})
			sent <- out
			return err
		})
		time.Sleep(3 * time.Second) // the load has begun
		if err := part.down(); err != nil {
			t.Fatal(err)
		}
		back := time.After(30 * time.Second)
		eventually(t, part.name+" away: /readyz of "+fmt.Sprint(part.needs), 25*time.Second, func() bool {
			for _, role := range part.needs {
				if s.Process(string(role)+"-1").Ready() == nil {
					return false
				}
			}
			return true
		})
		<-back
		if err := part.up(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the return of "+part.name, time.Minute, func() bool { return part.back() == nil })
		begin, heardBefore := time.Now(), len(s.Hooks.Calls())
		eventually(t, "a callback after the return of "+part.name, time.Minute, func() bool { return len(s.Hooks.Calls()) > heardBefore })
		first := time.Since(begin)
		eventually(t, "ready after the return of "+part.name, time.Minute, func() bool {
			for _, role := range faults.Services() {
				if s.Process(string(role)+"-1").Ready() != nil {
					return false
				}
			}
			return true
		})
		t.Logf("%s away for 30 s: first callback %s after its return, all ready after %s", part.name,
			first.Round(10*time.Millisecond), time.Since(begin).Round(10*time.Millisecond))
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		all = append(all, <-sent)
	}
	settle(t, s, 0, all...)
}
