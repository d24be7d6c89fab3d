package broker_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// TestParkedCallbacksAreReadInRounds: each once, those of launches not at all.
func TestParkedCallbacksAreReadInRounds(t *testing.T) {
	const parked = 1203
	b := open(t, server(t))
	for i := range parked {
		w := delivery.Wakeup{Key: fmt.Sprintf("key%d", i), N: i}
		payload, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeCallback, Token: w.Token(), Payload: payload}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if err := b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeLaunch, Token: w.Key, Payload: payload}, time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var ns []int
	var from uint64
	calls := 0
	for {
		var err error
		if from, err = b.Parked(t.Context(), from, 1000, func(w delivery.Wakeup) { ns = append(ns, w.N) }); err != nil {
			t.Fatal(err)
		}
		calls++
		if from == 0 {
			break
		}
	}
	if len(ns) != parked || calls != 2 {
		t.Fatalf("%d of %d in %d calls", len(ns), parked, calls)
	}
	for i, n := range ns {
		if n != i {
			t.Fatalf("number %d is %d", i, n)
		}
	}
}
