package sqsd

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// AllActions is the Faults key for the actions that have no Fault of their own.
const AllActions = "*"

// Fault is what goes wrong with one action. Next counts go first and are used
// up call by call; rates are from 0 to 1 and stay.
type Fault struct {
	// Latency is waited before the work, in wall time. Stop ends it.
	Latency time.Duration

	// A failed call does no work and is answered with Status, by default 503.
	// The SDK tries a 5xx again by itself.
	FailNext int
	FailRate float64
	Status   int

	// A dropped answer: the work is done and kept, then the connection is
	// closed without a byte.
	DropNext int
	DropRate float64

	// A refused entry of a batch call, and no work for it: it stands in Failed
	// as an internal error of the endpoint. It counts entries, not calls.
	RefuseNext int
	RefuseRate float64

	// A duplicated delivery, of ReceiveMessage only: what the call hands out
	// stays visible, so that the next receive hands it out again.
	DuplicateNext int
	DuplicateRate float64
}

// Injected counts the calls that a Fault has touched, as they arrive. A call
// can be delayed and something else.
type Injected struct{ Delayed, Failed, Dropped, Refused, Duplicated int }

// Faults are the fault switches of a Server, safe to turn while it runs.
type Faults struct {
	mu       sync.Mutex
	faults   map[string]*Fault
	injected map[string]Injected
}

func newFaults() *Faults {
	return &Faults{faults: map[string]*Fault{}, injected: map[string]Injected{}}
}

// Set replaces the fault of an action, such as "SendMessage", or of
// AllActions. The zero Fault turns it off.
func (f *Faults) Set(action string, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fault.Status == 0 {
		fault.Status = http.StatusServiceUnavailable
	}
	f.faults[action] = &fault
}

// Clear turns all faults off. The counts of Injected stay.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.faults)
}

// Injected says what has been done to an action since the start.
func (f *Faults) Injected(action string) Injected {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.injected[action]
}

// verdict is what happens to one call.
type verdict struct {
	latency   time.Duration
	fail      int // HTTP status, 0 for no failure
	drop      bool
	duplicate bool
}

func (f *Faults) judge(action string) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := f.of(action)
	if fault == nil {
		return verdict{}
	}
	v, n := verdict{latency: fault.Latency}, f.injected[action]
	if v.latency > 0 {
		n.Delayed++
	}
	if hits(&fault.FailNext, fault.FailRate) {
		v.fail = fault.Status
		n.Failed++
	} else {
		if v.drop = hits(&fault.DropNext, fault.DropRate); v.drop {
			n.Dropped++
		}
		if v.duplicate = action == "ReceiveMessage" && hits(&fault.DuplicateNext, fault.DuplicateRate); v.duplicate {
			n.Duplicated++
		}
	}
	f.injected[action] = n
	return v
}

// refuse judges one entry of a batch call.
func (f *Faults) refuse(action string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := f.of(action)
	if fault == nil || !hits(&fault.RefuseNext, fault.RefuseRate) {
		return false
	}
	n := f.injected[action]
	n.Refused++
	f.injected[action] = n
	return true
}

// of is an action's own fault, else that of all, else nil. f is locked.
func (f *Faults) of(action string) *Fault {
	if fault, ok := f.faults[action]; ok {
		return fault
	}
	return f.faults[AllActions]
}

func hits(next *int, rate float64) bool {
	if *next > 0 {
		*next--
		return true
	}
	return rate > 0 && rand.Float64() < rate
}
