package console

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// Steps that the log tells without an event of their own.
const (
	jobCreated   timeline.What = "created"   // the Job's creation, by Kubernetes' clock
	podScheduled timeline.What = "scheduled" // its Pod has a node
)

// withTimes adds to the steps what the events say of times that are no event's: when
// the queue took the message, when the Job was created and its Pod scheduled. The
// request is not read; so the acceptance, between the first two, is not known.
func withTimes(steps []timeline.Step, log []event.Event) []timeline.Step {
	out := slices.Clone(steps)
	started, ok := first(out, timeline.JobStarted)
	if !ok {
		return out
	}
	created := started.At
	if d, ok := log[len(log)-1].Data.(interface{ GetTimes() *jobsv1.Times }); ok && d.GetTimes().GetCreatedAt() != nil {
		if at := d.GetTimes().GetCreatedAt().AsTime(); at.Before(created) { // whole seconds, by another clock
			created = at
		}
		out = append(out, timeline.Step{At: created, What: jobCreated})
		if seconds := d.GetTimes().GetScheduleSeconds(); seconds > 0 {
			at := created.Add(time.Duration(seconds) * time.Second)
			if pod, ok := first(out, timeline.PodStarted); ok && at.After(pod.At) {
				at = pod.At
			}
			out = append(out, timeline.Step{At: at, What: podScheduled})
		}
	}
	if _, known := first(out, timeline.Queued); !known && started.QueueMilliseconds > 0 {
		queue := time.Duration(started.QueueMilliseconds) * time.Millisecond
		out = append(out, timeline.Step{At: created.Add(-queue), What: timeline.Queued})
	}
	slices.SortStableFunc(out, func(a, b timeline.Step) int { return a.At.Compare(b.At) })
	return out
}

// Measures of the picture, in its own units.
const (
	pictureWidth = 920
	plotLeft     = 132
	plotRight    = 690
	laneHeight   = 38
	lanesTop     = 34
	axisHeight   = 34
	leastGap     = 7  // between two points
	tickRoom     = 92 // that the label of a time needs
	gapRoom      = 40 // that the label of a duration needs
)

// picture is a job over time: a lane for the Job, and one for each callback.
type picture struct {
	Width, Height, Left, Right, Results, AxisY int
	Lanes                                      []lane
	Ticks                                      []tick
	Gaps                                       []gap
	Now                                        float64 // where now is; 0: it is not in the picture
	Title, Desc                                string
}

type lane struct {
	Name, Result, Kind string // Kind: good, bad, wait or empty
	Y, Mid             int
	Bars               []bar
	Marks              []mark
}

// bar is a span of time.
type bar struct {
	X, Width     float64
	Class, Title string
	Label        string // where there is room for it
	LabelX       float64
}

// mark is a moment. Its shape says what it is, and its title in words.
type mark struct {
	X            float64
	Shape, Title string
}

type tick struct {
	X     float64
	At    time.Time
	Label string
	Day   bool // the day is said, too
	Tenth bool // tenths of a second are
}

type gap struct {
	X     float64
	Label string
}

// axis maps times to the picture. A wait is drawn the longer the longer it was, by the
// root of it: hours of retries leave room for the seconds before them.
type axis struct {
	times []time.Time
	xs    []float64
}

func newAxis(times []time.Time) axis {
	slices.SortFunc(times, time.Time.Compare)
	a := axis{times: slices.CompactFunc(times, time.Time.Equal)}
	n := len(a.times)
	a.xs = make([]float64, n)
	if n == 0 {
		return a
	}
	a.xs[0] = plotLeft + 8
	room := float64(plotRight-plotLeft) - 16
	least := math.Min(leastGap, room/2/float64(max(n-1, 1)))
	sum := 0.0
	for i := 1; i < n; i++ {
		sum += math.Sqrt(a.times[i].Sub(a.times[i-1]).Seconds())
	}
	for i := 1; i < n; i++ {
		share := math.Sqrt(a.times[i].Sub(a.times[i-1]).Seconds()) / sum
		a.xs[i] = a.xs[i-1] + least + share*(room-least*float64(n-1))
	}
	return a
}

// x is where a time is; between two points in proportion.
func (a axis) x(at time.Time) float64 {
	i, found := slices.BinarySearchFunc(a.times, at, time.Time.Compare)
	switch {
	case found:
		return a.xs[i]
	case i == 0:
		return a.xs[0]
	case i == len(a.times):
		return a.xs[i-1]
	}
	share := float64(at.Sub(a.times[i-1])) / float64(a.times[i].Sub(a.times[i-1]))
	return a.xs[i-1] + share*(a.xs[i]-a.xs[i-1])
}

