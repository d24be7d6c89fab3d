package console

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// faulty is EVENTS with what a real server seldom does: its replica trails, it does not
// answer, it is another one than before.
type faulty struct {
	mu     sync.Mutex
	events []broker.Seen
	shown  int // events that the replica which answers has
	made   time.Time
	down   bool
	asked  []uint64
	hold   func(from uint64) // before an answer
}

var errDown = errors.New("no answer")

func (s *faulty) Extent(context.Context) (broker.Extent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return broker.Extent{}, errDown
	}
	e := broker.Extent{First: 1, Made: s.made}
	if n := len(s.events); n > 0 {
		e.First, e.Last = s.events[0].Place, s.events[n-1].Place
	}
	return e, nil
}

func (s *faulty) Scan(_ context.Context, from uint64, each func(broker.Seen)) (uint64, error) {
	if s.hold != nil {
		s.hold(from)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, from)
	if s.down {
		return from, errDown
	}
	n := 0
	for _, e := range s.events[:s.shown] {
		if e.Place >= from && n < 100 {
			each(e)
			from = e.Place + 1
			n++
		}
	}
	return from, nil
}

func (s *faulty) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// followed runs a follower of s.
func followed(t *testing.T, s *faulty, most int) (*follower, *hub, *await.Text) {
	t.Helper()
	said := &await.Text{}
	h := newHub()
	f := newFollower(s, NewIndex(most), h, zerolog.New(said))
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { f.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return f, h, said
}

func log(t *testing.T, n int) *faulty {
	a := &appended{}
	s := &faulty{made: start}
	for i := range n {
		s.events = append(s.events, seen(t, a.next(t, "s", fmt.Sprint(i), jobStarted("p"))))
	}
	s.shown = n
	return s
}

func TestAReplicaThatTrailsHidesNothing(t *testing.T) {
	s := log(t, 500)
	s.shown = 250
	f, h, _ := followed(t, s, 1000)
	await.That(t, "it reads what there is", func() bool { return f.index.Overall(start).Newest == 250 })
	if p := f.Progress(); !p.Filling || p.Percent() != 50 {
		t.Errorf("%+v", p)
	}
	s.set(func() { s.shown = 490 })
	await.That(t, "it goes on", func() bool { return f.index.Overall(start).Newest == 490 })
	s.set(func() { s.shown = 500 })
	await.That(t, "it is filled", func() bool { return !f.Progress().Filling })
	if over := f.index.Overall(start); over.Jobs != 500 || over.Older {
		t.Errorf("%+v", over)
	}
	if n := h.after(500); n.lost {
		t.Error("the hub did not begin where the index ended")
	}
}

func TestOnlyWhatFitsIsRead(t *testing.T) {
	s := log(t, 500)
	f, _, _ := followed(t, s, 100)
	await.That(t, "it is filled", func() bool { return !f.Progress().Filling })
	if over := f.index.Overall(start); over.Jobs != 100 || over.Newest != 500 || !over.Older {
		t.Errorf("%+v", over)
	}
	s.set(func() {
		if s.asked[0] != 201 { // the last 300, for a log has three events at the most
			t.Errorf("it began at %d", s.asked[0])
		}
	})
}

// TestTheNewestAreShownFirst: while the others are read, the index has the newest, and
// those that come; then all.
func TestTheNewestAreShownFirst(t *testing.T) {
	s := log(t, 3*shownFirst)
	a := &appended{place: 3 * shownFirst}
	held := make(chan struct{})
	s.hold = func(from uint64) {
		if from == 201 { // two answers of the oldest are read
			<-held
		}
	}
	f, _, _ := followed(t, s, 100_000)
	await.That(t, "the newest are shown", func() bool { return f.index.Overall(start).Jobs == 300 })
	if p, over := f.Progress(), f.index.Overall(start); !p.Filling || over.Oldest != 2*shownFirst+1 || !over.Older {
		t.Errorf("%+v, %+v", p, over)
	}
	s.set(func() {
		s.events = append(s.events, seen(t, a.next(t, "s", "new", jobStarted("p"))))
		s.shown++
	})
	close(held)
	await.That(t, "it is filled", func() bool { return !f.Progress().Filling })
	await.That(t, "all are there", func() bool { return f.index.Overall(start).Jobs == 3*shownFirst+1 })
	if over := f.index.Overall(start); over.Older || over.Oldest != 1 || over.States[timeline.Started] != 3*shownFirst+1 {
		t.Errorf("%+v", over)
	}
}

func TestNoAnswerIsSaidOnce(t *testing.T) {
	s := log(t, 10)
	f, h, said := followed(t, s, 1000)
	await.That(t, "it is filled", func() bool { return !f.Progress().Filling })
	s.set(func() { s.down = true })
	await.That(t, "it is away", func() bool { return !f.Progress().Away.IsZero() })
	before := f.Progress().Away
	s.set(func() { s.asked = nil })
	await.That(t, "it asks again", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.asked) >= 3
	})
	if f.Progress().Away != before {
		t.Error("since when it is away moves")
	}
	a := &appended{place: 10}
	s.set(func() {
		s.events, s.shown, s.down = append(s.events, seen(t, a.next(t, "s", "new", jobStarted("p")))), 11, false
	})
	await.That(t, "it is back", func() bool { return f.Progress().Away.IsZero() && f.index.Overall(start).Newest == 11 })
	if n := h.after(10); len(n.jobs) != 1 || n.jobs[0].ID != "new" || n.lost {
		t.Errorf("%+v", n)
	}
	if strings.Count(said.String(), "does not answer") != 1 || strings.Count(said.String(), "answers again") != 2 { // the first is that of the start
		t.Errorf("%s", said)
	}
}

