package console

import (
	"sort"
	"sync"
)

// remembered is how many changes the hub keeps, for browsers that come back: 300
// bytes each.
const remembered = 4096

// hub remembers the last changes and wakes up whoever waits for one. A subscriber has
// a place in it and nothing else: however slow it is, it holds nobody up, and where
// what it waits for is gone it is told to load the page anew.
type hub struct {
	mu    sync.Mutex
	ring  []Job  // by place; at most remembered
	floor uint64 // what came at this place, and before, is not in the ring
	begun bool   // the index is filled
	moved uint64 // counts what is no event: filling, NATS away or back
	awake chan struct{}
}

func newHub() *hub { return &hub{awake: make(chan struct{})} }

// begin forgets all: what comes next is after a place.
func (h *hub) begin(floor uint64) {
	h.mu.Lock()
	h.ring, h.floor, h.begun = nil, floor, true
	h.mu.Unlock()
	h.stir()
}

// push remembers a change; wakeAll tells of those that were pushed.
func (h *hub) push(j Job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ring) == remembered { // half of it, so that it is moved seldom
		h.floor = h.ring[remembered/2-1].Place
		h.ring = append([]Job(nil), h.ring[remembered/2:]...)
	}
	h.ring = append(h.ring, j)
}

func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.awake)
	h.awake = make(chan struct{})
}

// stir wakes all up because of something that is no event.
func (h *hub) stir() {
	h.mu.Lock()
	h.moved++
	h.mu.Unlock()
	h.wakeAll()
}

// news is what came after a place.
type news struct {
	jobs  []Job
	place uint64 // of the last of them, or the one asked with
	lost  bool   // something came in between that is not remembered
	moved uint64
	awake <-chan struct{} // closed at the next news
}

// after is what came after the place. A place that is yet to come, of another replica
// that is further on, is waited for.
func (h *hub) after(place uint64) news {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := news{place: place, moved: h.moved, awake: h.awake}
	if !h.begun {
		return out
	}
	if place < h.floor {
		out.lost, out.place = true, h.floor
		if n := len(h.ring); n > 0 {
			out.place = h.ring[n-1].Place
		}
		return out
	}
	i := sort.Search(len(h.ring), func(i int) bool { return h.ring[i].Place > place })
	if out.jobs = append([]Job(nil), h.ring[i:]...); len(out.jobs) > 0 {
		out.place = out.jobs[len(out.jobs)-1].Place
	}
	return out
}
