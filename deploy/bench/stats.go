package main

import (
	"fmt"
	"math"
	"slices"
)

// spread is the median of some values, their quartiles and their ends.
type spread struct {
	Median        float64 `json:"median"`
	LowerQuartile float64 `json:"lowerQuartile"`
	UpperQuartile float64 `json:"upperQuartile"`
	Min           float64 `json:"min"`
	Max           float64 `json:"max"`
}

// spreadOf is that of at least one value.
func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{
		Median: quantile(sorted, 0.5), LowerQuartile: quantile(sorted, 0.25), UpperQuartile: quantile(sorted, 0.75),
		Min: sorted[0], Max: sorted[len(sorted)-1],
	}
}

// quantile interpolates between the two values next to it, as R (type 7) and
// spreadsheets do.
func quantile(sorted []float64, p float64) float64 {
	below, fraction := math.Modf(p * float64(len(sorted)-1))
	i := int(below)
	if fraction == 0 {
		return sorted[i]
	}
	return sorted[i] + fraction*(sorted[i+1]-sorted[i])
}

// comparison is how a goal and a figure are compared.
type comparison string

const (
	atLeast comparison = "≥"
	atMost  comparison = "≤"
	exactly comparison = "="
)

// goal is what a row's ratio, or a counter of our side, is to be.
type goal struct {
	Counter string // empty: the ratio
	Is      comparison
	Value   float64
}

func (g goal) String() string {
	if g.Counter == "" {
		return fmt.Sprintf("%s %.2f", g.Is, g.Value)
	}
	return fmt.Sprintf("%s %g", g.Is, g.Value)
}

// met judges the median; what is to be exact must be so in each pair.
func (g goal) met(s spread) bool {
	switch g.Is {
	case atLeast:
		return s.Median >= g.Value
	case atMost:
		return s.Median <= g.Value
	default:
		return s.Min == g.Value && s.Max == g.Value
	}
}