func TestAnotherStreamIsReadFromItsBeginning(t *testing.T) {
	s := log(t, 10)
	f, h, said := followed(t, s, 1000)
	await.That(t, "it is filled", func() bool { return !f.Progress().Filling })
	other := log(t, 3)
	s.set(func() { s.down = true }) // it comes back as another
	await.That(t, "it is away", func() bool { return !f.Progress().Away.IsZero() })
	s.set(func() { s.events, s.shown, s.made, s.down = other.events, 3, start.Add(time.Hour), false })
	await.That(t, "it is filled anew", func() bool { return f.index.Overall(start).Jobs == 3 && !f.Progress().Filling })
	if n := h.after(2); !n.lost {
		t.Error("who was at a place of the old stream is not told to load anew")
	}
	if !strings.Contains(said.String(), "another stream") {
		t.Errorf("%s", said)
	}
}

func TestAnotherStreamWhileTheIndexIsFilled(t *testing.T) {
	s := log(t, 500)
	s.shown = 250
	f, _, _ := followed(t, s, 1000)
	await.That(t, "it reads what there is", func() bool { return f.index.Overall(start).Newest == 250 })
	other := log(t, 3)
	s.set(func() { s.events, s.shown, s.made = other.events, 3, start.Add(time.Hour) })
	await.That(t, "it is filled with the other", func() bool { return f.index.Overall(start).Jobs == 3 && !f.Progress().Filling })
}

// fewLetters is DEADLETTERS.
type fewLetters struct {
	first uint64
	all   []delivery.Letter // the place of each is its index and one
	err   error
	asked int
}

func (s *fewLetters) LetterPlaces(context.Context) (uint64, uint64, error) {
	return max(s.first, 1), uint64(len(s.all)), s.err
}

func (s *fewLetters) ScanLetters(_ context.Context, from uint64, each func(uint64, delivery.Letter)) (uint64, error) {
	s.asked++
	for i, l := range s.all {
		if place := uint64(i + 1); place >= from {
			each(place, l)
			from = place + 1
		}
	}
	return from, nil
}

func TestLettersAreReadOnce(t *testing.T) {
	at := start
	s := &fewLetters{all: []delivery.Letter{{LogKey: "a", N: 0}, {LogKey: "b", N: 0, ID: "b", Endpoint: "e", Attempts: []delivery.Attempt{{Code: 500}, {Code: 503}}}}}
	l := newLetters(s)
	l.now, l.reachable = func() time.Time { return at }, func() error { return nil }
	keys := func() (out []string) {
		t.Helper()
		all, _, err := l.all(t.Context())
		if err != nil && !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		for _, d := range all {
			out = append(out, fmt.Sprint(d.LogKey, d.N, d.Replayed != nil))
		}
		return out
	}
	if got := keys(); !slices.Equal(got, []string{"b0 false", "a0 false"}) {
		t.Errorf("%v", got)
	}
	asked := s.asked
	if keys(); s.asked != asked {
		t.Error("what was read a moment ago is read again")
	}
	at = at.Add(2 * lettersFresh)
	s.all = append(s.all, delivery.Letter{LogKey: "b", N: 0, Replayed: &delivery.Replayed{Run: "r"}}) // in the place of the one before
	if got := keys(); !slices.Equal(got, []string{"b0 true", "a0 false"}) {
		t.Errorf("after a replay: %v", got)
	}
	at = at.Add(2 * lettersFresh)
	s.err = errDown
	if got := keys(); len(got) != 2 {
		t.Errorf("while there is no answer: %v", got)
	}
	at = at.Add(2 * lettersFresh)
	s.err, s.first = nil, 3
	if got := keys(); !slices.Equal(got, []string{"b0 true"}) {
		t.Errorf("of what is past its age: %v", got)
	}
	at = at.Add(2 * lettersFresh)
	s.first, s.all = 1, []delivery.Letter{{LogKey: "c", N: 1}}
	if got := keys(); !slices.Equal(got, []string{"c1 false"}) {
		t.Errorf("of another stream: %v", got)
	}
}

func TestEndpoints(t *testing.T) {
	at := start
	replicas := []broker.Status{
		{Endpoints: []broker.Endpoint{{Name: "x", Breaker: "open", Until: at.Add(time.Minute), Since: at.Add(-time.Hour), Failures: 3, Last: delivery.Attempt{At: at, Code: 503}}}},
		{Endpoints: []broker.Endpoint{
			{Name: "x", Breaker: "closed", Since: at.Add(-2 * time.Hour), Failures: 9, Last: delivery.Attempt{At: at.Add(-time.Second), Class: "unwell"}, Cause: "timeout"},
			{Name: "y", Breaker: "open", Until: at.Add(-time.Second), Since: at, Failures: 1, Last: delivery.Attempt{At: at, Class: "unwell"}, Cause: "timeout"},
		}},
	}
	parked := []timeline.Parked{{Wakeup: delivery.Wakeup{Endpoint: "z"}}, {Wakeup: delivery.Wakeup{Endpoint: "x"}}}
	all := withLetters(endpoints(replicas, parked, at), []Letter{{Endpoint: "x"}, {Endpoint: "w"}, {Endpoint: "w", Replayed: &delivery.Replayed{}}})
	var got []string
	for _, e := range all {
		got = append(got, fmt.Sprint(e.Name, " ", e.Breaker, " ", e.Replicas, " ", e.Failures, " ", e.Answer(), " ", e.Parked, " ", e.Letters))
	}
	want := []string{"x open 2 9 503 1 1", "y half-open 1 1 timeout 0 0", "w  0 0  0 1", "z  0 0  1 0"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
