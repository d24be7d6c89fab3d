package delivery_test

import (
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

var modelSeed = flag.Uint64("seed", 0, "of the first history of the model; 0: one of its own")

const (
	histories = 20_000
	// mutantHistories are tried before a mutant of the model counts as missed.
	mutantHistories = 200_000
	// troubled is how many actions may be faults; after them all is well, and
	// the history must end within the rest.
	troubled, most = 120, 5_000
)

// TestAnyHistoryKeepsThePromises: workers that crash, freeze and lose touch with
// the store between any two effects, receivers that answer by chance, tokens
// that come again.
func TestAnyHistoryKeepsThePromises(t *testing.T) {
	first := firstSeed(t)
	var seen struct{ attempts, calm, copies, repeats, gaveUp int }
	for i := range uint64(histories) {
		w := newWorld(first+i, "")
		w.play()
		if len(w.violations) > 0 {
			t.Fatalf("go test ./pkg/delivery -run %s -args -seed=%d: %q after\n%s", t.Name(), first+i, w.violations, w.story())
		}
		seen.copies += w.copies
		if w.copies == 0 {
			seen.calm++
		}
		for n := range w.events {
			seen.attempts += w.attempts[n]
			seen.repeats += max(w.given[n]-1, 0)
		}
		if w.truth.GaveUp != nil {
			seen.gaveUp++
		}
	}
	t.Logf("%d histories: %+v", histories, seen)
	if seen.calm == 0 || seen.copies == 0 || seen.repeats == 0 || seen.gaveUp == 0 {
		t.Error("the histories are too tame")
	}
}

// TestTheModelNoticesEachGuard: without any of them some history breaks a promise.
func TestTheModelNoticesEachGuard(t *testing.T) {
	first := firstSeed(t)
	for _, mutant := range []string{"ack before ledger", "no surrender", "no expected revision", "schedule after ack", "one schedule subject a job"} {
		t.Run(mutant, func(t *testing.T) {
			for i := range uint64(mutantHistories) {
				w := newWorld(first+i, mutant)
				w.play()
				if len(w.violations) > 0 {
					t.Logf("history %d: %s", i+1, w.violations[0])
					return
				}
			}
			t.Errorf("%d histories broke no promise", mutantHistories)
		})
	}
}

func firstSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	return seed
}

// world is one log: its store, its receiver and the workers between them.
type world struct {
	random *rand.Rand
	mutant string
	calm   bool // nothing goes wrong but at the receiver
	policy *delivery.Policy
	clock  time.Time

	events    int
	notWanted map[int]bool
	messages  []*message
	schedules map[int]schedule // by the subject's ordinal
	truth     entry            // the ledger
	workers   []*worker

	attempts, given []int // by ordinal; given: 2xx
	copies          int   // tokens that may be in two hands, or in two places
	violations      []string
	lines           []string
}

// message of a consumer.
type message struct {
	n         int
	wakeup    *delivery.Wakeup // nil: of EVENTS
	delivered int
	waiting   bool // to be handed out
	acked     bool
}

type schedule struct {
	at     time.Time
	wakeup delivery.Wakeup
}

type entry struct {
	delivery.Ledger

	revision int
}

// worker handles any number of messages at once.
type worker struct {
	hands  []*hand
	cache  *entry
	frozen bool
}

// hand is one message being handled, between two effects.
type hand struct {
	message *message
	next    func() (struct{}, bool)
	stop    func()
}

func newWorld(seed uint64, mutant string) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 0)), mutant: mutant, clock: now, notWanted: map[int]bool{}, schedules: map[int]schedule{}}
	w.policy = &delivery.Policy{Unwell: make(delivery.Schedule, 1+w.random.IntN(12)), Refused: make(delivery.Schedule, 1+w.random.IntN(5)), Random: w.random.Float64}
	for i := 1; i < len(w.policy.Unwell); i++ {
		w.policy.Unwell[i] = time.Duration(w.random.Int64N(int64(8 * time.Hour)))
	}
	w.calm = w.random.IntN(4) == 0
	w.events = 1 + w.random.IntN(4)
	w.attempts, w.given = make([]int, w.events), make([]int, w.events)
	for n := range w.events {
		if w.random.IntN(6) == 0 {
			w.notWanted[n] = true
		}
	}
	for range 1 + w.random.IntN(3) {
		w.workers = append(w.workers, &worker{})
	}
	return w
}

