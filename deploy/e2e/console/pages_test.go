//go:build browser

package console

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// place is a page of the console, by the name that its pictures have.
type place struct{ name, path string }

// pages are all of them as the scene has them.
func (s *scene) pages() []place {
	return []place{
		{"now", "/"}, {"jobs", "/jobs"}, {"job", s.invoice.page()}, {"refused", "/refused"}, {"rejection", "/refused/" + s.invalid}, {"undelivered", "/undelivered"},
	}
}

// others are more pages of the scene, each unlike the first ones in something.
func (s *scene) others() []place {
	return []place{
		{"completed", s.order.page()}, {"running", s.running.page()}, {"started", s.started.page()}, {"unschedulable", s.training.page()},
		{"cancelled", s.cancelled.page()}, {"dead letters", s.lost.page()},
		{"denied", "/refused/" + s.denied}, {"reused", "/refused/" + s.reused}, {"garbled", "/refused/" + s.garbled},
		{"endpoint", "/undelivered?endpoint=" + url.QueryEscape(oldCRM)}, {"no endpoint", "/undelivered?endpoint=nobody"},
		{"filtered", "/jobs?service=billing&state=failed"}, {"nothing fits", "/jobs?service=billing&state=failed&code=EVICTED&namespace=mail"},
		{"found", "/jobs?id=nightly"}, {"codes", "/codes"}, {"replayed", "/undelivered?replayed=1"}, {"not found", "/jobs?id=no-such-job"},
	}
}

// broken is what a page never says: values that somebody forgot to write for people.
var broken = regexp.MustCompile(`undefined|NaN|<nil>|%!|\[object |0001-01-01|1970-01-01|-?2562047h`)

// sound fails the test where the page, as it is, breaks a rule of axe, scrolls sideways
// or says what no page says.
func (b *tab) sound(where string) {
	b.t.Helper()
	b.opened()
	b.axe(where)
	b.fits(where)
	if found := broken.FindString(b.text()); found != "" {
		b.t.Errorf("%s says %q: %s", where, found, b.text())
	}
	if n := eval[int](b, `document.querySelectorAll('h1').length`); n != 1 {
		b.t.Errorf("%s has %d h1", where, n)
	}
	if title := eval[string](b, `document.title`); !strings.Contains(title, "jobrelay") {
		b.t.Errorf("%s is titled %q", where, title)
	}
	if strings.Contains(eval[string](b, `document.documentElement.outerHTML`), secret) {
		b.t.Errorf("%s tells a secret of a request", where)
	}
}

// TestPages: every page of the scene, however it is looked at.
func TestPages(t *testing.T) {
	s := startStack(t)
	sc := fill(s.writer(), time.Now())
	c := s.ready()
	for _, v := range views {
		t.Run(v.name, func(t *testing.T) {
			b := open(t, c.url)
			b.look(v)
			b.expect("Failed to load resource") // of pages that are not found
			for _, p := range append(sc.pages(), sc.others()...) {
				b.goTo(p.path)
				b.sound(p.name + ", " + v.name)
			}
			for _, path := range []string{"/jobs/00000000000000000000000000000000", "/refused/00000000000000000000000000000000-0000000000000000", "/nothing", "/jobs/%00"} {
				if status := b.goTo(path); status != 404 && status != 400 {
					t.Errorf("%s: %d", path, status)
				}
				b.sound(path + ", " + v.name)
			}
		})
	}
}

