//go:build browser

package console

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// liveMost is how long after its append an event may be on the page.
const liveMost = time.Second

// seen is when the page shows that the expression is true, by the page's own clock,
// which is this machine's. It is asked for before what makes it true is done.
type seen struct {
	b    *tab
	name string
	js   string
	what string
}

// sees begins to wait in the page for the expression. what tells of it.
func (b *tab) sees(what, js string) seen {
	b.t.Helper()
	name := fmt.Sprintf("__seen%d", time.Now().UnixNano())
	eval[bool](b, `(() => { if (`+js+`) throw new Error('it is there already'); window.`+name+` = __when(() => `+js+`); return true })()`)
	return seen{b, name, js, what}
}

// within is how long after the server stored an event the page showed it; more than
// liveMost fails the test.
func (s seen) within(stored time.Time) time.Duration {
	s.b.t.Helper()
	at := eval[float64](s.b, `Promise.race([window.`+s.name+`, new Promise((_, no) => setTimeout(() => no(new Error('not in 20 seconds')), 20000))])`)
	took := time.UnixMilli(int64(at)).Sub(stored.Truncate(time.Millisecond))
	if took < 0 {
		s.b.t.Errorf("%s: %s before the server had it: the clocks of the two are not one", s.what, -took)
	}
	if took > liveMost {
		s.b.t.Errorf("%s: after %s, and it may be %s", s.what, took, liveMost)
	}
	return took
}

// has is an expression that is true when a person can read the text on the page.
func has(text string) string { return `document.body.innerText.includes(` + quote(text) + `)` }

// stored is when the server stored the job's last event.
func (j *job) stored() time.Time {
	j.w.t.Helper()
	return j.w.storedAt(event.LogFilter(j.service, j.key()))
}

func (w *writer) storedAt(subject string) time.Time {
	w.t.Helper()
	s, err := w.JetStream().Stream(w.t.Context(), broker.StreamEvents)
	w.must(err)
	m, err := s.GetLastMsgForSubject(w.t.Context(), subject)
	w.must(err)
	return m.Time
}

// report prints what was measured; the slowest is what counts.
func report(t *testing.T, what string, all []time.Duration) {
	t.Helper()
	slices.Sort(all)
	t.Logf("%s: %d times, median %s, slowest %s (at most %s)", what, len(all), all[len(all)/2], all[len(all)-1], liveMost)
}

// measure opens a page and has a change made to it so many times, each of which
// returns how long it took to be there, and reports that.
func measure(t *testing.T, c *served, page, what string, times int, change func(b *tab, i int) time.Duration) {
	t.Helper()
	b := open(t, c.url)
	b.shows(page)
	b.live()
	var all []time.Duration
	for i := range times {
		all = append(all, change(b, i))
	}
	report(t, what, all)
}

// TestLive: an event is on each page that it concerns within a second of its append.
func TestLive(t *testing.T) {
	const times = 12
	s := startStack(t)
	w := s.writer()
	c := s.ready()
	watched := w.job(job{id: "watched"})
	watched.started(time.Second)
	c.answers(t, c.url+watched.page())

	t.Run("jobs", func(t *testing.T) {
		measure(t, c, "/jobs", "a new job in the list", times, func(b *tab, i int) time.Duration {
			j := w.job(job{id: fmt.Sprintf("live-job-%d", i)})
			there := b.sees(j.id, has(j.id))
			j.started(0)
			return there.within(j.stored())
		})
	})
	t.Run("state", func(t *testing.T) {
		measure(t, c, "/jobs", "a job's state in the list", times, func(b *tab, i int) time.Duration {
			j := w.job(job{id: fmt.Sprintf("changing-%d", i)})
			j.started(0)
			b.reads(j.id)
			there := b.sees(j.id, `[...document.querySelectorAll('tr, li')].some(r => r.innerText.includes(`+quote(j.id)+`) && /completed/i.test(r.innerText))`)
			j.completed(0, 0, time.Second)
			return there.within(j.stored())
		})
	})
	t.Run("job", func(t *testing.T) {
		b := open(t, c.url)
		b.shows(watched.page())
		b.live()
		there := b.sees("the Pod", has(watched.pod()))
		watched.podStarted(time.Second)
		all := []time.Duration{there.within(watched.stored())}
		there = b.sees("the end", has("CONTAINER_EXIT_NONZERO"))
		watched.failed(time.Second, time.Second, 2*time.Second, "CONTAINER_EXIT_NONZERO", "it exited with code 3", nil)
		report(t, "a step of a job's timeline", append(all, there.within(watched.stored())))
	})
	t.Run("now", func(t *testing.T) {
		measure(t, c, "/", "a count of Now", times, func(b *tab, i int) time.Duration {
			const count = `document.querySelector('[data-count="started"] .count').innerText`
			before := eval[string](b, count)
			there := b.sees("a count", count+` !== `+quote(before))
			j := w.job(job{id: fmt.Sprintf("counted-%d", i)})
			j.started(0)
			return there.within(j.stored())
		})
	})
	t.Run("refused", func(t *testing.T) {
		measure(t, c, "/refused", "a refused message", times, func(b *tab, i int) time.Duration {
			id := fmt.Sprintf("refused-%d", i)
			there := b.sees(id, has(id))
			logKey := w.refuse(time.Now(), id, "billing", "MESSAGE_INVALID", "$.job is required.", `{"id":"`+id+`"}`)
			return there.within(w.storedAt(event.LogFilter("billing", logKey)))
		})
	})
	t.Run("filtered", func(t *testing.T) {
		b := open(t, c.url)
		b.shows("/jobs?service=mail")
		b.live()
		other := w.job(job{id: "of-another-service"})
		other.started(0)
		j := w.job(job{id: "of-mail", service: "mail"})
		there := b.sees(j.id, has(j.id))
		j.started(0)
		there.within(j.stored())
		if strings.Contains(b.text(), other.id) {
			t.Error("a job of another service came into the list of mail")
		}
	})
}

