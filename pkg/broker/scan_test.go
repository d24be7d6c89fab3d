package broker_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// TestEventsAreReadByPlaces: forwards from anywhere, again and again, and backwards.
func TestEventsAreReadByPlaces(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	none := func(broker.Seen) { t.Error("there is no event") }
	if next, err := r.Scan(t.Context(), 1, none); err != nil || next != 1 {
		t.Errorf("of none: %d, %v", next, err)
	}
	if next, err := r.ScanBack(t.Context(), 1, 100, func(broker.Stored) bool { none(broker.Seen{}); return true }); err != nil || next != 0 {
		t.Errorf("back from none: %d, %v", next, err)
	}
	const all = 1203 // more than one answer has
	for i := range all {
		life(t, b, fmt.Sprint(i), "s", jobStarted)
	}
	var places []uint64
	next := uint64(1)
	for {
		after, err := r.Scan(t.Context(), next, func(e broker.Seen) { places = append(places, e.Place) })
		if err != nil {
			t.Fatal(err)
		}
		if after == next {
			break
		}
		next = after
	}
	extent, err := r.Extent(t.Context())
	if err != nil || extent.First != 1 || extent.Last != all || extent.Made.IsZero() {
		t.Errorf("%+v, %v", extent, err)
	}
	if len(places) != all || !slices.IsSorted(places) || next != all+1 {
		t.Errorf("%d events, then %d", len(places), next)
	}
	life(t, b, "new", "s", jobStarted)
	if after, err := r.Scan(t.Context(), next, func(e broker.Seen) { places = append(places, e.Place) }); err != nil || after != next+1 || places[len(places)-1] != next {
		t.Errorf("what is new: %d, %v", after, err)
	}
	// Backwards, with an end in each of the ways that it can have one.
	var back []uint64
	next, err = r.ScanBack(t.Context(), 1000, all, func(e broker.Stored) bool {
		back = append(back, e.Sequence)
		return len(back) < 600
	})
	if err != nil || next != 400 || back[0] != 999 || back[599] != 400 {
		t.Errorf("until enough: %d, %v", next, err)
	}
	if next, err = r.ScanBack(t.Context(), next, all, func(e broker.Stored) bool { back = append(back, e.Sequence); return true }); err != nil || next != 0 || len(back) != 999 {
		t.Errorf("until the beginning: %d, %v, %d", next, err, len(back))
	}
	if next, err = r.ScanBack(t.Context(), 1000, 500, func(broker.Stored) bool { return true }); err != nil || next != 500 {
		t.Errorf("until so many: %d, %v", next, err)
	}
}

// TestWhatIsParkedIsReadByItsPurpose: callbacks and launches, with their times.
func TestWhatIsParkedIsReadByItsPurpose(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	due := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	for token, w := range map[string]broker.Wakeup{
		"k":   {Purpose: broker.PurposeLaunch, Payload: []byte(`{"key":"k","tries":2,"cause":"paused"}`)},
		"k.1": {Purpose: broker.PurposeCallback, Payload: []byte(`{"key":"k","n":1,"endpoint":"http://h.example"}`)},
		"bad": {Purpose: broker.PurposeCallback, Payload: []byte(`{`)},
	} {
		w.Token = token
		if err := b.Schedule(t.Context(), w, due); err != nil {
			t.Fatal(err)
		}
	}
	var callbacks []timeline.Parked
	if next, err := r.ParkedCallbacks(t.Context(), 0, 100, func(p timeline.Parked) { callbacks = append(callbacks, p) }); err != nil || next != 0 {
		t.Errorf("%d, %v", next, err)
	}
	if len(callbacks) != 1 || callbacks[0].N != 1 || !callbacks[0].Due.Equal(due) || callbacks[0].Endpoint != "http://h.example" {
		t.Errorf("%+v", callbacks)
	}
	launches := map[string]timeline.Launch{}
	if _, err := r.ParkedLaunches(t.Context(), 0, 100, func(key string, l timeline.Launch) { launches[key] = l }); err != nil {
		t.Fatal(err)
	}
	if l := launches["k"]; len(launches) != 1 || l.Tries != 2 || l.Cause != "paused" || !l.Due.Equal(due) {
		t.Errorf("%+v", launches)
	}
}

// TestMoves: whatever becomes of a log's callbacks is another mark, and nothing else is.
func TestMoves(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	key := event.Key("id")
	marks := map[uint64]string{}
	moved := func(what string) {
		t.Helper()
		mark, err := r.Moves(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if before, was := marks[mark]; was {
			t.Errorf("%s has the mark of %s", what, before)
		}
		marks[mark] = what
		if again, err := r.Moves(t.Context(), key); err != nil || again != mark {
			t.Errorf("nothing became of it, and its mark is another: %v", err)
		}
	}
	moved("nothing")
	entry, err := b.SwapLedger(t.Context(), key, broker.LedgerEntry{}, delivery.Ledger{Next: 1})
	if err != nil {
		t.Fatal(err)
	}
	moved("a delivery")
	if err := b.Schedule(t.Context(), broker.Wakeup{Purpose: broker.PurposeCallback, Token: key + ".1", Payload: []byte(`{}`)}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	moved("a schedule")
	if _, err := b.SwapLedger(t.Context(), key, entry, delivery.Ledger{Next: 2}); err != nil {
		t.Fatal(err)
	}
	moved("another delivery")
	if _, err := b.SwapLedger(t.Context(), key+".r1", broker.LedgerEntry{}, delivery.Ledger{Next: 1}); err != nil {
		t.Fatal(err)
	}
	moved("a replay")
}

// TestLettersAreReadByPlaces: and a letter that is stored again has another place.
func TestLettersAreReadByPlaces(t *testing.T) {
	s := server(t)
	b, r := open(t, s), reads(t, s)
	for _, n := range []int{0, 1, 0} {
		if err := b.PutLetter(t.Context(), delivery.Letter{LogKey: "k", N: n, Service: "s", Endpoint: "http://h.example"}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	next, err := r.ScanLetters(t.Context(), 1, func(place uint64, l delivery.Letter) { got = append(got, fmt.Sprint(place, " ", l.N)) })
	if err != nil || next != 4 || !slices.Equal(got, []string{"2 1", "3 0"}) {
		t.Errorf("%v, then %d, %v", got, next, err)
	}
	if first, last, err := r.LetterPlaces(t.Context()); err != nil || first > 2 || last != 3 {
		t.Errorf("%d to %d, %v", first, last, err)
	}
	run, err := b.ReplayBy(t.Context(), []delivery.Letter{{LogKey: "k", N: 0, Service: "s"}}, "ada")
	if err != nil || run.By != "ada" {
		t.Errorf("%+v, %v", run, err)
	}
}