// draw makes the picture of a job's steps and waits, as of a time; nil: there is
// nothing to draw.
func draw(steps []timeline.Step, waiting []timeline.Wait, at time.Time) *picture {
	if len(steps) == 0 {
		return nil
	}
	var times []time.Time
	for _, s := range steps {
		times = append(times, s.At)
	}
	if len(waiting) > 0 {
		times = append(times, at)
	}
	for _, w := range waiting {
		if w.Until != nil && w.Until.After(at) {
			times = append(times, *w.Until)
		}
	}
	a := newAxis(times)
	p := &picture{Width: pictureWidth, Left: plotLeft, Right: plotRight, Results: plotRight + 14}
	p.Lanes = append(p.Lanes, jobLane(a, steps, waiting, at))
	for _, status := range []int{0, 1, 2, 3, 99} {
		if l, ok := callbackLane(a, status, steps, waiting, at); ok {
			p.Lanes = append(p.Lanes, l)
		}
	}
	for i := range p.Lanes {
		p.Lanes[i].Y = lanesTop + i*laneHeight
		p.Lanes[i].Mid = p.Lanes[i].Y + laneHeight/2
	}
	p.AxisY = lanesTop + len(p.Lanes)*laneHeight + 4
	p.Height = p.AxisY + axisHeight
	if len(waiting) > 0 {
		p.Now = a.x(at)
	}
	p.label(a)
	p.describe(steps, a)
	return p
}

// label writes times below and durations above, where there is room.
func (p *picture) label(a axis) {
	n := len(a.times)
	whole := a.times[n-1].Sub(a.times[0])
	day, tenth := whole > 20*time.Hour, whole < 20*time.Second
	last := math.Inf(-1)
	for i, at := range a.times {
		if a.xs[i]-last < tickRoom || i < n-1 && i > 0 && a.xs[n-1]-a.xs[i] < tickRoom {
			continue
		}
		last = a.xs[i]
		form := "15:04:05"
		if day {
			form = "2 Jan 15:04"
		}
		if tenth {
			form = "15:04:05.0"
		}
		p.Ticks = append(p.Ticks, tick{X: a.xs[i], At: at.UTC(), Label: at.UTC().Format(form), Day: day, Tenth: tenth})
	}
	for i := 1; i < n; i++ {
		if w := a.xs[i] - a.xs[i-1]; w >= gapRoom {
			p.Gaps = append(p.Gaps, gap{a.xs[i-1] + w/2, duration(a.times[i].Sub(a.times[i-1]))})
		}
	}
}

func (p *picture) describe(steps []timeline.Step, a axis) {
	var said []string
	for _, l := range p.Lanes {
		if l.Result != "" {
			said = append(said, l.Name+": "+l.Result)
		}
	}
	p.Title = fmt.Sprintf("Timeline over %s", duration(a.times[len(a.times)-1].Sub(a.times[0])))
	p.Desc = strings.Join(said, ". ") + fmt.Sprintf(". Its %d steps are in the table below.", len(steps))
}

// first is the first step of one of the kinds; false: there is none.
func first(steps []timeline.Step, kinds ...timeline.What) (timeline.Step, bool) {
	i := slices.IndexFunc(steps, func(s timeline.Step) bool { return slices.Contains(kinds, s.What) })
	if i < 0 {
		return timeline.Step{}, false
	}
	return steps[i], true
}

func isEnd(s timeline.Step) bool {
	return slices.Contains([]timeline.What{timeline.JobCompleted, timeline.JobFailed, timeline.JobException, timeline.RequestRefused}, s.What)
}

// phases are the spans of the Job's lane: from the first of some steps to the next.
var phases = []struct {
	from        []timeline.What
	class, name string
}{
	{[]timeline.What{timeline.Queued}, "queue", "in the queue and with ingest"},
	{[]timeline.What{timeline.Accepted}, "queue", "waits for its Job"},
	{[]timeline.What{jobCreated, timeline.JobStarted}, "pending", "waits for a node"},
	{[]timeline.What{podScheduled}, "starting", "its Pod starts"},
	{[]timeline.What{timeline.PodStarted}, "running", "runs"},
}

// phaseLabels are short: they stand in a bar.
var phaseLabels = map[string]string{"queue": "queue", "pending": "pending", "starting": "starting", "running": "running"}

func jobLane(a axis, steps []timeline.Step, waiting []timeline.Wait, at time.Time) lane {
	l := lane{Name: "Job"}
	var end *timeline.Step
	for i := range steps {
		if isEnd(steps[i]) {
			end = &steps[i]
		}
	}
	until := at
	if end != nil {
		until = end.At
	}
	for i, ph := range phases {
		from, ok := first(steps, ph.from...)
		if !ok {
			continue
		}
		to := until
		for _, next := range phases[i+1:] {
			if s, ok := first(steps, next.from...); ok {
				to = s.At
				break
			}
		}
		if !to.After(from.At) {
			continue
		}
		b := bar{X: a.x(from.At), Width: a.x(to) - a.x(from.At), Class: ph.class, Title: ph.name + ": " + duration(to.Sub(from.At))}
		b.Label = phaseLabels[ph.class]
		l.Bars = append(l.Bars, b)
	}
	for _, s := range steps {
		if s.Attempt > 0 || s.What == timeline.Skipped || s.What == timeline.GaveUp {
			continue
		}
		what, detail := words(s)
		shape := "step"
		switch s.What {
		case timeline.JobCompleted:
			shape = "done"
		case timeline.JobFailed, timeline.JobException, timeline.RequestRefused:
			shape = "failed"
		}
		l.Marks = append(l.Marks, mark{a.x(s.At), shape, strings.TrimSpace(what + " " + detail + " at " + clock(s.At))})
	}
	for i := range l.Bars {
		l.Bars[i].place(l.Marks)
	}
	switch {
	case end != nil && end.What == timeline.JobCompleted:
		l.Result, l.Kind = "completed", "good"
	case end != nil:
		l.Result, l.Kind = cmp.Or(end.Code, string(end.What)), "bad"
	default:
		for _, w := range waiting {
			if w.Status == nil {
				l.Result, l.Kind = forText[w.For], "wait"
				break
			}
		}
	}
	return l
}

