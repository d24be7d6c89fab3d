package console

import (
	"fmt"
	"testing"
)

func TestTheHubRemembersWhatCameAfterAPlace(t *testing.T) {
	h := newHub()
	if n := h.after(0); n.lost || len(n.jobs) > 0 {
		t.Errorf("before the index is filled: %+v", n)
	}
	h.begin(100)
	if n := h.after(99); !n.lost || n.place != 100 {
		t.Errorf("what came before the hub began is not lost: %+v", n)
	}
	for place := uint64(101); place <= 103; place++ {
		h.push(Job{Place: place, ID: fmt.Sprint(place)})
	}
	for place, want := range map[uint64]int{100: 3, 101: 2, 103: 0, 500: 0} { // 500: another replica was further on
		n := h.after(place)
		if n.lost || len(n.jobs) != want || n.place != max(place, 103) && len(n.jobs) > 0 {
			t.Errorf("after %d: %+v", place, n)
		}
	}
	if n := h.after(500); n.place != 500 {
		t.Errorf("a place that is yet to come is forgotten: %+v", n)
	}
}

func TestTheHubIsBounded(t *testing.T) {
	h := newHub()
	h.begin(0)
	const all = 10 * remembered
	for place := uint64(1); place <= all; place++ {
		h.push(Job{Place: place})
		if len(h.ring) > remembered {
			t.Fatalf("%d are remembered", len(h.ring))
		}
	}
	if n := h.after(1); !n.lost || n.place != all {
		t.Errorf("what is forgotten is not said to be lost: %d, %v", n.place, n.lost)
	}
	if n := h.after(all - 1000); n.lost || len(n.jobs) != 1000 {
		t.Errorf("%d of the last 1000", len(n.jobs))
	}
}

func TestTheHubWakesUp(t *testing.T) {
	h := newHub()
	h.begin(0)
	n := h.after(0)
	select {
	case <-n.awake:
		t.Error("nothing came")
	default:
	}
	h.push(Job{Place: 1})
	h.wakeAll()
	<-n.awake
	moved := h.after(1)
	h.stir()
	<-moved.awake
	if h.after(1).moved == moved.moved {
		t.Error("what is no event leaves no mark")
	}
}
