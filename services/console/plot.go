package console

import (
	"fmt"
	"slices"
	"time"

	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// plot is how often something happened in each minute of the last hour.
type plot struct {
	Name, Kind string
	Last       int // in the last whole minute
	Sum, Most  int
	Bars       []plotBar
	Says       string // the same in words
}

// plotBar is a minute: a bar in a picture of 240 by 48.
type plotBar struct {
	X, Y, Width, Height float64
	Title               string
}

const plotHeight = 48

// plots are those of Now.
func plots(all []Rate, at time.Time) []plot {
	of := func(name, kind string, which ...timeline.State) plot {
		var r Rate
		for _, s := range which {
			one := all[slices.Index(states, s)]
			r.Last += one.Last
			r.Sum += one.Sum
			for i, n := range one.PerMinute {
				r.PerMinute[i] += n
				r.Most = max(r.Most, r.PerMinute[i])
			}
		}
		return newPlot(name, kind, r, at)
	}
	return []plot{
		of("Jobs started", "", timeline.Started),
		of("Completed", "good", timeline.Completed),
		of("Failed and exceptions", "bad", timeline.Failed, timeline.Exception),
		of("Refused", "bad", timeline.Rejected),
	}
}

func newPlot(name, kind string, r Rate, at time.Time) plot {
	p := plot{
		Name: name, Kind: kind, Last: r.Last, Sum: r.Sum, Most: r.Most,
		Says: fmt.Sprintf("%s: %d in the last whole minute, %d in the last hour, %d in the busiest minute", name, r.Last, r.Sum, r.Most),
	}
	for i, n := range r.PerMinute {
		if n == 0 {
			continue
		}
		h := max(2, float64(n)/float64(max(r.Most, 1))*(plotHeight-2))
		begin := at.UTC().Truncate(time.Minute).Add(time.Duration(i-hour+1) * time.Minute)
		p.Bars = append(p.Bars, plotBar{X: float64(i) * 4, Y: plotHeight - h, Width: 3, Height: h, Title: fmt.Sprintf("%s UTC: %d", begin.Format("15:04"), n)})
	}
	return p
}
