package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

// Callback is a call as the receiver heard it.
type Callback struct {
	At        time.Time
	ID        string
	Status    int
	Code      string // of an end with an error
	WebhookID string
	Body      string
}

// Callbacks reads the calls that were answered 2xx; a body that is none is a
// callback without an id.
func Callbacks(calls []hookd.Call) []Callback {
	var out []Callback
	for _, c := range calls {
		if c.Status/100 != 2 {
			continue
		}
		var body struct {
			ID     string `json:"id"`
			Status int    `json:"status"`
			Detail struct {
				Error struct {
					ErrorCode string `json:"errorCode"`
				} `json:"error"`
			} `json:"detail"`
		}
		if err := json.Unmarshal(c.Body, &body); err != nil {
			body.ID = ""
		}
		out = append(out, Callback{At: c.At, ID: body.ID, Status: body.Status, Code: body.Detail.Error.ErrorCode, WebhookID: c.Header.Get("Webhook-Id"), Body: string(c.Body)})
	}
	return out
}

// World is what is seen from outside when all has ended.
type World struct {
	IDs       []string            // that were sent
	Callbacks []Callback          // in the order of arrival
	Jobs      map[string][]string // the UIDs of the Jobs of each id
	Queue     int                 // messages that SQS still holds
	Ends      map[string]End      // of each id; default: Success
}

// stopped is the status of an end that Kubernetes did not give.
const stopped = 99

// Violations are the promises that the world does not keep
// (docs/contract.md), one line each, and how many callbacks were repeats.
func (w World) Violations() (violations []string, repeats int) {
	say := func(format string, args ...any) { violations = append(violations, fmt.Sprintf(format, args...)) }
	statuses, codes, bodies := map[string][]int{}, map[string]string{}, map[string]string{}
	for _, c := range w.Callbacks {
		if !slices.Contains(w.IDs, c.ID) {
			say("a callback for %q, which nobody sent: %s", c.ID, c.Body)
			continue
		}
		if c.WebhookID == "" {
			say("%s: callback %d has no webhook-id", c.ID, c.Status)
		}
		if have, known := bodies[c.WebhookID]; known {
			repeats++
			if have != c.Body {
				say("%s: %s was repeated with other bytes: %s, then %s", c.ID, c.WebhookID, have, c.Body)
			}
			continue
		}
		bodies[c.WebhookID] = c.Body
		statuses[c.ID], codes[c.ID] = append(statuses[c.ID], c.Status), c.Code
	}
	for _, id := range w.IDs {
		want, ok := w.Ends[id]
		if !ok {
			want = Success()
		}
		switch {
		case want.PodsGo && slices.Equal(statuses[id], slices.DeleteFunc(slices.Clone(want.Statuses), func(s int) bool { return s == 1 })):
		case !slices.Equal(statuses[id], want.Statuses):
			say("%s (%s): callbacks %v %s, expected %v", id, want.Image, statuses[id], codes[id], want.Statuses)
		case codes[id] != want.Code && (want.Cut == "" || codes[id] != want.Cut):
			say("%s (%s): code %s, expected %s", id, want.Image, codes[id], want.Code)
		}
		// A Job that was stopped is deleted; any other is there until its TTL.
		if n := len(w.Jobs[id]); n != 1 && (n > 1 || !slices.Contains(want.Statuses, stopped)) {
			say("%s: %d Jobs", id, n)
		}
	}
	for id := range w.Jobs {
		if !slices.Contains(w.IDs, id) {
			say("a Job for %q, which nobody sent", id)
		}
	}
	if w.Queue != 0 {
		say("SQS still holds %d messages", w.Queue)
	}
	return violations, repeats
}

// Settle waits until every id has its end and SQS is empty, or ctx ends, and
// reports. What is missing then is among the violations; an error means that it
// could not be looked.
func (s *Stack) Settle(ctx context.Context, loads ...Sent) (Report, error) {
	var sent Sent
	sent.At, sent.Ends = map[string]time.Time{}, map[string]End{}
	for _, l := range loads {
		sent.IDs = append(sent.IDs, l.IDs...)
		sent.Sends += l.Sends
		for id, at := range l.At {
			sent.At[id] = at
		}
		maps.Copy(sent.Ends, l.Ends)
	}
	_ = s.Hooks.Wait(ctx, func(calls []hookd.Call) bool { return ended(sent.IDs, Callbacks(calls)) }) // what is missing is seen below
	depth, jobs, err := s.look(ctx)
	if err != nil {
		return Report{}, err
	}
	w := World{IDs: sent.IDs, Callbacks: Callbacks(s.Hooks.Calls()), Jobs: jobs, Queue: depth, Ends: sent.Ends}
	r := Report{Messages: len(sent.IDs), Sends: sent.Sends, Callbacks: len(w.Callbacks)}
	r.Violations, r.Repeats = w.Violations()
	r.latencies(sent, w.Callbacks)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, uids := range s.jobs {
		r.SurplusJobs += len(uids) - 1
	}
	r.Kills, r.Freezes = map[Role]int{}, map[Role]int{}
	for _, f := range s.injected {
		if f.Kind == Kill {
			r.Kills[f.Role]++
		} else {
			r.Freezes[f.Role]++
		}
	}
	return r, nil
}

// look waits for an empty queue as long as ctx lives, and reads the Jobs.
func (s *Stack) look(ctx context.Context) (depth int, jobs map[string][]string, err error) {
	for {
		if depth, err = s.QueueDepth(ctx); err == nil && depth == 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
			continue
		}
		break
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyMost)
	defer cancel()
	if err := s.AwaitReady(after); err != nil {
		return 0, nil, err
	}
	if depth, err = s.QueueDepth(after); err != nil {
		return 0, nil, err
	}
	jobs, err = s.Jobs(after)
	return depth, jobs, err
}

// ended reports whether each id had its end.
func ended(ids []string, heard []Callback) bool {
	ends := map[string]bool{}
	for _, c := range heard {
		if c.Status >= 2 {
			ends[c.ID] = true
		}
	}
	return !slices.ContainsFunc(ids, func(id string) bool { return !ends[id] })
}