// TestWhatPagesSay: each page says what a person looks for there.
func TestWhatPagesSay(t *testing.T) {
	s := startStack(t)
	sc := fill(s.writer(), time.Now())
	c := s.ready()
	b := open(t, c.url)

	b.shows("/")
	b.reads(oldCRM, partner, "connection refused", "the last poll failed: the queue does not exist", "ingest", "launcher", "watcher", "notifier")

	b.shows("/jobs")
	b.reads(sc.started.id)
	if n := b.jobLinks(); n < 20 {
		t.Errorf("the first page has %d jobs", n)
	}

	// The invoice: its whole story.
	b.shows(sc.invoice.page())
	b.opened()
	b.reads(sc.invoice.id, "billing", "OOM_KILLED", "it used more than its memory limit of 512Mi", "137", "OOMKilled", sc.invoice.pod(), "rendering page 812 of 2204", sc.invoice.name(), sc.invoice.image,
		"503", "204", "500", "429")
	if n := eval[int](b, `document.querySelectorAll('main svg').length`); n == 0 {
		t.Error("the timeline is no picture")
	}
	if !eval[bool](b, `[...document.querySelectorAll('main a')].some(a => new URL(a.href).pathname === '/codes' && a.hash === '#OOM_KILLED')`) {
		t.Error("no link leads to what is written of OOM_KILLED")
	}
	order := eval[[]int](b, `(() => { const text = document.querySelector('#steps').innerText; return ['503', '500', '429'].map(s => text.indexOf(s)); })()`)
	if order[0] > order[1] || order[1] > order[2] {
		t.Errorf("the attempts are not in order: %v", order)
	}
	utc := sc.invoice.queued.UTC().Add(1400 * time.Millisecond).Format("15:04:05")
	if !eval[bool](b, `[...document.querySelectorAll('time')].some(t => (t.title + t.getAttribute('datetime')).includes(`+quote(utc)+`))`) {
		t.Errorf("no time of the job has %s as UTC", utc)
	}
	local := sc.invoice.queued.Add(1400 * time.Millisecond).In(berlin(t)).Format("15:04:05")
	b.reads(local)

	b.shows(sc.training.page())
	b.reads("UNSCHEDULABLE", "8 Insufficient nvidia.com/gpu")
	b.shows(sc.lost.page())
	b.reads("exhausted", "502")

	b.shows("/refused")
	b.reads("invoice-2026-11-0500", "photo-0badf0", "POLICY_DENIED", "ID_REUSED")
	b.shows("/refused/" + sc.invalid)
	b.reads("$.job.image", "is required", "$.job.prefixName", "$.job.resources.limits.memory", `"half a gig"`)
	b.shows("/refused/" + sc.garbled)
	b.reads(`<?xml version="1.0"?>`, `<job xmlns="urn:shop">`)

	b.shows("/undelivered")
	b.reads(oldCRM, partner, "customer-88121-export", "410", "no answer", "gone", "exhausted")
	b.shows("/undelivered?endpoint=" + url.QueryEscape(partner))
	b.reads(sc.invoice.id)
	if text := b.text(); strings.Contains(text, "customer-88121-export") {
		t.Error("an endpoint's page has another's letters")
	}
}

func berlin(t *testing.T) *time.Location {
	t.Helper()
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *tab) jobLinks() int {
	b.t.Helper()
	return eval[int](b, `new Set([...document.querySelectorAll('main a[href^="/jobs/"]')].map(a => a.getAttribute('href'))).size`)
}

// find types an id into the form that finds, and sends it.
func (b *tab) find(id string) {
	b.t.Helper()
	b.await("a field to find by", `document.querySelector('input[name=id]')`)
	eval[bool](b, `(() => { const i = document.querySelector('input[name=id]'); i.value = `+quote(id)+`; i.form.requestSubmit(); return true })()`)
	b.await("what was found", `document.readyState === 'complete' && (location.search.includes('id=') || location.pathname.startsWith('/jobs/'))`)
}

// TestFilterFindAndPaging: each filter by itself and together, by what a person can
// choose; an id; and page after page until every job was there once.
func TestFilterFindAndPaging(t *testing.T) {
	s := startStack(t)
	sc := fill(s.writer(), time.Now())
	c := s.ready()
	b := open(t, c.url)
	all := b.walk("/jobs")
	if want := sc.all + 4; len(all) != want { // with the refused messages
		t.Errorf("all pages have %d jobs, and there are %d", len(all), want)
	}
	billing, failed, both := b.walk("/jobs?service=billing"), b.walk("/jobs?state=failed"), b.walk("/jobs?service=billing&state=failed")
	if len(billing) == 0 || len(billing) >= len(all) || len(failed) != 5 || len(both) == 0 || len(both) > len(failed) {
		t.Errorf("billing %d, failed %d, both %d of %d", len(billing), len(failed), len(both), len(all))
	}
	for key := range both {
		if !billing[key] || !failed[key] {
			t.Errorf("%s is of both filters, and not of each", key)
		}
	}
	for _, f := range []struct {
		path string
		job  *job
	}{{"/jobs?code=OOM_KILLED", sc.invoice}, {"/jobs?namespace=ml&code=CANCELLED", sc.cancelled}, {"/jobs?id=nightly-training-57", sc.training}, {"/jobs?state=exception&service=ml.training&code=UNSCHEDULABLE", sc.training}} {
		if got := b.walk(f.path); len(got) != 1 || !got[f.job.page()] {
			t.Errorf("%s: %v", f.path, got)
		}
	}
	// What can be chosen is what there is.
	b.shows("/jobs")
	if got := eval[[]string](b, `[...document.querySelector('#services').options].map(o => o.value)`); strings.Join(got, " ") != "billing mail ml.training reports thumbnails" {
		t.Errorf("the services to choose are %q", got)
	}
	b.find(sc.training.id)
	b.reads(sc.training.id)
	if b.jobLinks() > 1 {
		t.Errorf("%d jobs are found by a whole id", b.jobLinks())
	}
	// A shared address is the same list; a filter stays chosen.
	b.shows("/jobs?service=mail&state=running")
	if got := eval[[]string](b, `['service', 'state'].map(n => document.querySelector('[name=' + n + ']').value)`); got[0] != "mail" || got[1] != "running" {
		t.Errorf("chosen are %q", got)
	}
}