// TestCallbacksLive: what becomes of a callback is no event, and comes to the job's
// page all the same.
func TestCallbacksLive(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	j := w.job(job{id: "with-callbacks"})
	j.started(time.Second)
	c := s.ready()
	b := open(t, c.url)
	b.shows(j.page())
	b.live()
	j.parked(time.Now().Add(time.Hour), j.attempt(2*time.Second, 503, time.Second))
	b.reads("503")
	j.delivered(j.attempt(2*time.Second, 503, time.Second), j.attempt(8*time.Second, 202, time.Second))
	b.reads("202")
}

// TestABrokenConnectionHeals: a browser whose connection was cut comes back by itself
// and shows what came meanwhile, without a reload.
func TestABrokenConnectionHeals(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	c := s.ready()
	l := through(t, c.url)
	b := open(t, l.url())
	b.expect("Failed to load resource") // while it is cut
	b.expect("ERR_")
	b.shows("/jobs")
	b.live()
	eval[bool](b, `window.sameDocument = true`)
	for round := range 3 {
		before := w.job(job{id: fmt.Sprintf("before-%d", round)})
		before.started(0)
		b.reads(before.id)
		l.cut()
		b.await("the page says that it is cut off", `!`+liveJS)
		var missed []string
		for i := range 5 {
			j := w.job(job{id: fmt.Sprintf("meanwhile-%d-%d", round, i)})
			j.started(0)
			missed = append(missed, j.id)
		}
		l.mend()
		b.live()
		b.reads(missed...)
		after := w.job(job{id: fmt.Sprintf("after-%d", round)})
		there := b.sees(after.id, has(after.id))
		after.started(0)
		there.within(after.stored())
	}
	if !eval[bool](b, `window.sameDocument === true`) {
		t.Error("the page was loaded anew")
	}
}

// TestASilentConnectionHeals: a connection that nothing comes on any more, and that
// nobody has closed, is given up by the page itself.
func TestASilentConnectionHeals(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	c := s.ready()
	l := through(t, c.url)
	b := open(t, l.url())
	b.expect("Failed to load resource")
	b.expect("ERR_")
	b.shows("/jobs")
	b.live()
	l.freeze()
	j := w.job(job{id: "behind-silence"})
	j.started(0)
	b.reads(j.id)
	b.live()
}

// TestALongCutHeals: where more came than the console remembers, nothing is missing
// either.
func TestALongCutHeals(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	c := s.ready()
	l := through(t, c.url)
	b := open(t, l.url())
	b.expect("Failed to load resource")
	b.expect("ERR_")
	b.shows("/jobs")
	b.live()
	l.cut()
	b.await("the page says that it is cut off", `!`+liveJS)
	w.many("flood", 6000, 0)
	last := w.job(job{id: "the-last-of-all"})
	last.started(0)
	l.mend()
	b.live()
	b.reads(last.id)
}

// many starts n jobs, so many a second; 0: as fast as it goes.
func (w *writer) many(prefix string, n, perSecond int) {
	w.t.Helper()
	group, ctx := errgroup.WithContext(w.t.Context())
	group.SetLimit(256)
	pace := rate.NewLimiter(rate.Inf, 1)
	if perSecond > 0 {
		pace.SetLimit(rate.Limit(perSecond))
	}
	for i := range n {
		if pace.Wait(ctx) != nil {
			break
		}
		group.Go(func() error {
			j := &job{w: w, id: fmt.Sprintf("%s-%d", prefix, i), service: "flood", namespace: "jobs", image: "busybox", prefix: "flood", queued: time.Now()}
			return j.tryAppend(ctx, 0, j.startedData(0))
		})
	}
	w.must(group.Wait())
}

// sample is a figure of the console's metrics.
func (c *served) sample(t *testing.T, name string) float64 {
	t.Helper()
	res, err := http.Get(c.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// liveJS is true of a page that is told of changes.
const liveJS = `(document.querySelector("#connection")?.dataset.connection === "live")`

// fillingJS is true of a page that says how far the index is.
const fillingJS = `(document.querySelector("progress") !== null)`

// live waits until the page is told of changes.
func (b *tab) live() {
	b.t.Helper()
	b.await("the page is live", liveJS)
}
