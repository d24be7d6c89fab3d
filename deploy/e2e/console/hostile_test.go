//go:build browser

package console

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// evil is a text that runs in a page which writes it anywhere unescaped: as an
// element, in an attribute of either quotes, in a script, in a template. It is told
// which field it was in.
func evil(field string) string {
	return fmt.Sprintf(`"'><img src=x onerror="__xss('%[1]s')"><svg/onload=__xss('%[1]s')></textarea></title></script><script>__xss('%[1]s')</script>{{.}}${alert(1)}`, field)
}

// evilToken is evil for what is one token of a subject: it has no space and no dot.
func evilToken(field string) string {
	return fmt.Sprintf(`"'><img/src=x/onerror=__xss('%[1]s')><svg/onload=__xss('%[1]s')>`, field)
}

// evilAddress is an address that runs where it is followed.
func evilAddress(field string) string {
	return fmt.Sprintf(`javascript:__xss('%s')//"'><img/src=x/onerror=__xss(2)>`, field)
}

// hostile is a job of which every text is evil, from its producer's to the cluster's
// and the receivers', and what else of that kind there is.
type hostile struct {
	failed, running *job
	refused         string // log key
	parked          string // key of a parked launch
}

func (w *writer) hostile() *hostile {
	w.t.Helper()
	h := &hostile{}
	now := time.Now()
	one := func(id string, ago time.Duration) *job {
		return w.accept(job{w: w, id: id, service: evilToken("service"), namespace: evil("namespace"), image: evil("image"), prefix: "evil", endpoint: evilAddress("endpoint"), queued: now.Add(-ago)}, &jobsv1.JobRequested{
			Job: &jobsv1.Job{
				PrefixName: evil("prefixName"), Namespace: evil("namespace"), Image: evil("image"), Command: []string{evil("command")}, Args: []string{evil("argument")},
				Env: []*jobsv1.EnvVar{{Name: evil("env name"), Value: evil("env value")}}, ServiceAccount: evil("serviceAccount"),
			},
			Webhook: &jobsv1.Webhook{Url: "https://hooks.shop.example/" + evil("path") + "?q=" + evil("query"), Statuses: []int32{0, 1, 2, 3, 99}},
			Unknown: []*jobsv1.UnknownField{{Path: evil("unknown"), Json: evil("unknown")}},
		})
	}
	sec := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	start := func(j *job) {
		j.append(sec(1), &jobsv1.JobStarted{
			JobId: evil("jobId"), JobName: evil("jobName"), Namespace: evil("namespace"), Service: evil("service"), Image: evil("image"),
			Resources: &jobsv1.Resources{Limits: &jobsv1.Quantities{Cpu: evil("cpu"), Memory: evil("memory")}, Requests: &jobsv1.Quantities{Cpu: evil("cpu request"), Memory: evil("memory request")}},
		})
		j.append(sec(2), &jobsv1.PodStarted{JobId: evil("jobId"), JobName: evil("jobName"), Namespace: evil("namespace"), PodId: evil("podId"), PodName: evil("podName"), NodeName: evil("nodeName")})
	}
	h.failed = one(evil("id"), 3*time.Minute)
	start(h.failed)
	h.failed.append(sec(30), &jobsv1.JobFailed{
		JobId: evil("jobId"), JobName: evil("jobName"), Namespace: evil("namespace"), Error: &jobsv1.Error{ErrorCode: evil("code"), Message: evil("message")},
		Times: h.failed.times(sec(1), sec(2), sec(30)),
		Evidence: &jobsv1.Evidence{
			PodId: evil("podId"), PodName: evil("evidence pod"), NodeName: evil("evidence node"), Container: evil("container"), Reason: evil("reason"),
			TerminationMessage: evil("terminationMessage"), LogTail: "first line\n" + evil("logTail") + "\nlast line", ExitCode: 3,
		},
	})
	h.failed.delivered(h.failed.attempt(sec(1.1), 204, sec(0.1)))
	// A replay that waits, a letter, and a callback that is parked.
	given := delivery.Done{At: now.Add(-time.Minute), Reason: evil("letter reason"), Code: 500, Attempts: []delivery.Attempt{{At: now.Add(-time.Minute), Class: delivery.Class(evil("class")), Code: 500, Milliseconds: 3}}}
	l := h.failed.letter(1, event.TypePodStarted, given)
	l.URL, l.WebhookID, l.Body, l.Trace = evilAddress("letter address"), evil("webhookId"), []byte(evil("letter body")), evil("trace")
	w.must(w.PutLetter(w.t.Context(), l))
	h.failed.advance(given)
	wake := delivery.Wakeup{Key: h.failed.key(), Sequence: h.failed.tail.Sequence, N: 2, First: now, Attempts: given.Attempts, Endpoint: evilAddress("parked endpoint")}
	w.schedule(broker.PurposeCallback, wake.Token(), wake, now.Add(time.Hour))

	h.running = one(evil("running id"), time.Minute)
	start(h.running)

	body := `{"id":` + quote(evil("refused id")) + `,"service":` + quote(evil("refused service")) + `,"job":{"env":[{"name":"A","value":` + quote(evil("refused env")) + `}]}}` + "\n" + evil("refused body")
	h.refused = event.RejectedLogKey(evil("refused id"), []byte(body))
	w.must(w.Refuse(w.t.Context(), broker.Refusal{
		Rejection: broker.Rejection{
			LogKey: h.refused, Body: []byte(body), ID: evil("refused id"), Service: evilToken("refused-service"), Webhook: &jobsv1.Webhook{Url: evilAddress("refused webhook")},
			Problems: []*jobsv1.Problem{{Path: evil("problem path"), Code: evil("problem code"), Message: evil("problem message")}},
		},
		Code: evil("refused code"), Message: evil("refused message"), Source: event.SourceOfQueue("default", "jobs"), Trace: evil("refused trace"), At: now,
	}))

	parked := one(evil("parked id"), time.Minute)
	h.parked = parked.key()
	w.schedule(broker.PurposeLaunch, h.parked, broker.ParkedLaunch{Key: evil("parked key"), Tries: 3, Cause: evil("parked cause")}, now.Add(time.Hour))

	bad := replica(evilToken("role"), evilToken("instance"), evil("check name"), evil("check"))
	bad.Version, bad.Ready = evil("version"), false
	notifier := replica("notifier", "one")
	notifier.Failing = 1
	notifier.Endpoints = []broker.Endpoint{{Name: evilAddress("status endpoint"), Breaker: evil("breaker"), Since: now, Failures: 2, Cause: evil("cause"), Last: delivery.Attempt{At: now, Class: delivery.Class(evil("class"))}}}
	w.reports(bad, notifier)
	return h
}

