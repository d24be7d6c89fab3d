package jobrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

type showCommand struct {
	topologyFlags `embed:""`

	ID string `arg:"" name:"ID" help:"The id of the message, or a log key."`
}

// Help is what show --help says besides its flags.
func (*showCommand) Help() string {
	return "A message that was rejected has a log of its own, and is shown after the job of the same id. " +
		"What is past its retention is not there: requests and rejections are kept for 15 days, events for 17, attempts for 18, dead letters for 90.\n\n" +
		"Exit code 1: nothing of the id is kept."
}

// historyStreams are what a timeline is drawn from.
var historyStreams = []string{
	broker.StreamEvents, broker.StreamRequests, broker.StreamRejections, broker.StreamLedger,
	broker.StreamWakeups, broker.StreamDeadLetters, broker.StreamControls, broker.StreamCommands,
}

// anyLogKey is the form of a log key.
var anyLogKey = regexp.MustCompile(`^(_|[0-9a-f]{32})(-[0-9a-f]{16})?$`)

func (s *showCommand) Run(ctx context.Context, c *console) error {
	b, err := s.reader(ctx, c, historyStreams...)
	if err != nil {
		return err
	}
	defer b.Close()
	records, err := b.History(ctx, s.ID)
	if errors.Is(err, broker.ErrTooMany) {
		c.say("its rejected messages are not looked for, there are too many: see `jobrelay rejections list`")
		err = nil
	}
	if err == nil && len(records) == 0 && anyLogKey.MatchString(s.ID) {
		records, err = b.Log(ctx, s.ID)
	}
	if err != nil {
		return interrupted(ctx, err)
	}
	if len(records) == 0 {
		return fmt.Errorf("%s is not known: neither a request nor an event or a rejection of it is kept", s.ID)
	}
	for i, r := range records {
		t := timeline.Draw(r)
		if r.Request != nil {
			if d, ok := r.Request.Data.(*jobsv1.JobRequested); ok && d.GetWebhook() != nil {
				t.Endpoint = webhook.Endpoint(d.GetWebhook().GetUrl())
			}
		}
		text := timelineText(c, t, time.Now())
		if i > 0 {
			text = "\n" + text
		}
		if err := c.print(t, text); err != nil {
			return err
		}
	}
	return nil
}

// timelineText is a timeline for people, at a time.
func timelineText(c *console, t timeline.Timeline, now time.Time) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s  %s\n", oneLine(cmp.Or(t.ID, t.LogKey)), c.paint(stateColor(t.State), string(t.State)))
	var rows []string
	for _, row := range [][2]string{
		{"service", t.Service}, {"namespace", t.Namespace}, {"job", t.Job}, {"webhook", t.Endpoint}, {"log key", t.LogKey}, {"trace", t.Trace},
	} {
		if row[1] != "" {
			rows = append(rows, row[0]+"\t"+oneLine(row[1]))
		}
	}
	text.WriteString(columns("  ", rows...))
	text.WriteByte('\n')
	rows = nil
	for i, s := range t.Steps {
		gap := ""
		if i > 0 {
			gap = "+" + short(s.At.Sub(t.Steps[i-1].At))
		}
		what, detail := stepText(c, s)
		rows = append(rows, strings.Join([]string{s.At.Local().Format(timeMillis), gap, what, detail}, "\t"))
	}
	text.WriteString(trimmed(columns("", rows...)))
	text.WriteByte('\n')
	if len(t.Waits) == 0 {
		text.WriteString("waits for nothing\n")
	}
	for _, w := range t.Waits {
		text.WriteString("waits for " + c.paint(yellow, waitText(w, t.Service, now)) + "\n")
	}
	return text.String()
}

// timeMillis is a time as timelines show it.
const timeMillis = "2006-01-02 15:04:05.000"

// stateColor is that of a state.
func stateColor(s timeline.State) string {
	switch s {
	case timeline.Completed:
		return green
	case timeline.Failed, timeline.Exception, timeline.Rejected:
		return red
	case timeline.Waiting:
		return yellow
	default:
		return neutral
	}
}

