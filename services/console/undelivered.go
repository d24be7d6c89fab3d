package console

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// undeliveredView is the page Undelivered.
type undeliveredView struct {
	Endpoints []Endpoint
	Endpoint  string // the one that is looked at; empty: all
	Here      *Endpoint
	Letters   []Letter
	Fit       int
	Parked    []parkedRow
	ParkedFit int
	Replayed  bool // letters that a replay has delivered are listed, too
	Next      string
	Open      int // letters of the endpoint that no replay has delivered
	More      bool
	Stale     bool
	At        time.Time
	Toggle    string // address of the page with, or without, what was replayed
}

// parkedRow is a callback that waits for its next try.
type parkedRow struct {
	LogKey, ID, Service string
	Event               int // ordinal in its log
	Callback            int // -1: not known
	Attempts            int
	Last                delivery.Attempt
	Due, First          time.Time
	Replay              bool
}

func (s *server) showUndelivered(ctx context.Context, f *frame, r *http.Request) error {
	f.Title, f.Live = "Undelivered", "page=undelivered"
	q := r.URL.Query()
	before, err := strconv.ParseUint(cmp.Or(q.Get("before"), "0"), 10, 64)
	if err != nil {
		return problem{http.StatusBadRequest, errors.New("before takes a place of the dead letters, as the page's own links have it")}
	}
	v := undeliveredView{Endpoint: q.Get("endpoint"), Replayed: q.Get("replayed") != ""}
	all, more, lettersErr := s.letters.all(ctx)
	present, err := s.glance.read(ctx)
	v.More, v.Stale, v.At = more, err != nil || lettersErr != nil, present.At
	v.Endpoints = withLetters(present.Failing, all)
	for i, e := range v.Endpoints {
		if v.Endpoint != "" && e.Name == v.Endpoint {
			v.Here = &v.Endpoints[i]
		}
	}
	address := func(replayed bool, before uint64) string {
		q := url.Values{}
		if v.Endpoint != "" {
			q.Set("endpoint", v.Endpoint)
		}
		if replayed {
			q.Set("replayed", "1")
		}
		if before > 0 {
			q.Set("before", strconv.FormatUint(before, 10))
		}
		return address("/undelivered", q)
	}
	for _, l := range all {
		if v.Endpoint != "" && l.Endpoint != v.Endpoint {
			continue
		}
		if l.Replayed == nil {
			v.Open++
		} else if !v.Replayed {
			continue
		}
		v.Fit++
		switch {
		case before > 0 && l.Place >= before:
		case len(v.Letters) < pageOfLetters:
			v.Letters = append(v.Letters, l)
		case v.Next == "":
			v.Next = address(v.Replayed, v.Letters[pageOfLetters-1].Place)
		}
	}
	for _, p := range present.Parked {
		if v.Endpoint != "" && p.Endpoint != v.Endpoint {
			continue
		}
		if v.ParkedFit++; len(v.Parked) < pageOfLetters {
			v.Parked = append(v.Parked, s.parkedRow(p))
		}
	}
	v.Toggle = address(!v.Replayed, 0)
	f.Body = v
	return nil
}

func (s *server) parkedRow(p timeline.Parked) parkedRow {
	out := parkedRow{LogKey: p.Key, Event: p.N, Callback: -1, Attempts: len(p.Attempts), Due: p.Due, First: p.First, Replay: p.Run != nil}
	if p.Run != nil && p.N >= 0 && p.N < len(p.Run.Letters) {
		out.Event = p.Run.Letters[p.N]
	}
	if n := len(p.Attempts); n > 0 {
		out.Last = p.Attempts[n-1]
	}
	if j, ok := s.index.Find(p.Key); ok {
		out.ID, out.Service, out.Callback = j.ID, j.Service, j.Callback(out.Event)
	}
	return out
}

// withLetters adds the letters that no replay has delivered to their endpoints.
func withLetters(failing []Endpoint, all []Letter) []Endpoint {
	counts := map[string]int{}
	for _, l := range all {
		if l.Replayed == nil {
			counts[l.Endpoint]++
		}
	}
	out := make([]Endpoint, 0, len(failing)+len(counts))
	for _, e := range failing {
		e.Letters = counts[e.Name]
		delete(counts, e.Name)
		out = append(out, e)
	}
	for name, n := range counts {
		out = append(out, Endpoint{Name: name, Letters: n})
	}
	sortEndpoints(out)
	return out
}