// clean fails the test where the page has an element or an attribute that a text of
// evil's would have made. What ran is told by the tab itself.
func (b *tab) clean(where string) {
	b.t.Helper()
	if found := eval[[]string](b, `[...document.querySelectorAll('img, svg[onload], iframe, object, embed, base, [onerror], [onload], [onmouseover], script:not([src]), a[href^="javascript:" i], form[action^="javascript:" i]')].map(e => e.outerHTML.slice(0, 200))`); len(found) > 0 {
		b.t.Errorf("%s was made of a hostile text: %s", where, strings.Join(found, "\n"))
	}
	if strings.Contains(eval[string](b, `document.documentElement.outerHTML`), secret) {
		b.t.Errorf("%s tells a secret of a request", where)
	}
}

// asText waits until each text is on the page as a text, whole and visible.
func (b *tab) asText(where string, texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		b.await(where+" shows as text: "+text, `document.body.innerText.includes(`+quote(text)+`)`)
	}
}

// TestHostileTexts: whoever writes a text that the console shows, it is shown, and
// nothing of it runs; in what the server writes and in what the page's own script adds
// later.
func TestHostileTexts(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	h := w.hostile()
	c := s.ready()
	b := open(t, c.url)
	for _, p := range []struct {
		path  string
		texts []string
	}{
		{"/", []string{evilAddress("status endpoint"), evil("cause"), evil("check name"), evil("check"), evil("version"), evilToken("role"), evilToken("instance"), evil("parked cause"), evil("running id")}},
		{"/jobs", []string{evil("id"), evil("running id"), evilToken("service"), evil("namespace"), evil("jobName"), evil("code")}},
		{h.failed.page(), []string{
			evil("id"), evilToken("service"), evil("jobName"), evil("namespace"), evil("podName"), evil("nodeName"), evil("code"), evil("message"),
			evil("evidence pod"), evil("evidence node"), evil("container"), evil("reason"), evil("terminationMessage"), evil("logTail"), evil("letter reason"), evilAddress("endpoint"),
		}},
		{h.running.page(), []string{evil("running id"), evil("jobName")}},
		{"/jobs/" + h.parked, []string{evil("parked cause")}},
		{"/refused", []string{evil("refused id"), evilToken("refused-service"), evil("refused code")}},
		{"/refused/" + h.refused, []string{
			evil("refused id"), evil("refused code"), evil("refused message"), evil("problem path"), evil("problem code"), evil("problem message"), evil("refused body"),
		}},
		{"/undelivered", []string{evilAddress("endpoint"), evilAddress("parked endpoint"), evil("id"), evil("letter reason")}},
	} {
		b.shows(p.path)
		b.opened()
		b.asText(p.path, p.texts...)
		b.clean(p.path)
	}
	for _, path := range []string{
		"/jobs?service=%s", "/jobs?namespace=%s", "/jobs?state=%s", "/jobs?code=%s", "/jobs?id=%s", "/jobs?before=%s", "/jobs/%s", "/refused/%s", "/undelivered?endpoint=%s", "/%s", "/?%[1]s=%[1]s",
	} {
		b.expect("Failed to load resource") // some of these are no pages
		b.goTo(fmt.Sprintf(path, url.QueryEscape(evil("address"))))
		b.clean(path)
	}
	t.Run("live", func(t *testing.T) {
		tabs := map[string]*tab{}
		for _, path := range []string{"/", "/jobs", "/refused", "/undelivered", h.running.page()} {
			tabs[path] = open(t, c.url)
			tabs[path].shows(path)
			tabs[path].live()
		}
		h.running.append(40*time.Second, &jobsv1.JobException{
			JobId: evil("jobId"), JobName: evil("jobName"), Namespace: evil("namespace"), Error: &jobsv1.Error{ErrorCode: evil("late code"), Message: evil("late message")},
			Evidence: &jobsv1.Evidence{Reason: evil("late reason"), TerminationMessage: evil("late terminationMessage"), ExitCode: 4},
		})
		late := w.refuse(time.Now(), evil("late refused id"), evilToken("late-service"), evil("late refused code"), evil("late refused message"), evil("late body"),
			&jobsv1.Problem{Path: evil("late path"), Code: evil("late"), Message: evil("late problem")})
		tabs["/jobs"].asText("/jobs", evil("late code"))
		tabs[h.running.page()].asText("the job", evil("late code"), evil("late message"))
		tabs["/refused"].asText("/refused", evil("late refused id"))
		for path, b := range tabs {
			b.clean(path)
		}
		b.shows("/refused/" + late)
		b.asText("a late refusal", evil("late body"), evil("late problem"))
		b.clean("a late refusal")
	})
}