// walk is every job of a list, by its page; each stands there once.
func (b *tab) walk(path string) map[string]bool {
	b.t.Helper()
	out := map[string]bool{}
	b.goTo(path)
	for range 50 {
		if strings.HasPrefix(eval[string](b, `location.pathname`), "/jobs/") { // the only one that fits was opened
			return map[string]bool{eval[string](b, `location.pathname`): true}
		}
		for _, href := range eval[[]string](b, `[...new Set([...document.querySelectorAll('main a[href^="/jobs/"]')].map(a => a.getAttribute('href')))]`) {
			if out[href] {
				b.t.Errorf("%s has %s twice", path, href)
			}
			out[href] = true
		}
		next := eval[string](b, `document.querySelector('a[rel~=next]')?.getAttribute('href') || ''`)
		if next == "" {
			return out
		}
		if strings.HasPrefix(next, "?") {
			next = "/jobs" + next
		}
		b.shows(next)
	}
	b.t.Fatalf("%s has no last page", path)
	return nil
}

// TestEmpty: before the first job each page says so, and is sound.
func TestEmpty(t *testing.T) {
	s := startStack(t)
	c := s.ready()
	for _, v := range views {
		b := open(t, c.url)
		b.look(v)
		for _, path := range []string{"/", "/jobs", "/refused", "/undelivered"} {
			b.shows(path)
			b.sound("empty " + path + ", " + v.name)
			if text := eval[string](b, `document.querySelector('main').innerText`); !regexp.MustCompile(`(?i)\b(no|none|nothing|not)\b`).MatchString(text) {
				t.Errorf("%s says of its emptiness: %s", path, text)
			}
		}
	}
	// The first job comes into an empty list.
	b := open(t, c.url)
	b.shows("/jobs")
	b.live()
	j := s.writer().job(job{id: "the-first-of-all"})
	j.started(0)
	b.reads(j.id)
	b.sound("the first job")
}

// TestNATSAway: while NATS is away pages say so, show what is known, and heal by
// themselves; what was appended since is there.
func TestNATSAway(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	sc := fill(w, time.Now())
	c := s.ready()
	b := open(t, c.url)
	b.expect("Failed to load resource")
	b.shows("/jobs")
	b.live()
	s.nats.Stop()
	b.await("the page says that NATS is away", `/NATS/.test(document.body.innerText) && /not|away|lost|since/i.test(document.body.innerText)`)
	b.reads(sc.order.id)
	b.sound("jobs without NATS")
	for _, p := range append(sc.pages(), place{"parked", "/undelivered?endpoint=" + url.QueryEscape(partner)}) {
		status := b.goTo(p.path)
		if status != 200 && status != 503 {
			t.Errorf("%s without NATS: %d", p.path, status)
		}
		b.await("the page says that NATS is away", `/NATS/.test(document.body.innerText)`)
		for _, v := range views {
			b.look(v)
			b.sound(p.name + " without NATS, " + v.name)
		}
		b.look(light)
	}
	b.shows("/jobs")
	s.startNATS()
	j := &job{w: w, id: "after-the-outage", service: "billing", namespace: "billing", image: "busybox", prefix: "job", queued: time.Now()}
	for j.tail.Empty() {
		_ = j.tryAppend(t.Context(), 0, j.startedData(0)) // until the writer is connected again
	}
	b.reads(j.id)
	b.live()
	b.await("nothing says that NATS is away", `!/NATS does not|NATS is not|NATS is away/i.test(document.body.innerText)`)
}

// TestStartWithoutNATS: a console that starts before NATS serves pages that say so, and
// comes alive by itself.
func TestStartWithoutNATS(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	sc := fill(w, time.Now())
	l := through(t, s.conf.Addr)
	l.cut()
	c := s.startConsole("JOBRELAY_NATS_URL=nats://" + l.listener.Addr().String())
	c.answers(t, c.metrics+"/healthz")
	b := open(t, c.url)
	b.expect("Failed to load resource")
	b.goTo("/jobs")
	b.reads("NATS")
	b.sound("a start without NATS")
	b.goTo("/")
	b.reads("not known")
	b.sound("Now, at a start without NATS")
	l.mend()
	b.reads(oldCRM)
	b.shows("/jobs")
	b.reads(sc.order.id)
}