func (w *world) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) violate(format string, args ...any) {
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
	w.say("VIOLATION %s", w.violations[len(w.violations)-1])
}

func (w *world) story() string {
	out := ""
	for _, l := range w.lines {
		out += l + "\n"
	}
	return out
}

// play takes one possible action after another until nothing is left to do.
func (w *world) play() {
	appended := 0
	for action := range most {
		var possible []func()
		if appended < w.events {
			possible = append(possible, func() {
				w.messages = append(w.messages, &message{n: appended, waiting: true})
				appended++
			})
		}
		for _, m := range w.messages {
			for _, to := range w.workers {
				if m.waiting && !to.frozen && !to.holds(m) {
					possible = append(possible, func() { w.handOut(m, to) })
				}
			}
		}
		for _, n := range slices.Sorted(maps.Keys(w.schedules)) {
			possible = append(possible, func() { w.fire(n, w.schedules[n]) })
		}
		for i, of := range w.workers {
			if of.frozen {
				possible = append(possible, func() { w.say("%d thaws", i); of.frozen = false })
				continue
			}
			for _, h := range of.hands {
				possible = append(possible, func() { w.step(of, h) })
			}
		}
		if !w.calm && action < troubled && w.random.IntN(6) == 0 {
			w.trouble()
			continue
		}
		if len(possible) == 0 {
			w.ended()
			return
		}
		possible[w.random.IntN(len(possible))]()
		if len(w.violations) > 0 {
			w.abort()
			return
		}
	}
	w.abort()
	w.violate("it does not end")
}

// abort ends what is in hand.
func (w *world) abort() {
	for _, of := range w.workers {
		for _, h := range of.hands {
			h.stop()
		}
	}
}

func (of *worker) holds(m *message) bool {
	return slices.ContainsFunc(of.hands, func(h *hand) bool { return h.message == m })
}

func (w *world) handOut(m *message, to *worker) {
	m.waiting = false
	m.delivered++
	w.say("%d takes %d (wake-up %t, delivery %d)", slices.Index(w.workers, to), m.n, m.wakeup != nil, m.delivered)
	next, stop := iter.Pull(w.handle(m, to))
	to.hands = append(to.hands, &hand{m, next, stop})
}

// step lets one hand go on to its next effect.
func (w *world) step(of *worker, h *hand) {
	if _, more := h.next(); !more {
		of.hands = slices.DeleteFunc(of.hands, func(x *hand) bool { return x == h })
	}
}

func (w *world) fire(n int, s schedule) {
	delete(w.schedules, n)
	if s.at.After(w.clock) {
		w.clock = s.at
	}
	w.say("%d wakes up", s.wakeup.N)
	w.messages = append(w.messages, &message{n: s.wakeup.N, wakeup: &s.wakeup, waiting: true})
}

// trouble is a crash, or a freeze for so long that others get what it had.
func (w *world) trouble() {
	i := w.random.IntN(len(w.workers))
	of := w.workers[i]
	crash := w.random.IntN(2) == 0
	w.say("%d: crash %t", i, crash)
	for _, h := range of.hands {
		if !h.message.acked {
			h.message.waiting = true
			w.copies++
		}
		if crash {
			h.stop()
		}
	}
	if crash {
		*of = worker{}
	} else {
		of.frozen = true
	}
}

