package jobrelay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// jobSelection says which jobs, or which of their events, are meant.
type jobSelection struct {
	topologyFlags `embed:""`

	Service string `name:"service" env:"-" help:"Only those of this service."`
	Since   since  `name:"since" env:"-" placeholder:"1h|TIME" help:"Only those since: a time before now (90m, 2d) or an RFC 3339 time."`
}

// check says what is wrong with the arguments.
func (s *jobSelection) check() error {
	if s.Service != "" && !request.IsService(s.Service) {
		return errors.New("--service takes what a message's service may be: up to 63 letters, digits, dashes, dots and underscores")
	}
	return nil
}

// statusFlag is a state by its name, or by the callback that it leads to.
type statusFlag []timeline.State

// statusNames are the states that a status flag may say, 99 for two of them.
var statusNames = func() map[string]statusFlag {
	out := map[string]statusFlag{"0": {timeline.Started}, "1": {timeline.Running}, "2": {timeline.Completed}, "3": {timeline.Failed}, "99": {timeline.Exception, timeline.Rejected}}
	for _, s := range timeline.States() {
		out[string(s)] = statusFlag{s}
	}
	return out
}()

// UnmarshalText reads waiting,failed,99.
func (s *statusFlag) UnmarshalText(text []byte) error {
	*s = nil
	for name := range strings.SplitSeq(string(text), ",") {
		states, ok := statusNames[name]
		if !ok {
			return fmt.Errorf("%q is no status: waiting, started, running, completed, failed, exception, rejected, or a callback's 0, 1, 2, 3, 99", name)
		}
		*s = append(*s, states...)
	}
	return nil
}

// values are what a shell completes.
func (statusFlag) values() []string { return slices.Sorted(maps.Keys(statusNames)) }

type listCommand struct {
	jobSelection `embed:""`

	Status statusFlag `name:"status" env:"-" placeholder:"STATE,…" help:"Only those that are waiting, started, running, completed, failed, exception or rejected; or a callback's 0, 1, 2, 3, 99."`
	Limit  int        `name:"limit" env:"-" default:"100" help:"How many, at most (1 to 10000)."`
}

// mostJobs bounds a listing.
const mostJobs = 10_000

// Help is what list --help says besides its flags.
func (*listCommand) Help() string {
	return "The time of a job is that of its last event, or of its acceptance while it waits for a Job. " +
		"At most the last million places of EVENTS, and of REQUESTS, are looked at."
}

// Validate says what is wrong with the arguments; kong calls it.
func (l *listCommand) Validate() error {
	if l.Limit < 1 || l.Limit > mostJobs {
		return fmt.Errorf("--limit takes 1 to %d", mostJobs)
	}
	return l.check()
}

func (l *listCommand) Run(ctx context.Context, c *console) error {
	b, err := l.reader(ctx, c, broker.StreamEvents, broker.StreamRequests, broker.StreamWakeups)
	if err != nil {
		return err
	}
	defer b.Close()
	all, err := b.Jobs(ctx, broker.JobFilter{Since: l.Since.Time, Service: l.Service, States: l.Status, Limit: l.Limit})
	if errors.Is(err, broker.ErrTooMany) {
		c.say("a million events were looked at, and there may be older ones that fit")
		err = nil
	}
	if err != nil {
		return interrupted(ctx, err)
	}
	if len(all) == l.Limit {
		c.say("there may be more: --limit takes up to %d", mostJobs)
	}
	return list(c, all, "WHEN\tSERVICE\tID\t"+c.paint(neutral, "STATE")+"\tCODE\tJOB", "no job that fits\n", func(s timeline.Summary) []string {
		return []string{
			s.At.Local().Format(time.DateTime), cmp.Or(s.Service, "-"), cmp.Or(cut(oneLine(s.ID)), "-"), c.paint(stateColor(s.State), string(s.State)),
			cmp.Or(s.Code, "-"), jobText(s),
		}
	})
}

// jobText is the Job with its namespace.
func jobText(s timeline.Summary) string {
	if s.Job == "" {
		return "-"
	}
	return s.Namespace + "/" + s.Job
}

type tailCommand struct {
	jobSelection `embed:""`

	Status statusFlag `name:"status" env:"-" placeholder:"STATE,…" help:"Only the events after which a job is started, running, completed, failed, exception or rejected; or a callback's 0, 1, 2, 3, 99."`
	Limit  int        `name:"limit" env:"-" default:"0" help:"End after so many; 0: go on."`
}

// Help is what tail --help says besides its flags.
func (*tailCommand) Help() string {
	return "Without --since it begins with the next event. It makes an ordered consumer of its own on EVENTS, which is an operator's right: " +
		"others read by a durable consumer that an operator made for them."
}

// Validate says what is wrong with the arguments; kong calls it.
func (t *tailCommand) Validate() error {
	if t.Limit < 0 {
		return errors.New("--limit takes 0 or more")
	}
	for _, s := range t.Status {
		if s == timeline.Waiting {
			return errors.New("no event tells that a job is waiting: see jobrelay list --status waiting")
		}
	}
	return t.check()
}

func (t *tailCommand) types() []event.Type {
	var out []event.Type
	for _, typ := range event.Types() {
		for _, s := range t.Status {
			if timeline.StateOf(typ) == s {
				out = append(out, typ)
			}
		}
	}
	return out
}

// logged is what is printed of an event for machines.
type logged struct {
	At       time.Time       `json:"at"`
	Sequence uint64          `json:"sequence"` // in the stream
	Service  string          `json:"service"`
	LogKey   string          `json:"logKey"`
	ID       string          `json:"id"`
	Type     event.Type      `json:"type"`
	Status   int             `json:"status"`
	N        int             `json:"n"` // in the job's log
	State    timeline.State  `json:"state"`
	Trace    string          `json:"traceparent,omitempty"`
	Data     json.RawMessage `json:"data"`
}

func (t *tailCommand) Run(ctx context.Context, c *console) error {
	b, err := t.reader(ctx, c, broker.StreamEvents)
	if err != nil {
		return err
	}
	defer b.Close()
	n := 0
	err = b.Follow(ctx, broker.EventFilter{Service: t.Service, Types: t.types(), Since: t.Since.Time}, func(e broker.Stored) error {
		data, err := event.DataJSON(e.Event)
		if err != nil {
			return err
		}
		record := logged{
			e.Time.UTC(), e.Sequence, e.Service, e.LogKey, e.ID, e.Type, e.Type.Status(), e.Event.Sequence, timeline.StateOf(e.Type), e.Trace, data,
		}
		if err := c.print(record, eventText(c, e)); err != nil {
			return err
		}
		if n++; n == t.Limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// eventText is an event in a line. The widths are those of most: nobody knows what
// comes next.
func eventText(c *console, e broker.Stored) string {
	steps := timeline.Draw(timeline.Records{LogKey: e.LogKey, Service: e.Service, Log: []event.Event{e.Event}}).Steps
	what, detail := "", ""
	if len(steps) == 1 {
		what, detail = stepText(c, steps[0])
	}
	s := timeline.Summarize(e.Service, e.Event)
	if s.Job != "" {
		detail = strings.TrimSpace(jobText(s) + "  " + detail)
	}
	return fmt.Sprintf("%s  %-10s  %-36s  %-13s  %s\n", e.Time.Local().Format(timeMillis), cmp.Or(e.Service, "-"), cmp.Or(cut(oneLine(e.ID)), "-"), what, detail)
}