// stepText is a step in two cells; colours are in the last one only.
func stepText(c *console, s timeline.Step) (what, detail string) {
	status := 0
	if s.Status != nil {
		status = *s.Status
	}
	took := time.Duration(s.Milliseconds) * time.Millisecond
	callback := fmt.Sprintf("callback %d", status)
	if s.Run != "" {
		callback += " again"
	}
	switch s.What {
	case timeline.JobStarted:
		if s.QueueMilliseconds > 0 {
			detail = "after " + short(time.Duration(s.QueueMilliseconds)*time.Millisecond) + " in the queue"
		}
		return "job started", detail
	case timeline.PodStarted:
		return "pod started", strings.TrimSpace(s.Pod + on(s.Node))
	case timeline.JobCompleted:
		return "job completed", c.paint(green, "in "+short(time.Duration(s.DurationSeconds)*time.Second))
	case timeline.JobFailed, timeline.JobException:
		return "job " + map[timeline.What]string{timeline.JobFailed: "failed", timeline.JobException: "exception"}[s.What], c.paint(red, s.Code) + " " + oneLine(s.Message)
	case timeline.RequestRefused:
		return "rejected", c.paint(red, s.Code) + " " + oneLine(s.Message)
	case timeline.Delivered:
		if s.Attempt > 1 {
			detail = fmt.Sprintf(" at attempt %d", s.Attempt)
		}
		return callback, c.paint(green, "delivered") + fmt.Sprintf("%s: %d in %s", detail, s.HTTP, short(took))
	case timeline.Attempted:
		return callback, c.paint(yellow, fmt.Sprintf("attempt %d", s.Attempt)) + fmt.Sprintf(": %s in %s (%s)", cmp.Or(codeText(s.HTTP), "no answer"), short(took), s.Class)
	case timeline.GaveUp:
		if s.DeadLetter {
			detail = ", kept as a dead letter"
		}
		return callback, c.paint(red, "given up") + ": " + s.Reason + detail
	case timeline.Skipped:
		return callback, s.Reason
	default:
		return string(s.What), ""
	}
}

func on(node string) string {
	if node == "" {
		return ""
	}
	return " on " + node
}

// waitText is what is waited for, at a time.
func waitText(w timeline.Wait, service string, now time.Time) string {
	status := 0
	if w.Status != nil {
		status = *w.Status
	}
	since := ""
	if w.Since != nil {
		since = ", for " + short(now.Sub(*w.Since))
	}
	cause := ""
	if w.Cause != "" {
		cause = ": " + oneLine(w.Cause)
	}
	switch w.For {
	case timeline.ForResume:
		return "`jobrelay resume " + service + "`: the service is paused" + since + cause
	case timeline.ForLaunch:
		return fmt.Sprintf("its launch, try %d %s%s", w.Attempts+1, due(w.Until, now), cause)
	case timeline.ForLauncher:
		return "a launcher to take it up" + since
	case timeline.ForPod:
		return "Kubernetes to start a Pod of it" + since
	case timeline.ForEnd:
		return "the end of its Job" + since
	case timeline.ForCancel:
		return "a watcher to cancel it" + since + cause
	case timeline.ForRetry:
		return fmt.Sprintf("callback %d, attempt %d %s; due%s", status, w.Attempts+1, due(w.Until, now), strings.TrimPrefix(since, ","))
	case timeline.ForNotifier:
		return fmt.Sprintf("a notifier to deliver callback %d%s", status, since)
	case timeline.ForPredecessor:
		return fmt.Sprintf("callback %d, which comes after that one%s", status, since)
	case timeline.ForReplay:
		return fmt.Sprintf("the replay of callback %d, attempt %d %s", status, w.Attempts+1, due(w.Until, now))
	default:
		return string(w.For)
	}
}

// due is when something is tried.
func due(at *time.Time, now time.Time) string {
	if at == nil || !at.After(now) {
		return "now"
	}
	return "in " + short(at.Sub(now)) + ", at " + at.Local().Format(time.DateTime)
}

// short is a duration in two units at the most: 6ms, 1.6s, 25s, 2m5s, 3h12m, 2d3h.
func short(d time.Duration) string { return timeline.Elapsed(d, "") }

// oneLine is foreign text as a part of a line.
func oneLine(s string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(printable(s))
}
