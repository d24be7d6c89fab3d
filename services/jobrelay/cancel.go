package jobrelay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

type cancelCommand struct {
	topologyFlags `embed:""`

	IDs     []string      `arg:"" name:"ID" optional:"" help:"The ids of the messages."`
	Service string        `name:"service" env:"-" help:"Instead of ids: every job of this service that has no end, the newest 10000; needs --all."`
	All     bool          `name:"all" env:"-" help:"Say that --service is meant."`
	Reason  string        `name:"reason" env:"-" help:"Why, in one line of at most 256 bytes; the webhook is told."`
	Wait    time.Duration `name:"wait" env:"-" default:"30s" help:"How long to wait for each job's end; 0: not."`
}

// maxCancelReason bounds a reason, in bytes.
const maxCancelReason = 256

// Help is what cancel --help says besides its flags.
func (*cancelCommand) Help() string {
	return "A job whose Job does not exist yet ends at once, and none is created. A Job that runs is deleted, and ends when its Pods are gone. " +
		"Either way the webhook gets 99 CANCELLED. A job that ended by itself before keeps its end.\n\n" +
		"Exit code 1: an id is not known, or its job had its end before, or has none yet after --wait."
}

// Validate says what is wrong with the arguments; kong calls it.
func (c *cancelCommand) Validate() error {
	switch {
	case c.Service == "" && len(c.IDs) == 0:
		return errors.New("name an ID, or --service and --all")
	case c.Service != "" && len(c.IDs) > 0:
		return errors.New("--service is instead of ids: leave one of the two out")
	case (c.Service != "") != c.All:
		return errors.New("--service and --all go together")
	case len(c.Reason) > maxCancelReason || strings.ContainsFunc(c.Reason, unicode.IsControl):
		return fmt.Errorf("--reason takes one line of up to %d bytes", maxCancelReason)
	}
	return nil
}

// cancelled is what is printed of one.
type cancelled struct {
	ID      string     `json:"id"`
	Key     string     `json:"key"`
	Service string     `json:"service,omitempty"`
	Outcome string     `json:"outcome"` // cancelled, too late, requested, unknown
	Status  *int       `json:"status,omitempty"`
	Code    string     `json:"code,omitempty"`
	At      *time.Time `json:"at,omitempty"` // of the end
}

func (c *cancelCommand) Run(ctx context.Context, console *console) error {
	b, err := c.reader(ctx, console, broker.StreamRequests, broker.StreamEvents, broker.StreamCommands, broker.StreamWakeups)
	if err != nil {
		return err
	}
	defer b.Close()
	ids := c.IDs
	if c.Service != "" {
		if ids, err = unended(ctx, console, b, c.Service); err != nil {
			return interrupted(ctx, err)
		}
	}
	// All are asked for before any is waited for.
	results := make([]cancelled, len(ids))
	for i, id := range ids {
		if results[i], err = c.ask(ctx, b, id); err != nil {
			return interrupted(ctx, err)
		}
	}
	failed := 0
	deadline := time.Now().Add(c.Wait)
	for _, r := range results {
		if r.Outcome == "requested" && c.Wait > 0 {
			if r, err = await(ctx, b, r, deadline); err != nil {
				return interrupted(ctx, err)
			}
		}
		if r.Outcome != "cancelled" && (r.Outcome != "requested" || c.Wait > 0) {
			failed++
		}
		if err := console.print(r, r.text()); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d were not cancelled", failed, len(ids))
	}
	return nil
}

func (c *cancelCommand) ask(ctx context.Context, b *broker.Broker, id string) (cancelled, error) {
	out := cancelled{ID: id, Key: event.Key(id), Outcome: "unknown"}
	e, err := b.Request(ctx, out.Key)
	if errors.Is(err, broker.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if r, ok := e.Data.(*jobsv1.JobRequested); ok {
		out.Service = r.GetService()
	}
	if ended, err := out.look(ctx, b); ended || err != nil {
		if out.Outcome == "cancelled" {
			out.Outcome = "too late" // by an earlier command
		}
		return out, err
	}
	out.Outcome = "requested"
	return out, b.Cancel(ctx, broker.Cancel{ID: id, Reason: c.Reason, At: time.Now().UTC()})
}

// look reads the end of the job's log, where it has one.
func (r *cancelled) look(ctx context.Context, b *broker.Broker) (ended bool, err error) {
	tail, err := b.Tail(ctx, r.Service, r.Key)
	if err != nil || !tail.Last.Type.Terminal() {
		return false, err
	}
	status, at := tail.Last.Type.Status(), tail.Last.Time.UTC()
	r.Status, r.At, r.Outcome = &status, &at, "too late"
	if d, ok := tail.Last.Data.(interface{ GetError() *jobsv1.Error }); ok {
		if r.Code = d.GetError().GetErrorCode(); r.Code == "CANCELLED" {
			r.Outcome = "cancelled"
		}
	}
	return true, nil
}

// lookEvery is between two looks at a log that has no end yet.
const lookEvery = 200 * time.Millisecond

func await(ctx context.Context, b *broker.Broker, r cancelled, until time.Time) (cancelled, error) {
	for {
		ended, err := r.look(ctx, b)
		if ended || err != nil || time.Now().After(until) {
			return r, err
		}
		if err := process.Sleep(ctx, lookEvery); err != nil {
			return r, err
		}
	}
}

func (r cancelled) text() string {
	switch r.Outcome {
	case "unknown":
		return r.ID + " is not known: no such request is kept\n"
	case "requested":
		return r.ID + " is to be cancelled and has no end yet\n"
	}
	end := fmt.Sprintf("status %d", *r.Status)
	if r.Code != "" {
		end += " " + r.Code
	}
	return fmt.Sprintf("%s %s: %s at %s\n", r.ID, r.Outcome, end, r.At.Local().Format(time.DateTime))
}

// unended are the ids of a service's jobs that have no end, in order; what it says
// tells whether there may be more.
func unended(ctx context.Context, console *console, b *broker.Broker, service string) ([]string, error) {
	jobs, err := b.Jobs(ctx, broker.JobFilter{
		Service: service, States: []timeline.State{timeline.Waiting, timeline.Started, timeline.Running}, Limit: mostJobs,
	})
	if errors.Is(err, broker.ErrTooMany) {
		console.say("a million events were looked at, and there may be older jobs without an end")
		err = nil
	}
	if err != nil {
		return nil, err
	}
	console.say("%d jobs of %s have no end", len(jobs), service)
	if len(jobs) == mostJobs {
		console.say("there may be more: say it again when these have theirs")
	}
	var ids []string
	for _, j := range jobs {
		ids = append(ids, j.ID)
	}
	slices.Sort(ids)
	return ids, nil
}
