package timeline

import (
	"time"

	"github.com/jobrelay/jobrelay/pkg/event"
)

// Overview is how the whole pipeline is now.
type Overview struct {
	At time.Time `json:"at"`
	// Since is when the first event was appended that the counts are of: of what
	// ended before, and of what runs since before, nothing is known.
	Since time.Time `json:"since"`
	// Counting says that there are older events that have not been counted yet.
	Counting bool `json:"counting,omitempty"`
	// Jobs are those with an event since then, by their state, and those that wait
	// for a Job now.
	Jobs map[State]int `json:"jobs"`
	// PerMinute are the events of the last minute, by the state that each led to.
	PerMinute map[State]int `json:"perMinute"`
	// Oldest are the jobs that are Waiting, Started and Running for longest, where
	// there are any and it is known.
	Oldest    []Summary `json:"oldest"`
	Callbacks Callbacks `json:"callbacks"`
	// Failing are the endpoints that the notifiers fail to reach, those first that
	// fail for longest.
	Failing  []FailingEndpoint `json:"failing"`
	Paused   []string          `json:"paused"` // services
	Replicas []Replicas        `json:"replicas"`
}

// Callbacks are those that are not delivered.
type Callbacks struct {
	Pending     int `json:"pending"`     // events that are not with a notifier's ledger yet
	Parked      int `json:"parked"`      // callbacks, for their next try
	DeadLetters int `json:"deadLetters"` // that are kept, delivered by a replay or not
	// Oldest is when the one became due that waits for longest; absent: none.
	Oldest *time.Time `json:"oldest,omitempty"`
}

// FailingEndpoint is a receiver whose last attempt was not delivered.
type FailingEndpoint struct {
	Endpoint string    `json:"endpoint"`
	Breaker  string    `json:"breaker"`
	Since    time.Time `json:"since"`
	Failures int       `json:"failures"`
	Cause    string    `json:"cause,omitempty"` // an HTTP status, or why there was none
}

// Replicas are those of a role that said something in the last minute.
type Replicas struct {
	Role  string `json:"role"`
	Ready int    `json:"ready"`
	All   int    `json:"all"`
}

// Board counts jobs by their state as their events come. It holds the jobs that
// have no end, some 100 bytes each, and the last minute by seconds.
type Board struct {
	active  map[string]mark // by log key
	ended   map[State]int
	seconds [minute]second
}

const minute = 60 // seconds

type mark struct {
	service string
	state   State
	since   time.Time
}

type second struct {
	unix   int64
	counts map[State]int
}

// NewBoard is an empty one.
func NewBoard() *Board {
	return &Board{active: map[string]mark{}, ended: map[State]int{}}
}

// Add counts an event, which is the last one of its log.
func (b *Board) Add(service, logKey string, t event.Type, at time.Time) {
	state := StateOf(t)
	if state.Ended() {
		delete(b.active, logKey)
		b.ended[state]++
	} else {
		b.active[logKey] = mark{service, state, at}
	}
	s := &b.seconds[at.Unix()%minute]
	if s.unix != at.Unix() {
		*s = second{at.Unix(), map[State]int{}}
	}
	s.counts[state]++
}

// Jobs are the counts by state.
func (b *Board) Jobs() map[State]int {
	out := map[State]int{}
	for _, s := range States() {
		out[s] = b.ended[s]
	}
	for _, m := range b.active {
		out[m.state]++
	}
	return out
}

// PerMinute are the events of the minute before now.
func (b *Board) PerMinute(now time.Time) map[State]int {
	out := map[State]int{}
	for _, s := range States() {
		if s != Waiting {
			out[s] = 0
		}
	}
	for _, s := range b.seconds {
		if age := now.Unix() - s.unix; age < 0 || age >= minute {
			continue
		}
		for state, n := range s.counts {
			out[state] += n
		}
	}
	return out
}

// Oldest is the job that is in the state for longest, without its id.
func (b *Board) Oldest(state State) (Summary, bool) {
	var out Summary
	for key, m := range b.active {
		if m.state == state && (out.LogKey == "" || m.since.Before(out.At)) {
			out = Summary{At: m.since, LogKey: key, Service: m.service, State: state}
		}
	}
	return out, out.LogKey != ""
}