// labelRoom is what the label of a bar needs, between marks.
const labelRoom = 64

// place puts the bar's label where most room is between its marks, or leaves it out.
func (b *bar) place(marks []mark) {
	edges := []float64{b.X, b.X + b.Width}
	for _, m := range marks {
		if m.X > b.X && m.X < b.X+b.Width {
			edges = append(edges, m.X)
		}
	}
	slices.Sort(edges)
	widest := 0.0
	for i := 1; i < len(edges); i++ {
		if w := edges[i] - edges[i-1]; w > widest {
			widest, b.LabelX = w, edges[i-1]+w/2
		}
	}
	if widest < labelRoom {
		b.Label = ""
	}
}

// forText is what a job without an end waits for, in a few words.
var forText = map[timeline.For]string{
	timeline.ForResume: "paused", timeline.ForLaunch: "launch is parked", timeline.ForLauncher: "waits for a launcher",
	timeline.ForPod: "waits for a Pod", timeline.ForEnd: "running", timeline.ForCancel: "to be cancelled",
}

// callbackLane is that of a callback; false: nothing is known of it.
func callbackLane(a axis, status int, steps []timeline.Step, waiting []timeline.Wait, at time.Time) (lane, bool) {
	l := lane{Name: fmt.Sprintf("Callback %d", status)}
	from, known := time.Time{}, false
	var own []timeline.Step
	for _, s := range steps {
		if s.Status == nil || *s.Status != status {
			continue
		}
		if s.Attempt == 0 && s.What != timeline.Skipped && s.What != timeline.GaveUp {
			from, known = s.At, true // its event
			continue
		}
		own = append(own, s)
	}
	if !known && len(own) == 0 {
		return l, false
	}
	if !known {
		from = own[0].At
	}
	previous := from
	for _, s := range own {
		if s.At.After(previous) {
			l.Bars = append(l.Bars, waitBar(a, previous, s.At))
		}
		previous = s.At
		what, detail := words(s)
		l.Marks = append(l.Marks, mark{a.x(s.At), shapeOf(s), strings.TrimSpace(what + ": " + detail + ", at " + clock(s.At))})
		l.Result, l.Kind = resultOf(s)
	}
	for _, w := range waiting {
		if w.Status == nil || *w.Status != status {
			continue
		}
		to := at
		if w.Until != nil && w.Until.After(at) {
			to = *w.Until
			l.Marks = append(l.Marks, mark{a.x(to), "next", "next attempt, at " + clock(to)})
		}
		if to.After(previous) {
			l.Bars = append(l.Bars, waitBar(a, previous, to))
		}
		l.Result, l.Kind = waitResult(w), "wait"
	}
	if l.Result == "" {
		l.Result = "no record of it"
	}
	return l, true
}

func waitBar(a axis, from, to time.Time) bar {
	return bar{X: a.x(from), Width: a.x(to) - a.x(from), Class: "gap", Title: "waits " + duration(to.Sub(from))}
}

func shapeOf(s timeline.Step) string {
	switch s.What {
	case timeline.Delivered:
		return "done"
	case timeline.Skipped:
		return "skipped"
	case timeline.GaveUp:
		return "gave-up"
	default:
		return "failed"
	}
}

// resultOf is how a callback stands after a step, in a few words.
func resultOf(s timeline.Step) (text, kind string) {
	switch s.What {
	case timeline.Delivered:
		text = fmt.Sprintf("delivered, %d", s.HTTP)
		if s.Attempt > 1 {
			text = fmt.Sprintf("delivered, attempt %d", s.Attempt)
		}
		if s.Run != "" {
			text = "delivered by a replay"
		}
		return text, "good"
	case timeline.Skipped:
		return s.Reason, ""
	case timeline.GaveUp:
		return "given up: " + s.Reason, "bad"
	default:
		return fmt.Sprintf("attempt %d: %s", s.Attempt, answer(s)), "bad"
	}
}

func answer(s timeline.Step) string {
	if s.HTTP == 0 {
		return "no answer"
	}
	return fmt.Sprint(s.HTTP)
}

func waitResult(w timeline.Wait) string {
	switch w.For {
	case timeline.ForRetry:
		return fmt.Sprintf("attempt %d is due", w.Attempts+1)
	case timeline.ForPredecessor:
		return "after the one before"
	case timeline.ForReplay:
		return fmt.Sprintf("replay, attempt %d", w.Attempts+1)
	default:
		return "with a notifier"
	}
}
