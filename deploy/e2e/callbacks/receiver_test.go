//go:build e2e

package callbacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// kind says how the receiver answers the callbacks of a job.
type kind string

const (
	plain    kind = "plain"    // 204
	slow     kind = "slow"     // callback 0 after half a second: its successors come meanwhile
	flaky    kind = "flaky"    // the first attempts at 0 and 2 get 503
	refusing kind = "refusing" // 1 gets 400, always
	gone     kind = "gone"     // 0 gets 410, always
	partly   kind = "partly"   // 1 is not wanted
	staged   kind = "staged"   // the first attempts at 0 and 1 get 503
	chancy   kind = "chancy"   // as receiver.chance says
)

func kinds() []kind { return []kind{plain, slow, flaky, refusing, gone, partly} }

// statuses that the job's webhook asks for.
func (k kind) statuses() []int32 {
	if k == partly {
		return []int32{0, 2}
	}
	return []int32{0, 1, 2}
}

// delivered are the ordinals that get a 2xx.
func (k kind) delivered() []int {
	switch k {
	case gone:
		return nil
	case refusing, partly:
		return []int{0, 2}
	default:
		return []int{0, 1, 2}
	}
}

// slowAnswer is how long a slow receiver takes.
const slowAnswer = 500 * time.Millisecond

// job is one log, its events and what its receiver does.
type job struct {
	id, key string
	kind    kind
	number  int
}

func newJob(k kind, n int) *job {
	id := fmt.Sprintf("%s %d", k, n)
	return &job{id: id, key: event.Key(id), kind: k, number: n}
}

// endpoints are how many the jobs are spread over: what one of them is refused
// for a while, its neighbours go on with.
const endpoints = 20

// receiver answers by the kind of the job, and sees at once what comes out of
// order or changed.
type receiver struct {
	endpoints []*hookd.Server
	chance    func() hookd.Answer // of the kind chancy

	mu         sync.Mutex
	jobs       map[string]*heard // by id
	violations []string
}

// heard is what came of one job.
type heard struct {
	kind     kind
	attempts [3]int
	given    [3]int // 2xx
	body     [3]string
}

func newReceiver() (*receiver, error) {
	r := &receiver{jobs: map[string]*heard{}}
	for range endpoints {
		s, err := hookd.Start(hookd.Config{Answer: r.answer})
		if err != nil {
			return nil, errors.Join(err, r.stop(context.Background()))
		}
		r.endpoints = append(r.endpoints, s)
	}
	return r, nil
}

func (r *receiver) stop(ctx context.Context) error {
	var failed []error
	for _, s := range r.endpoints {
		failed = append(failed, s.Stop(ctx))
	}
	return errors.Join(failed...)
}

// address is where a job's callbacks go.
func (r *receiver) address(j *job) string { return r.endpoints[j.number%endpoints].URL() + "/hook" }

func (r *receiver) answer(c hookd.Call) hookd.Answer {
	var body struct {
		ID     string
		Status int
	}
	err := json.Unmarshal(c.Body, &body)
	k, n := kindOf(body.ID), body.Status
	if err != nil || k == "" || n < 0 || n > 2 {
		r.violated("a callback that nobody sends: %s", c.Body)
		return hookd.Answer{}
	}
	r.arrived(body.ID, k, n, c)
	a := r.decide(body.ID, k, n)
	if !a.Hangup && a.Status/100 == 2 {
		time.Sleep(a.Delay) // here, so that it counts when it is given
		a.Delay = 0
		r.mu.Lock()
		r.jobs[body.ID].given[n]++
		r.mu.Unlock()
	}
	return a
}

func kindOf(id string) kind {
	var k kind
	var n int
	if _, err := fmt.Sscanf(id, "%s %d", &k, &n); err != nil {
		return ""
	}
	return k
}

// arrived looks at an attempt before it is answered.
func (r *receiver) arrived(id string, k kind, n int, c hookd.Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.jobs[id]
	if h == nil {
		h = &heard{kind: k}
		r.jobs[id] = h
	}
	h.attempts[n]++
	if want := callback.ID(event.Key(id), n); c.Header.Get("Webhook-Id") != want {
		r.violate("%s: callback %d has the webhook-id %s, want %s", id, n, c.Header.Get("Webhook-Id"), want)
	}
	if h.body[n] == "" {
		h.body[n] = string(c.Body)
	}
	if h.body[n] != string(c.Body) {
		r.violate("%s: callback %d was repeated with other bytes: %s, before %s", id, n, c.Body, h.body[n])
	}
	if k == gone && n > 0 {
		r.violate("%s: callback %d was tried after the end", id, n)
	}
	if k == partly && n == 1 {
		r.violate("%s: callback 1 was tried, and is not wanted", id)
	}
	for before := range n {
		wanted := slices.Contains(k.delivered(), before)
		if wanted && h.given[before] == 0 || k == refusing && before == 1 && h.attempts[1] < refusals {
			r.violate("%s: callback %d was tried before callback %d had its end", id, n, before)
		}
	}
}

func (r *receiver) decide(id string, k kind, n int) hookd.Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.jobs[id].attempts[n] == 1
	switch {
	case k == slow && n == 0:
		return hookd.Answer{Status: http.StatusNoContent, Delay: slowAnswer}
	case k == flaky && n != 1 && first:
		return hookd.Answer{Status: http.StatusServiceUnavailable}
	case k == staged && n != 2 && first:
		return hookd.Answer{Status: http.StatusServiceUnavailable}
	case k == refusing && n == 1:
		return hookd.Answer{Status: http.StatusBadRequest}
	case k == gone:
		return hookd.Answer{Status: http.StatusGone}
	case k == chancy && r.chance != nil:
		return r.chance()
	}
	return hookd.Answer{Status: http.StatusNoContent}
}

func (r *receiver) violated(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violate(format, args...)
}

// violate needs the lock.
func (r *receiver) violate(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// given is how many 2xx the callback got.
func (r *receiver) given(j *job, n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.jobs[j.id]; h != nil {
		return h.given[n]
	}
	return 0
}

// attempts is how often the callback was tried.
func (r *receiver) attempts(j *job, n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.jobs[j.id]; h != nil {
		return h.attempts[n]
	}
	return 0
}

// counts are all attempts, the callbacks with a 2xx, and the 2xx beyond the
// first of each.
func (r *receiver) counts() (attempts, delivered, repeats int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.jobs {
		for n := range h.given {
			attempts += h.attempts[n]
			if h.given[n] > 0 {
				delivered++
				repeats += h.given[n] - 1
			}
		}
	}
	return attempts, delivered, repeats
}

// check is what was broken, missing callbacks included.
func (r *receiver) check(jobs []*job) []string {
	r.mu.Lock()
	out := slices.Clone(r.violations)
	r.mu.Unlock()
	for _, j := range jobs {
		for _, n := range j.kind.delivered() {
			if r.given(j, n) == 0 {
				out = append(out, fmt.Sprintf("%s: callback %d never got its 2xx", j.id, n))
			}
		}
	}
	return out
}
