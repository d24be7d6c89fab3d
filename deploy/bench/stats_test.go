package main

import (
	"math"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3, 3, 3}},
		{[]float64{2, 1}, spread{1.5, 1.25, 1.75, 1, 2}},
		{[]float64{5, 1, 4, 2, 3}, spread{3, 2, 4, 1, 5}},
		{[]float64{0.4, 0.9, 0.8, 1.0}, spread{0.85, 0.7, 0.925, 0.4, 1}},
	} {
		got := spreadOf(c.values)
		for _, p := range [][2]float64{
			{got.Median, c.want.Median}, {got.LowerQuartile, c.want.LowerQuartile}, {got.UpperQuartile, c.want.UpperQuartile},
			{got.Min, c.want.Min}, {got.Max, c.want.Max},
		} {
			if math.Abs(p[0]-p[1]) > 1e-12 {
				t.Errorf("%v: %+v, want %+v", c.values, got, c.want)
				break
			}
		}
	}
	unsorted := []float64{3, 1, 2}
	if spreadOf(unsorted); unsorted[0] != 3 {
		t.Error("the values were sorted in place")
	}
}

func TestGoals(t *testing.T) {
	s := spread{Median: 1, LowerQuartile: 0.9, UpperQuartile: 1.1, Min: 0.5, Max: 1.5}
	for _, c := range []struct {
		goal goal
		met  bool
	}{
		{goal{"", atLeast, 1}, true},
		{goal{"", atLeast, 1.01}, false},
		{goal{"", atMost, 1}, true},
		{goal{"", atMost, 0.99}, false},
		{goal{"", exactly, 1}, false}, // not in every pair
	} {
		if got := c.goal.met(s); got != c.met {
			t.Errorf("%s: %v", c.goal, got)
		}
	}
	if !(goal{"", exactly, 1}).met(spread{1, 1, 1, 1, 1}) {
		t.Error("1 is not exactly 1")
	}
}

func TestCPUOfOthers(t *testing.T) {
	before := usage()
	if !before.known {
		t.Skip("this system does not tell")
	}
	for sum, end := 0.0, time.Now().Add(200*time.Millisecond); time.Now().Before(end); {
		sum = math.Sqrt(sum + 1)
	}
	after := usage()
	if own := after.ours - before.ours; own < 0.02 {
		t.Errorf("%g s of its own, after 0.2 s of work", own)
	}
	if share, ok := before.othersUntil(after); !ok || share < 0 || share > 1.1 {
		t.Errorf("%g %v", share, ok)
	}
}
