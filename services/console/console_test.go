package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/net/html"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

func TestPagesOfAnEmptyLog(t *testing.T) {
	c := newLab(t).console()
	for path, want := range map[string]string{
		"/": "No job yet", "/jobs": "No job yet", "/refused": "No message was refused", "/undelivered": "Everything is delivered", "/codes": "OOM_KILLED",
		"/jobs?service=none": "Nothing fits", "/jobs?id=none": "Nothing fits",
	} {
		if p := c.get(path); p.status != http.StatusOK || !strings.Contains(p.body, want) {
			t.Errorf("%s: %d without %q:\n%s", path, p.status, want, p.body)
		}
	}
	for path, want := range map[string]int{
		"/nowhere": 404, "/jobs/" + event.Key("none"): 404, "/refused/" + event.Key("none") + "-0123456789abcdef": 404, "/jobs/..%2F..": 404, "/jobs/*": 404,
		"/jobs?before=x": 400, "/static/console.css": 404,
	} {
		if p := c.get(path); p.status != want {
			t.Errorf("%s: %d, wanted %d", path, p.status, want)
		}
	}
}

func TestAJobIsShown(t *testing.T) {
	l := newLab(t)
	end := jobFailed("p-1", "OOM_KILLED")
	end.Error.Message = "Container main took more memory than its limit."
	end.Times = &jobsv1.Times{CreatedAt: timestamppb.Now(), RunSeconds: 4}
	end.Evidence = &jobsv1.Evidence{PodName: "p-1-x", NodeName: "node-1", Container: "main", ExitCode: 137, Reason: "OOMKilled", TerminationMessage: "out of memory"}
	key := l.life("order-4711", "billing", jobStarted("p-1"), podStarted("p-1"), end)
	attempt := delivery.Attempt{At: time.Now().UTC(), Class: delivery.Unwell, Code: 503, Milliseconds: 7}
	if _, err := l.SwapLedger(t.Context(), key, broker.LedgerEntry{}, delivery.Ledger{Next: 1, Done: map[int]delivery.Done{
		0: {At: attempt.At, Attempts: []delivery.Attempt{attempt, {At: attempt.At.Add(time.Second), Class: delivery.Delivered, Code: 204}}, Code: 204},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := l.PutLetter(t.Context(), delivery.Letter{
		LogKey: key, N: 2, Status: 3, ID: "order-4711", Service: "billing", URL: "https://h.example/secret", Endpoint: "https://h.example", Body: []byte(`{"secret":1}`),
		Reason: delivery.ReasonGone, At: time.Now(), Attempts: []delivery.Attempt{{At: time.Now(), Class: delivery.Gone, Code: 410}},
	}); err != nil {
		t.Fatal(err)
	}
	c := l.console()
	p := c.shows("/jobs/"+key, `data-lane="Callback 0"`)
	for _, want := range []string{
		"order-4711", "OOM_KILLED", "took more memory than its limit", "Raise job.resources.limits.memory", "/codes#OOM_KILLED", "out of memory", "137", "node-1",
		`data-lane="Job"`, `data-mark="failed"`, `data-mark="gave-up"`, "delivered, attempt 2", "&#34;jobName&#34;: &#34;p-1&#34;", "https://h.example",
	} {
		if !strings.Contains(p.body, want) {
			t.Errorf("the job's page has no %q", want)
		}
	}
	for _, path := range []string{"/jobs/" + key, "/undelivered", "/undelivered?endpoint=https%3A%2F%2Fh.example", "/"} {
		if p := c.get(path); strings.Contains(p.body, "secret") {
			t.Errorf("%s has the webhook's address or body", path)
		}
	}
	if p := c.get("/undelivered?endpoint=https%3A%2F%2Fh.example"); !strings.Contains(p.body, "410") || !strings.Contains(p.body, "order-4711") {
		t.Errorf("the letter is not there:\n%s", p.body)
	}
	if p := c.get("/jobs/" + key + "?fragment=1"); strings.Contains(p.body, "<html") || !strings.HasPrefix(p.body, `<div id="live"`) {
		t.Errorf("the fragment is more than a part:\n%.200s", p.body)
	}
}

func TestALaunchThatIsParkedIsShown(t *testing.T) {
	l := newLab(t)
	key := event.Key("waits")
	if err := l.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeLaunch, Token: key, Payload: []byte(`{"key":"` + key + `","tries":3,"cause":"QUOTA_EXCEEDED"}`)}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	c := l.console()
	if p := c.get("/"); !strings.Contains(p.body, "1: QUOTA_EXCEEDED") {
		t.Errorf("Now does not say what launches wait for:\n%s", p.body)
	}
	if p := c.get("/jobs?id=waits"); p.status != http.StatusSeeOther || p.header.Get("Location") != "/jobs/"+key {
		t.Errorf("its id is not found: %d %v", p.status, p.header)
	}
	if p := c.get("/jobs/" + key); !strings.Contains(p.body, "its launch, try 4: QUOTA_EXCEEDED") {
		t.Errorf("%s", p.body)
	}
}

// hostile is text of a producer that would be run, were it not escaped.
const hostile = `"'><img src=x onerror=alert(1)><script>alert(1)</script>{{.}}</title></textarea></svg>`

// TestNothingOfAProducerRuns puts hostile text into every field that a producer, a
// receiver or a workload controls, and looks for what it became on every page.
func TestNothingOfAProducerRuns(t *testing.T) {
	l := newLab(t)
	h := hostile
	end := &jobsv1.JobFailed{
		JobId: h, JobName: h, Namespace: h, Error: &jobsv1.Error{ErrorCode: h, Message: h},
		Evidence: &jobsv1.Evidence{PodId: h, PodName: h, NodeName: h, Container: h, Reason: h, TerminationMessage: h, LogTail: h},
	}
	key := l.life("id"+h, "s", &jobsv1.JobStarted{JobId: h, JobName: h, Namespace: h, Service: h, Image: h, QueueMilliseconds: 1}, &jobsv1.PodStarted{JobId: h, JobName: h, Namespace: h, PodName: h, NodeName: h}, end)
	body := []byte(h)
	rejected := event.RejectedLogKey("bad"+h, body)
	if err := l.Refuse(t.Context(), broker.Refusal{
		Rejection: broker.Rejection{LogKey: rejected, Body: body, ID: "bad" + h, Service: "s", Webhook: &jobsv1.Webhook{Url: "https://h.example/" + h}, Problems: []*jobsv1.Problem{{Path: h, Code: h, Message: h}}},
		Code:      h, Message: h, Source: event.SourceOfQueue("default", "jobs"), Trace: h, Callback: true, At: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.PutLetter(t.Context(), delivery.Letter{LogKey: key, N: 2, ID: "id" + h, Service: "s", Status: 3, Endpoint: h, Reason: h, At: time.Now(), Attempts: []delivery.Attempt{{Class: delivery.Class(h)}}}); err != nil {
		t.Fatal(err)
	}
	parked, err := json.Marshal(delivery.Wakeup{Key: key, N: 0, Endpoint: h, First: time.Now(), Attempts: []delivery.Attempt{{Class: delivery.Class(h)}}})
	if err != nil {
		t.Fatal(err)
	}
	launch, err := json.Marshal(broker.ParkedLaunch{Key: "k", Cause: h})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []broker.Wakeup{{Purpose: broker.PurposeCallback, Token: key + ".0", Payload: parked}, {Purpose: broker.PurposeLaunch, Token: "k", Payload: launch}} {
		if err := l.Schedule(t.Context(), w, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Report(t.Context(), broker.Status{Role: "notifier", Instance: "one", Version: h, Checks: map[string]string{h: h}, Endpoints: []broker.Endpoint{{Name: h, Breaker: h, Cause: h, Since: time.Now()}}}); err != nil {
		t.Fatal(err)
	}
	c := l.console("--allow-actions")
	c.shows("/jobs", "&lt;script&gt;")
	q := url.QueryEscape(h)
	for _, path := range []string{
		"/", "/jobs", "/jobs/" + key, "/refused", "/refused/" + rejected, "/jobs/" + rejected, "/undelivered", "/undelivered?endpoint=" + q,
		"/jobs?id=" + q + "&service=" + q + "&code=" + q + "&namespace=" + q + "&state=" + q, "/jobs?id=" + q,
	} {
		for _, fragment := range []bool{false, true} {
			at := path
			if fragment {
				at += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + "fragment=1"
			}
			p := c.get(at)
			unfit := fragment && strings.Contains(path, "&service=") // what is asked for is in the form, and nothing fits
			if p.status != http.StatusOK || !unfit && !strings.Contains(p.body, "&lt;img src=x onerror=alert(1)&gt;") {
				t.Errorf("%s: %d, and the text is not shown as text", at, p.status)
			}
			runsNothing(t, at, p.body, !fragment)
		}
	}
}

// runsNothing reports what in a page would run, or load something.
func runsNothing(t *testing.T, path, body string, whole bool) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	scripts := 0
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			switch n.Data {
			case "script":
				scripts++
				if n.FirstChild != nil {
					t.Errorf("%s has a script in it: %s", path, n.FirstChild.Data)
				}
			case "img", "iframe", "object", "embed", "style", "base", "foreignobject", "use", "image":
				t.Errorf("%s has an element %s", path, n.Data)
			}
			for _, a := range n.Attr {
				if strings.HasPrefix(strings.ToLower(a.Key), "on") || a.Key == "style" || strings.Contains(strings.ToLower(a.Val), "javascript:") {
					t.Errorf("%s: <%s %s=%q>", path, n.Data, a.Key, a.Val)
				}
				if (a.Key == "href" || a.Key == "src" || a.Key == "action") && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") {
					t.Errorf("%s leads elsewhere: <%s %s=%q>", path, n.Data, a.Key, a.Val)
				}
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(doc)
	if want := map[bool]int{true: 1, false: 0}[whole]; scripts != want {
		t.Errorf("%s has %d scripts, wanted %d", path, scripts, want)
	}
}

func TestHeaders(t *testing.T) {
	c := newLab(t).console()
	for _, path := range []string{"/", "/nowhere", "/live?page=job&key=*", "/static/" + assets["console.js"].name} {
		p := c.get(path)
		csp := p.header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || p.header.Get("X-Content-Type-Options") != "nosniff" || p.header.Get("Referrer-Policy") != "same-origin" ||
			p.header.Get("Cross-Origin-Opener-Policy") != "same-origin" {
			t.Errorf("%s: %v", path, p.header)
		}
		cache := "no-store"
		if strings.HasPrefix(path, "/static") {
			cache = "public, max-age=31536000, immutable"
		}
		if p.header.Get("Cache-Control") != cache {
			t.Errorf("%s: Cache-Control %q", path, p.header.Get("Cache-Control"))
		}
	}
}

// message is one server-sent event.
type message struct{ id, event, data string }

// listen is a browser on /live.
func (r *running) listen(ctx context.Context, query, lastID string) <-chan message {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/live?"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	answer, err := http.DefaultClient.Do(req) //nolint:bodyclose // the goroutine below does
	if err != nil {
		r.t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		r.t.Fatalf("%d %v", answer.StatusCode, answer.Header)
	}
	out := make(chan message, 100)
	go func() {
		defer answer.Body.Close()
		defer close(out)
		var m message
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				m.id = value
			case "event":
				m.event = value
			case "data":
				m.data = value
			case "":
				if m.event != "" {
					out <- m
				}
				m = message{}
			}
		}
	}()
	return out
}

// about waits for a change of the log key.
func about(t *testing.T, from <-chan message, key string) message {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case m, ok := <-from:
			if !ok {
				t.Fatal("the connection ended")
			}
			if m.event == "reload" {
				t.Fatal("it is to load the page anew")
			}
			if m.event == "changed" && strings.Contains(m.data, key) {
				return m
			}
		case <-late:
			t.Fatalf("nothing was said of %s", key)
		}
	}
}

func TestABrokenConnectionMissesNothing(t *testing.T) {
	l := newLab(t)
	l.life("before", "s", jobStarted("p"))
	c := l.console()
	place := regexp.MustCompile(`data-seq="(\d+)"`).FindStringSubmatch(c.get("/jobs").body)[1]
	ctx, cancel := context.WithCancel(t.Context())
	first := c.listen(ctx, "page=jobs&after="+place, "")
	one := l.life("one", "s", jobStarted("p"))
	last := about(t, first, one)
	cancel()
	two := l.life("two", "s", jobStarted("p"))
	c.shows("/jobs", two)
	// It comes back with what it heard last, and hears of two, and not of one again.
	again := about(t, c.listen(t.Context(), "page=jobs&after="+place, last.id), two)
	if strings.Contains(again.data, one) {
		t.Errorf("%s was told of again: %s", one, again.data)
	}
	// What is longer ago than is remembered is to be loaded anew.
	if m := <-c.listen(t.Context(), "page=jobs", "0"); m.event != "reload" || m.id == "" {
		t.Errorf("%+v", m)
	}
	// A page with a filter hears of what fits alone.
	filtered := c.listen(t.Context(), "page=jobs&service=other&after="+again.id, "")
	l.life("three", "s", jobStarted("p"))
	four := l.life("four", "other", jobStarted("p"))
	if m := about(t, filtered, four); !strings.Contains(m.data, `"n":1`) {
		t.Errorf("%s", m.data)
	}
}

func TestAJobsPageHearsOfItsCallbacks(t *testing.T) {
	l := newLab(t)
	key := l.life("id", "s", jobStarted("p"))
	c := l.console()
	moves := regexp.MustCompile(`data-moves="(\d+)"`).FindStringSubmatch(c.get("/jobs/" + key).body)[1]
	l.life("other", "s", jobStarted("p"))
	if _, err := l.SwapLedger(t.Context(), key, broker.LedgerEntry{}, delivery.Ledger{Next: 1}); err != nil {
		t.Fatal(err)
	}
	// Of what came between the page and its connection it hears, too.
	heard := c.listen(t.Context(), "page=job&key="+key+"&after=1&moves="+moves, "")
	if m := about(t, heard, key); strings.Contains(m.data, event.Key("other")) {
		t.Errorf("%s", m.data)
	}
}

// TestASlowBrowserHoldsNobodyUp: one reads nothing at all; the others hear at once, and
// it is cut off, or fills no more than its connection.
func TestASlowBrowserHoldsNobodyUp(t *testing.T) {
	l := newLab(t)
	l.life("first", "s", jobStarted("p"))
	c := l.console()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+"/live?page=jobs&after=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	quick := c.listen(t.Context(), "page=jobs&after=1", "")
	for i := range 8 {
		about(t, quick, l.life(fmt.Sprint("job-", i), "s", jobStarted("p")))
	}
}

func TestTooManyBrowsersAreTurnedAway(t *testing.T) {
	c := newLab(t).console()
	ctx, cancel := context.WithCancel(t.Context())
	for range maxLive {
		c.listen(ctx, "page=now", "")
	}
	if p := c.get("/live?page=now"); p.status != http.StatusServiceUnavailable || p.header.Get("Retry-After") == "" {
		t.Errorf("%d %v", p.status, p.header)
	}
	cancel()
	await.That(t, "there is room again", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/live?page=now", nil)
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// TestNATSGoesAwayAndComesBack: what was read is shown, with since when; then it goes
// on where it was.
func TestNATSGoesAwayAndComesBack(t *testing.T) {
	l := newLab(t)
	one := l.life("one", "s", jobStarted("p"))
	c := l.console()
	l.nats.Stop()
	p := c.shows("/jobs", "NATS has not answered since")
	if !strings.Contains(p.body, one) {
		t.Error("what was read is not shown any more")
	}
	if p := c.get("/jobs/" + one); p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, "could not be read from NATS just now") {
		t.Errorf("%d", p.status)
	}
	if p := c.get("/"); p.status != http.StatusOK || !strings.Contains(p.body, "could not be read just now") {
		t.Errorf("%d", p.status)
	}
	l.up()
	await.That(t, "the writer is back", l.Connected)
	two := l.life("two", "s", jobStarted("p"))
	p = c.shows("/jobs", two)
	if strings.Contains(p.body, "NATS has not answered") || !strings.Contains(p.body, one) {
		t.Errorf("%s", p.body)
	}
}

func TestOlderJobsAreReadFromTheLog(t *testing.T) {
	l := newLab(t)
	const all = 3100 // the index holds 1000, and is filled with the last 3000 events
	var writing sync.WaitGroup
	for part := range 16 {
		writing.Go(func() {
			for i := part; i < all; i += 16 {
				l.life(fmt.Sprintf("job-%04d", i), "s", jobStarted("p"))
			}
		})
	}
	writing.Wait()
	l.life("job-0001", "s", podStarted("p")) // its first event is old, its last is the newest
	c := l.console("--index-jobs=1000")
	seen := map[string]int{}
	older := 0
	rows := regexp.MustCompile(`(?s)<tr data-log-key="([^"]+)"`)
	next := regexp.MustCompile(`id="next" href="([^"]+)"`)
	for path := "/jobs"; path != ""; {
		p := c.get(path)
		if p.status != http.StatusOK {
			t.Fatalf("%s: %d", path, p.status)
		}
		if strings.Contains(p.body, "Older ones, read from the log") {
			older++
		}
		for _, m := range rows.FindAllStringSubmatch(p.body, -1) {
			seen[m[1]]++
		}
		path = ""
		if m := next.FindStringSubmatch(p.body); m != nil {
			path = html.UnescapeString(m[1])
		}
	}
	for i := range all {
		if id := fmt.Sprintf("job-%04d", i); seen[event.Key(id)] != 1 {
			t.Errorf("%s was on %d pages", id, seen[event.Key(id)])
		}
	}
	if older < 2 {
		t.Errorf("%d pages were read from the log", older)
	}
}

func TestOnALoopbackOnlyItsNamesAreAnswered(t *testing.T) {
	c := newLab(t).console("--host=console.example")
	for host, want := range map[string]int{
		"localhost:1": 200, "127.0.0.1": 200, "[::1]:8090": 200, "Console.Example.": 200, "attacker.example": 421, "127.0.0.1.attacker.example:8090": 421, "": 200,
	} {
		header := http.Header{}
		if host != "" {
			header.Set("Host", host)
		}
		if p := c.ask("GET", "/jobs", header, ""); p.status != want {
			t.Errorf("%q: %d, wanted %d", host, p.status, want)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		want  string // empty: they are good
		flags []string
	}{
		{"", nil},
		{"", []string{"--listen=[::1]:8090"}},
		{"", []string{"--listen=:8090", "--unauthenticated"}},
		{"", []string{"--listen=0.0.0.0:8090", "--users-file=f"}},
		{"", []string{"--listen=10.0.0.1:8090", "--user-header=X-Forwarded-User", "--trusted-proxies=10.0.0.0/8"}},
		{"lets everybody look", []string{"--listen=:8090"}},
		{"lets everybody look", []string{"--listen=0.0.0.0:8090", "--allow-actions"}},
		{"HOST:PORT", []string{"--listen=here"}},
		{"go together", []string{"--user-header=X-User"}},
		{"go together", []string{"--trusted-proxies=10.0.0.0/8"}},
		{"take one", []string{"--users-file=f", "--user-header=X-User", "--trusted-proxies=10.0.0.0/8"}},
		{"leave one", []string{"--unauthenticated", "--users-file=f"}},
		{"1000 to 1000000", []string{"--index-jobs=1"}},
	} {
		var cfg Config
		err := processParse(&cfg, c.flags...) // asks Validate
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v", c.flags, err)
		}
	}
}

// usersFile has ada, whose password is a long word, and bob.
func usersFile(t *testing.T, names ...string) string {
	t.Helper()
	var text strings.Builder
	for _, name := range names {
		hash, err := bcrypt.GenerateFromPassword([]byte("password of "+name), leastCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s:%s\n", name, hash)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func basic(name, password string) http.Header {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(name, password)
	return r.Header
}

func TestPasswords(t *testing.T) {
	file := usersFile(t, "ada")
	c := newLab(t).console("--users-file=" + file)
	if p := c.get("/"); p.status != http.StatusUnauthorized || !strings.HasPrefix(p.header.Get("WWW-Authenticate"), "Basic ") || strings.Contains(p.body, "Jobs by state") {
		t.Errorf("without a name: %d %v", p.status, p.header)
	}
	for _, path := range []string{"/jobs", "/live?page=now", "/static/" + assets["console.js"].name, "/nowhere"} {
		if p := c.get(path); p.status != http.StatusUnauthorized {
			t.Errorf("%s without a name: %d", path, p.status)
		}
	}
	if p := c.ask("GET", "/", basic("ada", "password of ada"), ""); p.status != http.StatusOK || !strings.Contains(p.body, "You are ada") {
		t.Errorf("with the right password: %d", p.status)
	}
	if p := c.ask("GET", "/", basic("ada", "wrong"), ""); p.status != http.StatusUnauthorized {
		t.Errorf("with a wrong password: %d", p.status)
	}
	if p := c.ask("GET", "/", basic("nobody", "wrong"), ""); p.status != http.StatusUnauthorized {
		t.Errorf("an unknown name: %d", p.status)
	}
	if strings.Contains(c.said.String(), "wrong") || strings.Contains(c.said.String(), "password of") {
		t.Error("a password is in the log")
	}
	// A name that is taken out of the file is not let in any more.
	other, err := os.ReadFile(usersFile(t, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, other, 0o600); err != nil {
		t.Fatal(err)
	}
	await.That(t, "bob is let in", func() bool { return c.ask("GET", "/", basic("bob", "password of bob"), "").status == http.StatusOK })
	if p := c.ask("GET", "/", basic("ada", "password of ada"), ""); p.status != http.StatusUnauthorized {
		t.Errorf("ada is let in still: %d", p.status)
	}
}

func TestTriesAreBounded(t *testing.T) {
	f, err := openUsers(usersFile(t, "ada", "bob"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	p, at := newPasswords(f), start
	p.now = func() time.Time { return at }
	expect := func(what, name, password, want string) {
		t.Helper()
		if got := p.check(name, password); got != want {
			t.Errorf("%s: %s, wanted %s", what, got, want)
		}
	}
	expect("ada", "ada", "password of ada", loginTaken)
	for range triesBurst - 1 {
		expect("a wrong password", "ada", "wrong", loginRefused)
	}
	expect("one too many", "ada", "wrong", loginSlowed)
	expect("who was let in is not held up", "ada", "password of ada", loginTaken)
	expect("nor is another", "bob", "password of bob", loginTaken)
	for i := range triesBurst { // all names that are nobody's are one
		expect("nobody", fmt.Sprint("nobody", i), "wrong", loginRefused)
	}
	expect("nobody at all", "somebody", "wrong", loginSlowed)
	at = at.Add(triesEvery)
	expect("a moment later", "ada", "wrong", loginRefused)
	expect("and no more", "ada", "wrong", loginSlowed)
	at = at.Add(believed)
	expect("what was right long ago is computed again", "ada", "password of ada", loginTaken)
}

func TestUsersFiles(t *testing.T) {
	for text, want := range map[string]string{
		"": "nobody", "ada": "line 1", "ada:secret": "line 1", "# c\n\nada:$apr1$x$y": "line 3",
		"a:$2y$05$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK": "cost of 5",
	} {
		if _, err := parseUsers([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAProxySaysWhoAsks(t *testing.T) {
	l := newLab(t)
	c := l.console("--user-header=X-Forwarded-User", "--trusted-proxies=127.0.0.0/8")
	if p := c.ask("GET", "/", http.Header{"X-Forwarded-User": {"ada@example"}}, ""); p.status != http.StatusOK || !strings.Contains(p.body, "You are ada@example") {
		t.Errorf("through the proxy: %d", p.status)
	}
	for name, header := range map[string]http.Header{"no user": {}, "an empty one": {"X-Forwarded-User": {""}}, "two of them": {"X-Forwarded-User": {"ada", "bob"}}, "a basic login": basic("ada", "x")} {
		if p := c.ask("GET", "/", header, ""); p.status != http.StatusForbidden {
			t.Errorf("%s: %d", name, p.status)
		}
	}
	elsewhere := l.console("--user-header=X-Forwarded-User", "--trusted-proxies=10.0.0.0/8")
	if p := elsewhere.ask("GET", "/", http.Header{"X-Forwarded-User": {"ada"}}, ""); p.status != http.StatusForbidden {
		t.Errorf("past the proxy: %d", p.status)
	}
}

var tokenInput = regexp.MustCompile(`name="token" value="([^"]+)"`)

// form is what a browser sends of a page's form: its token, and the cookie.
func (r *running) form(path string, login http.Header) (token string, header http.Header) {
	r.t.Helper()
	p := r.ask("GET", path, login, "")
	m := tokenInput.FindStringSubmatch(p.body)
	if m == nil {
		r.t.Fatalf("%s has no form: %d\n%s", path, p.status, p.body)
	}
	header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Sec-Fetch-Site": {"same-origin"}}
	for name, values := range login {
		header[name] = values
	}
	cookie, _, _ := strings.Cut(p.header.Get("Set-Cookie"), ";")
	header.Set("Cookie", cookie)
	return m[1], header
}

func TestActions(t *testing.T) {
	l := newLab(t)
	key := l.life("order-1", "s", jobStarted("p"))
	letter := delivery.Letter{LogKey: key, N: 0, ID: "order-1", Service: "s", Status: 0, URL: "http://h.example/x", Endpoint: "http://h.example", Reason: delivery.ReasonGone, At: time.Now().UTC()}
	if err := l.PutLetter(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
	c := l.console("--allow-actions", "--users-file="+usersFile(t, "ada", "bob"))
	ada := basic("ada", "password of ada")
	token, header := c.form("/jobs/"+key, ada)
	body := url.Values{"token": {token}, "reason": {"maintenance"}}.Encode()
	path := "/jobs/" + key + "/cancel"
	without := func(name string) http.Header {
		h := header.Clone()
		h.Del(name)
		return h
	}
	with := func(name, value string) http.Header {
		h := header.Clone()
		h.Set(name, value)
		return h
	}
	for name, try := range map[string]struct {
		header http.Header
		body   string
	}{
		"without a token":     {header, "reason=maintenance"},
		"with another token":  {header, url.Values{"token": {token[1:] + "x"}}.Encode()},
		"without the cookie":  {without("Cookie"), body},
		"with another cookie": {with("Cookie", sessionCookie+"="+strings.Repeat("A", 43)), body},
		"from another site":   {with("Sec-Fetch-Site", "cross-site"), body},
		"of another origin":   {with("Origin", "http://attacker.example"), body},
		"by another user":     {with("Authorization", basic("bob", "password of bob").Get("Authorization")), body},
	} {
		if name == "of another origin" {
			try.header.Del("Sec-Fetch-Site")
		}
		if p := c.ask("POST", path, try.header, try.body); p.status != http.StatusForbidden {
			t.Errorf("%s: %d", name, p.status)
		}
	}
	if p := c.ask("POST", path, without("Authorization"), body); p.status != http.StatusUnauthorized {
		t.Errorf("without a name: %d", p.status)
	}
	if p := c.ask("POST", path, header, url.Values{"token": {token}, "reason": {strings.Repeat("x", 300)}}.Encode()); p.status != http.StatusBadRequest {
		t.Errorf("a long reason: %d", p.status)
	}
	none := "/jobs/" + event.Key("none") + "/cancel"
	if p := c.ask("POST", none, header, body); p.status != http.StatusNotFound {
		t.Errorf("of a job that is not there: %d", p.status)
	}
	commands := func() (out []broker.Cancel) {
		stream, err := l.JetStream().Stream(t.Context(), broker.StreamCommands)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := stream.GetLastMsgForSubject(t.Context(), "commands.cancel."+key); err == nil {
			var command broker.Cancel
			if err := json.Unmarshal(m.Data, &command); err != nil {
				t.Fatal(err)
			}
			out = append(out, command)
		}
		return out
	}
	if got := commands(); len(got) > 0 {
		t.Fatalf("one of those was done: %+v", got)
	}
	p := c.ask("POST", path, header, body)
	if p.status != http.StatusSeeOther || p.header.Get("Location") != "/jobs/"+key+"?done=cancel" {
		t.Fatalf("%d %v\n%s", p.status, p.header, p.body)
	}
	if got := commands(); len(got) != 1 || got[0].ID != "order-1" || got[0].By != "ada" || got[0].Reason != "maintenance" {
		t.Errorf("%+v", got)
	}
	if p := c.ask("GET", "/jobs/"+key+"?done=cancel", ada, ""); !strings.Contains(p.body, "The cancel was asked for") || !strings.Contains(p.body, "a watcher to cancel it: maintenance") {
		t.Errorf("%s", p.body)
	}

	// A replay, of the job and of the endpoint, is one run, with who started it.
	for path, form := range map[string]url.Values{"/jobs/" + key + "/replay": {}, "/undelivered/replay": {"endpoint": {"http://h.example"}}} {
		form.Set("token", token)
		if p := c.ask("POST", path, header, form.Encode()); p.status != http.StatusSeeOther {
			t.Errorf("%s: %d\n%s", path, p.status, p.body)
		}
	}
	run := delivery.NewRun([]delivery.Letter{letter})
	stream, err := l.JetStream().Stream(t.Context(), broker.StreamWakeups)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), "wakeups.callback."+key+"."+run.ID+".0")
	if err != nil || !strings.Contains(string(m.Data), `"by":"ada"`) {
		t.Errorf("%v %+v", err, m)
	}
	if info := stream.CachedInfo(); info.State.Msgs != 1 {
		t.Errorf("%d tokens of one replay", info.State.Msgs)
	}
	if said := c.said.String(); strings.Count(said, "an action was done") != 3 || !strings.Contains(said, `"by":"ada"`) {
		t.Errorf("%s", said)
	}
	// A job that has its end keeps it.
	l.life("order-1", "s", podStarted("p"), jobCompleted("p"))
	if p := c.ask("POST", path, header, body); p.status != http.StatusConflict {
		t.Errorf("of a job that ended: %d", p.status)
	}
}

func TestWithoutTheFlagNothingIsDone(t *testing.T) {
	l := newLab(t)
	key := l.life("order-1", "s", jobStarted("p"))
	c := l.console()
	for _, path := range []string{"/jobs/" + key + "/cancel", "/jobs/" + key + "/replay", "/undelivered/replay", "/jobs"} {
		if p := c.ask("POST", path, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, "reason=x"); p.status != http.StatusForbidden {
			t.Errorf("%s: %d", path, p.status)
		}
	}
	if p := c.get("/jobs/" + key); strings.Contains(p.body, "<form id=\"cancel\"") || p.header.Get("Set-Cookie") != "" {
		t.Error("the page has a form, or a cookie, that it has no use for")
	}
}

func TestReplicasShareTheirKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(strings.Repeat("k", leastKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := newTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	own, err := newTokens("")
	if err != nil {
		t.Fatal(err)
	}
	if one.of("ada", "s") != two.of("ada", "s") || one.of("ada", "s") == own.of("ada", "s") || one.of("ad", "as") == one.of("ada", "s") {
		t.Error("tokens are not what they are made of")
	}
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newTokens(file); err == nil {
		t.Error("a short key is taken")
	}
}

func TestLettersByLog(t *testing.T) {
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	all := []Letter{
		{LogKey: "b", N: 1, Endpoint: "x", At: at(2)}, {LogKey: "b", N: 0, Endpoint: "x", At: at(1)}, {LogKey: "a", N: 0, Endpoint: "x", At: at(3)},
		{LogKey: "c", N: 0, Endpoint: "y", At: at(0)}, {LogKey: "d", N: 0, Endpoint: "x", At: at(0), Replayed: &delivery.Replayed{}},
		{LogKey: "a", N: 2, Endpoint: "y", At: at(4)},
	}
	var got []string
	for _, log := range lettersByLog(all, "x") {
		for _, l := range log {
			got = append(got, fmt.Sprint(l.LogKey, l.N))
		}
	}
	if want := []string{"b0", "b1", "a0", "a2"}; !slices.Equal(got, want) {
		t.Errorf("%v, wanted %v", got, want)
	}
}