// handle is services/notifier's token: each yield is a moment at which the
// process may end, stand still or be overtaken.
func (w *world) handle(m *message, of *worker) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		h := &handler{world: w, of: of, message: m, wakeup: delivery.Wakeup{N: m.n, Sequence: sequence(m.n)}}
		h.alive = func() bool { return yield(struct{}{}) }
		if m.wakeup != nil {
			h.wakeup = *m.wakeup
		}
		if w.mutant == "ack before ledger" {
			if h.ack(); !h.alive() {
				return
			}
		}
		switch parked, ok := h.run(); {
		case !ok: // crashed
		case parked == failed: // neither acknowledged nor refused: it comes again
			if !m.acked {
				m.waiting = true
				w.copies++
			}
		case parked != nil:
			if w.mutant == "schedule after ack" {
				if h.ack(); !h.alive() {
					return
				}
			}
			subject := h.wakeup.N
			if w.mutant == "one schedule subject a job" {
				subject = 0
			}
			w.schedules[subject] = *parked
			if h.alive() {
				h.ack()
			}
		default:
			if h.alive() {
				h.ack()
			}
		}
	}
}

func sequence(n int) uint64 { return uint64(100 + n) }

type handler struct {
	*world

	of      *worker
	message *message
	wakeup  delivery.Wakeup
	entry   entry
	alive   func() bool // false: the process has ended
}

// failed stands for an error of the store.
var failed = new(schedule)

func (h *handler) ack() {
	h.message.acked, h.message.waiting = true, false
	h.messages = slices.DeleteFunc(h.messages, func(m *message) bool { return m == h.message })
}

// run is token.go's: nil to acknowledge, a schedule to park, or failed.
func (h *handler) run() (parked *schedule, ok bool) {
	if h.message.wakeup == nil && h.message.delivered > 1 {
		h.of.cache = nil
	}
	if h.message.wakeup != nil || h.wakeup.N > 0 || h.message.delivered > 1 {
		if h.of.cache != nil {
			h.entry = *h.of.cache
		} else {
			h.entry = h.truth
		}
	}
	for {
		if !h.alive() {
			return nil, false
		}
		n := h.wakeup.N
		switch delivery.StepOf(h.entry.Ledger, n) {
		case delivery.Finish:
			return nil, true
		case delivery.Inherit:
			n = int(h.entry.Wait[h.entry.Next]) - 100
			h.wakeup = delivery.Wakeup{N: n, Sequence: sequence(n)}
		case delivery.Surrender:
			if h.mutant == "no surrender" {
				return nil, true
			}
			if _, there := h.entry.Wait[n]; there {
				next := h.entry.Next
				h.entry = h.truth
				if _, there = h.entry.Wait[n]; there && h.entry.Next == next {
					return nil, true
				}
				continue
			}
			switch left, err := h.swap(h.entry.Surrendered(n, h.wakeup.Sequence)); {
			case err:
				return failed, true
			case left:
				return nil, true
			}
		case delivery.Abandon:
			reason := h.entry.GaveUp.Reason
			if !h.record(func(l delivery.Ledger) delivery.Ledger { return l.Advanced(n, delivery.Done{Reason: reason}) }) {
				return nil, false
			}
		case delivery.Deliver:
			if parked, again, ok := h.deliver(n); !ok || !again {
				return parked, ok
			}
		}
	}
}

// deliver is token.go's; again means that the token goes on.
func (h *handler) deliver(n int) (parked *schedule, again, ok bool) {
	if h.notWanted[n] {
		d := delivery.Done{Reason: delivery.ReasonNotWanted}
		return nil, true, h.record(func(l delivery.Ledger) delivery.Ledger { return l.Advanced(n, d) })
	}
	if h.wakeup.First.IsZero() {
		h.wakeup.First = h.clock
	}
	class := h.post(n)
	if !h.alive() {
		return nil, false, false
	}
	h.wakeup.Attempts = append(slices.Clone(h.wakeup.Attempts), delivery.Attempt{At: h.clock, Class: class})
	if len(h.wakeup.Attempts) > delivery.MaxAttempts {
		h.violate("%d attempts at %d are remembered", len(h.wakeup.Attempts), n)
	}
	last := delivery.Done{Attempts: h.wakeup.Attempts, At: h.clock}
	switch d := h.policy.Decide(h.wakeup.Attempts, h.wakeup.First, h.retryAfter(), h.clock); d.Verdict {
	case delivery.Done2xx:
	case delivery.GiveUpOne:
		last.Reason = d.Reason
	case delivery.GiveUpWhole:
		last.Reason = d.Reason
		return nil, true, h.record(func(l delivery.Ledger) delivery.Ledger { return l.Abandoned(n, last) })
	case delivery.Retry:
		return &schedule{d.At, h.wakeup}, false, true
	}
	return nil, true, h.record(func(l delivery.Ledger) delivery.Ledger { return l.Advanced(n, last) })
}

