package jobrelay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/recording"
	"github.com/jobrelay/jobrelay/services/watcher"
)

type explainCommand struct {
	File string `arg:"" name:"FILE" help:"A recorded watch stream; - is standard input."`
	Job  string `name:"job" env:"-" placeholder:"NAME" help:"The Job to explain; needed where the recording has several."`

	Deadlines watcher.DeadlineConfig `embed:""`
}

// Validate says what is wrong with the arguments; kong calls it.
func (e *explainCommand) Validate() error { return e.Deadlines.Validate() }

// Run prints the events that the recording leads to, and where it leads to no
// end, what was seen last.
func (e *explainCommand) Run(c *console) error {
	in, name := os.Stdin, "stdin"
	if e.File != "-" {
		f, err := os.Open(e.File)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
		defer f.Close()
		in, name = f, e.File
	}
	x, err := e.explain(in)
	if errors.Is(err, recording.ErrSecondJob) {
		err = fmt.Errorf("%w: --job NAME says which one is meant", err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errUnreadable, name, err)
	}
	if c.machine != nil {
		for _, event := range x.events {
			if err := c.print(event, ""); err != nil {
				return err
			}
		}
	} else if _, err := fmt.Fprint(c.out, x.timeline()); err != nil {
		return err
	}
	if x.lastSeen != "" {
		text := "no end in this recording; last seen: " + x.lastSeen
		if c.machine != nil {
			c.say("%s", text)
			return nil
		}
		_, err = fmt.Fprintln(c.out, text)
	}
	return err
}

// explanation is what a recording leads to.
type explanation struct {
	start    time.Time // of the recording
	events   []recording.Event
	lastSeen string // empty where there is an end
}

func (e *explainCommand) explain(in io.Reader) (explanation, error) {
	var x explanation
	replay := recording.Replay{Job: e.Job, Deadlines: e.Deadlines.Deadlines()}
	for line, err := range recording.Read(in) {
		if err != nil {
			return x, err
		}
		if x.start.IsZero() {
			x.start = line.Received
		}
		events, err := replay.Next(line)
		if err != nil {
			return x, err
		}
		x.events = append(x.events, events...)
	}
	events, err := replay.End()
	x.events = append(x.events, events...)
	if !replay.Log.Ended {
		x.lastSeen = replay.LastSeen()
	}
	return x, err
}

func (x explanation) timeline() string {
	rows := []string{"TIME\tTYPE\tSTATUS\tCODE\tMESSAGE"}
	for _, e := range x.events {
		rows = append(rows, strings.Join([]string{
			"+" + e.At.Sub(x.start).Round(time.Millisecond).String(), shortType(e.Type),
			strconv.Itoa(e.Status), cmp.Or(string(e.Code), "-"), cmp.Or(e.Message, "-"),
		}, "\t"))
	}
	return columns("", rows...)
}

// shortType is a type as people read it: job.failed.
func shortType(t event.Type) string {
	s := strings.TrimPrefix(string(t), "dev.jobrelay.")
	if i := strings.LastIndex(s, ".v"); i > 0 {
		s = s[:i]
	}
	return s
}
