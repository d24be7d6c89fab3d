package jobrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

type topCommand struct {
	topologyFlags `embed:""`

	Since    since         `name:"since" env:"-" default:"25h" placeholder:"25h|TIME" help:"Count the jobs with an event since: a time before now (90m, 2d) or an RFC 3339 time. No Job runs for more than 24 hours."`
	Interval time.Duration `name:"interval" env:"-" default:"2s" help:"Between two pages on a terminal (1s to 1m)."`
	Once     bool          `name:"once" env:"-" help:"Print one page and end, as it does where nobody reads on a terminal."`
}

// Help is what top --help says besides its flags.
func (*topCommand) Help() string {
	return "The counts are of the newest million events at most; those of a job that runs since before are not seen. " +
		"It makes an ordered consumer of its own on EVENTS, which is an operator's right."
}

// Validate says what is wrong with the arguments; kong calls it.
func (t *topCommand) Validate() error {
	if t.Interval < time.Second || t.Interval > time.Minute {
		return errors.New("--interval takes 1s to 1m")
	}
	return nil
}

// The codes that make a page of a terminal, and give back what was on it.
const (
	pageBegin = "\x1b[?1049h\x1b[?25l"
	pageEnd   = "\x1b[?25h\x1b[?1049l"
	pageNew   = "\x1b[H\x1b[2J"
)

func (t *topCommand) Run(ctx context.Context, c *console) error {
	b, err := t.reader(ctx, c, broker.StreamEvents, broker.StreamRequests, broker.StreamWakeups, broker.StreamControls, broker.StreamDeadLetters, broker.StreamStatus)
	if err != nil {
		return err
	}
	defer b.Close()
	counting := b.NewCounting(t.Since.Time)
	ctx, stop := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := counting.Run(ctx); err != nil {
			stop(err)
		}
	}()
	defer func() {
		stop(nil)
		<-ended
	}()
	if t.Once || c.machine != nil || !isatty.IsTerminal(os.Stdout.Fd()) {
		select {
		case <-counting.Ready():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		o, err := counting.Overview(ctx)
		if err != nil {
			return interrupted(ctx, err)
		}
		return c.print(o, overviewText(c, o))
	}
	fmt.Fprint(c.out, pageBegin)
	defer fmt.Fprint(c.out, pageEnd)
	for {
		o, err := counting.Overview(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			fmt.Fprintf(c.out, "%s%v\n", pageNew, err) // the server may come back
		} else {
			fmt.Fprint(c.out, pageNew+overviewText(c, o))
		}
		if process.Sleep(ctx, t.Interval) != nil {
			return context.Cause(ctx)
		}
	}
}

// mostFailing is how many endpoints a page shows.
const mostFailing = 10

// overviewText is a page for people.
func overviewText(c *console, o timeline.Overview) string {
	var text strings.Builder
	counting := map[bool]string{true: ", still counting"}[o.Counting]
	fmt.Fprintf(&text, "%s  jobs of the last %s%s\n\n", o.At.Local().Format(time.DateTime), short(o.At.Sub(o.Since)), counting)
	oldest := map[timeline.State]timeline.Summary{}
	for _, s := range o.Oldest {
		oldest[s.State] = s
	}
	rows := []string{"JOBS\t" + c.paint(neutral, "COUNT") + "\tA MINUTE\tFOR LONGEST"}
	for _, s := range timeline.States() {
		perMinute, longest := "-", ""
		if s != timeline.Waiting {
			perMinute = strconv.Itoa(o.PerMinute[s])
		}
		if of, ok := oldest[s]; ok {
			longest = short(o.At.Sub(of.At)) + "  " + cmp.Or(cut(oneLine(of.ID)), of.LogKey) + "  " + cmp.Or(of.Service, "-")
		}
		color := neutral
		if o.Jobs[s] > 0 {
			color = stateColor(s)
		}
		rows = append(rows, strings.Join([]string{string(s), c.paint(color, strconv.Itoa(o.Jobs[s])), perMinute, longest}, "\t"))
	}
	text.WriteString(trimmed(columns("", rows...)))
	age := ""
	if o.Callbacks.Oldest != nil {
		age = ", the oldest due for " + short(o.At.Sub(*o.Callbacks.Oldest))
	}
	fmt.Fprintf(&text, "\ncallbacks     %d events with the notifiers, %d parked%s; %d dead letters, replayed ones among them\n", o.Callbacks.Pending, o.Callbacks.Parked, age, o.Callbacks.DeadLetters)
	var replicas []string
	for _, r := range o.Replicas {
		replica := fmt.Sprintf("%s %d/%d", r.Role, r.Ready, r.All)
		if r.Ready < r.All {
			replica = c.paint(red, replica)
		}
		replicas = append(replicas, replica)
	}
	fmt.Fprintf(&text, "ready         %s\n", cmp.Or(strings.Join(replicas, ", "), "no replica has reported in the last minute"))
	if len(o.Paused) > 0 {
		fmt.Fprintf(&text, "paused        %s\n", c.paint(yellow, strings.Join(o.Paused, ", ")))
	}
	if len(o.Failing) == 0 {
		return text.String()
	}
	rows = []string{"FAILING ENDPOINT\tBREAKER\tFOR\tFAILURES\tLAST"}
	for _, e := range o.Failing[:min(len(o.Failing), mostFailing)] {
		rows = append(rows, strings.Join([]string{e.Endpoint, e.Breaker, short(o.At.Sub(e.Since)), strconv.Itoa(e.Failures), e.Cause}, "\t"))
	}
	text.WriteString("\n" + columns("", rows...))
	if more := len(o.Failing) - mostFailing; more > 0 {
		fmt.Fprintf(&text, "and %d more: `jobrelay endpoints`\n", more)
	}
	return text.String()
}

// trimmed is the text without spaces at the ends of its lines.
func trimmed(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}