// retryAfter is what the receiver asks for, seldom anything.
func (h *handler) retryAfter() time.Duration {
	if h.random.IntN(5) > 0 {
		return 0
	}
	return time.Duration(h.random.Int64N(int64(2 * delivery.MaxRetryAfter)))
}

// post is the receiver, which checks what it is sent.
func (h *handler) post(n int) delivery.Class {
	h.attempts[n]++
	class := delivery.Delivered
	switch dice := h.random.IntN(20); {
	case dice < 8:
		class = delivery.Unwell
	case dice < 10:
		class = delivery.Refused
	case dice == 10:
		class = delivery.Gone
	}
	h.say("POST %d: %s", n, class)
	for before := range n {
		if d, ended := h.truth.Done[before]; !ended || d.Reason == "" && h.given[before] == 0 {
			h.violate("%d was tried before the end of %d", n, before)
		}
	}
	if h.truth.GaveUp != nil && (h.copies == 0 || h.attempts[n] == 1) {
		h.violate("%d was tried after the end", n)
	}
	if h.copies == 0 && h.clock.After(h.wakeup.First.Add(delivery.MaxAge)) {
		h.violate("%d was tried past its day", n)
	}
	if class == delivery.Delivered {
		h.given[n]++
	}
	if h.copies == 0 && (h.given[n] > 1 || h.attempts[n] > delivery.MaxAttempts) {
		h.violate("%d was delivered %d times in %d attempts, and nothing went wrong", n, h.given[n], h.attempts[n])
	}
	return class
}

// record is token.go's: it tries until it is recorded; false is a crash.
func (h *handler) record(change func(delivery.Ledger) delivery.Ledger) bool {
	for h.entry.Next <= h.wakeup.N {
		done, err := h.swap(change(h.entry.Ledger))
		if done {
			return h.alive()
		}
		if !h.alive() {
			return false
		}
		if err {
			h.entry = h.truth
		}
	}
	return true
}

// swap is token.go's. Its error leaves open whether the ledger was replaced.
func (h *handler) swap(l delivery.Ledger) (done, err bool) {
	if h.entry.revision != h.truth.revision && h.mutant != "no expected revision" {
		h.entry = h.truth
		return false, false
	}
	unsure := !h.calm && h.random.IntN(20) == 0
	if unsure && h.random.IntN(2) == 0 {
		return false, true
	}
	if l.Next < h.truth.Next {
		h.violate("next falls from %d to %d", h.truth.Next, l.Next)
	}
	h.truth = entry{l, h.truth.revision + 1}
	h.say("ledger %+v", l)
	if unsure {
		return false, true
	}
	h.entry = h.truth
	cached := h.truth
	h.of.cache = &cached
	return true, false
}

// ended looks at what is there when nothing is left to do.
func (w *world) ended() {
	if len(w.messages) > 0 || len(w.truth.Wait) > 0 {
		w.violate("%d messages and the tokens %v are left", len(w.messages), slices.Sorted(maps.Keys(w.truth.Wait)))
	}
	if w.truth.Next != w.events {
		w.violate("next is %d of %d", w.truth.Next, w.events)
	}
	for n := range w.truth.Next {
		if d, there := w.truth.Done[n]; !there || d.Reason == "" && w.given[n] == 0 {
			w.violate("%d is done without its 2xx", n)
		}
	}
}
