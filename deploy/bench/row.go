package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// side is one of the two that a row compares.
type side int

const (
	ours side = iota
	bare
)

// row is one line of the table: what is measured, against what.
type row struct {
	ID, Title  string
	Ours, Bare string // what the sides are
	Unit       string // of the rate
	Goals      []goal
	Slow       bool // runs only where it is asked for by name
	Once       bool // one pair, without a warm-up: what it measures is a count, not a speed
	// Run is one run of one side. It starts what it needs on the stage, which
	// ends all of it afterwards.
	Run func(ctx context.Context, s *stage, which side) (result, error)
}

// result is what one run gives.
type result struct {
	Rate      float64            `json:"rate"`
	Counters  map[string]float64 `json:"counters"`
	JetStream string             `json:"jetStream,omitempty"` // storage and sync of the server that took part
}

// pair is a run of each side, one right after the other.
type pair struct {
	Ours  result  `json:"ours"`
	Bare  result  `json:"bare"`
	Ratio float64 `json:"ratio"`
}

// measure runs a warm-up pair, which is not counted, then the pairs: ours first
// in one, last in the next.
func (r row) measure(ctx context.Context, l *lab, pairs int) (measured, error) {
	out := measured{ID: r.ID, Title: r.Title, Ours: r.Ours, Bare: r.Bare, Unit: r.Unit, goals: r.Goals}
	l.say("%s %s: %s against %s", r.ID, r.Title, r.Ours, r.Bare)
	first := 0 // the warm-up
	if r.Once {
		first, pairs = 1, 1
	}
	for i := first; i <= pairs; i++ {
		what := fmt.Sprintf("pair %d of %d", i, pairs)
		if i == 0 {
			what = "warm-up"
		}
		order := []side{ours, bare}
		if i%2 == 0 {
			slices.Reverse(order)
		}
		var p pair
		for _, which := range order {
			got, err := r.run(ctx, l, which, what, "")
			if err != nil {
				return measured{}, err
			}
			if which == ours {
				p.Ours = got
			} else {
				p.Bare = got
			}
		}
		p.Ratio = p.Ours.Rate / p.Bare.Rate
		if i > 0 {
			out.Pairs = append(out.Pairs, p)
		}
	}
	out.summarize()
	return out, nil
}

// profile is one more run of our side, under the CPU profiler.
func (r row) profile(ctx context.Context, l *lab) (file string, err error) {
	if file, err = filepath.Abs(filepath.Join(l.dir, r.ID+".pprof")); err != nil {
		return "", err
	}
	if _, err = r.run(ctx, l, ours, "with the profiler", file); err != nil {
		return "", err
	}
	l.say("profile: go tool pprof -http=: %s", file)
	return file, nil
}

func (r row) run(ctx context.Context, l *lab, which side, what, profile string) (result, error) {
	name := r.Ours
	if which == bare {
		name = r.Bare
	}
	s, err := l.stage(fmt.Sprintf("%s %s, %s", r.ID, what, name), profile)
	if err != nil {
		return result{}, err
	}
	before := usage()
	got, err := r.Run(ctx, s, which)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	if ended := s.close(); err == nil {
		err = ended
	}
	if err != nil {
		return result{}, err
	}
	if share, ok := before.othersUntil(usage()); ok {
		got.Counters[othersCPU] = 100 * share
	}
	l.say("%s: %.5g %s", s.name, got.Rate, r.Unit)
	return got, nil
}