// TestThePolicyHolds: the page's policy stops a script that got into a page all the
// same, and the headers say the rest.
func TestThePolicyHolds(t *testing.T) {
	s := startStack(t)
	c := s.ready()
	b := open(t, c.url)
	b.shows("/")
	b.expect("policy: ")
	if eval[bool](b, `(() => { window.ran = false; const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s); document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.ran = true"><p style="color: red">x</p>'); return window.ran })()`) {
		t.Error("a script in the page ran")
	}
	res, err := http.Get(c.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	policy := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action", "base-uri 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy is %q, and has no %s", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
	if got := res.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options is %q", got)
	}
	if got := res.Header.Get("Referrer-Policy"); got != "no-referrer" && got != "same-origin" {
		t.Errorf("Referrer-Policy is %q: ids stand in addresses", got)
	}
	b.heardWithin("policy: ")
}

// heardWithin waits until something is said that has the part in it.
func (b *tab) heardWithin(part string) {
	b.t.Helper()
	await.That(b.t, "the browser says "+part, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.ContainsFunc(b.said, func(s string) bool { return strings.Contains(s, part) })
	})
}

// TestWhatTheBrowserTells: a page that escapes nothing is told of, or the other tests
// would see nothing either.
func TestWhatTheBrowserTells(t *testing.T) {
	careless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<!doctype html><title>x</title><p>%s</p><script>fetch('http://127.0.0.1:1/x').catch(() => 0)</script>", evil("careless"))
	}))
	defer careless.Close()
	b := open(t, careless.URL)
	b.expect("")
	b.goTo("/")
	for _, want := range []string{"__xss: careless", "request: http://127.0.0.1:1/x"} {
		b.heardWithin(want)
	}
	eval[chromedp.Void](b, `alert('hello')`)
	b.heardWithin("dialog: hello")
	if !eval[bool](b, `document.querySelector('[onerror]') !== null`) {
		t.Error("the careless page is careful")
	}
}
