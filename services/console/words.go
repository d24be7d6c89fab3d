package console

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// words are a step in two parts: what happened, and more about it.
func words(s timeline.Step) (what, detail string) {
	status := 0
	if s.Status != nil {
		status = *s.Status
	}
	took := duration(time.Duration(s.Milliseconds) * time.Millisecond)
	callback := fmt.Sprintf("Callback %d", status)
	if s.Run != "" {
		callback += ", replayed"
	}
	switch s.What {
	case timeline.Queued:
		return "Queued", "the queue took the message, as the Job's queue time says"
	case timeline.Accepted:
		return "Accepted", ""
	case jobCreated:
		return "Job created", "by Kubernetes' clock, in whole seconds"
	case podScheduled:
		return "Pod scheduled", "to the second"
	case timeline.JobStarted:
		if s.QueueMilliseconds > 0 {
			detail = "after " + duration(time.Duration(s.QueueMilliseconds)*time.Millisecond) + " in the queue and in ingest"
		}
		return "Job started", detail
	case timeline.PodStarted:
		detail = s.Pod
		if s.Node != "" {
			detail += " on " + s.Node
		}
		return "Pod started", strings.TrimSpace(detail)
	case timeline.JobCompleted:
		return "Job completed", "in " + duration(time.Duration(s.DurationSeconds)*time.Second)
	case timeline.JobFailed:
		return "Job failed", strings.TrimSpace(s.Code + ": " + s.Message)
	case timeline.JobException:
		return "Ended with an exception", strings.TrimSpace(s.Code + ": " + s.Message)
	case timeline.RequestRefused:
		return "Refused", strings.TrimSpace(s.Code + ": " + s.Message)
	case timeline.Delivered:
		return callback, fmt.Sprintf("delivered at attempt %d: %d in %s", s.Attempt, s.HTTP, took)
	case timeline.Attempted:
		return callback, fmt.Sprintf("attempt %d: %s in %s (%s)", s.Attempt, answer(s), took, classText[string(s.Class)])
	case timeline.GaveUp:
		if s.DeadLetter {
			detail = ", kept as a dead letter"
		}
		return callback, "given up: " + s.Reason + detail
	case timeline.Skipped:
		return callback, s.Reason
	default:
		return string(s.What), ""
	}
}

// classText is what an attempt's class means.
var classText = map[string]string{
	"unwell": "the endpoint is unwell", "refused": "the endpoint refuses it", "gone": "the endpoint is gone for good", "delivered": "delivered", "": "not known",
}

// kindOf tells good from bad from neither, beside words that say so.
func kindOf(s timeline.Step) string {
	switch s.What {
	case timeline.JobCompleted, timeline.Delivered:
		return "good"
	case timeline.JobFailed, timeline.JobException, timeline.RequestRefused, timeline.Attempted, timeline.GaveUp:
		return "bad"
	default:
		return ""
	}
}

func rowsOf(steps []timeline.Step) []row {
	var out []row
	for i, s := range steps {
		what, detail := words(s)
		r := row{At: s.At, What: what, Detail: detail, Kind: kindOf(s)}
		if i > 0 {
			r.Gap = "+" + duration(s.At.Sub(steps[i-1].At))
		}
		out = append(out, r)
	}
	return out
}

// waitOf is what is waited for, for people.
func waitOf(w timeline.Wait, service string) wait {
	status := 0
	if w.Status != nil {
		status = *w.Status
	}
	out := wait{}
	if w.Since != nil {
		out.Since = *w.Since
	}
	if w.Until != nil {
		out.Until = *w.Until
	}
	cause := ""
	if w.Cause != "" {
		cause = ": " + w.Cause
	}
	switch w.For {
	case timeline.ForResume:
		out.Text = "jobrelay resume " + service + ": the service is paused" + cause
	case timeline.ForLaunch:
		out.Text = fmt.Sprintf("its launch, try %d%s", w.Attempts+1, cause)
	case timeline.ForLauncher:
		out.Text = "a launcher to take it up"
	case timeline.ForPod:
		out.Text = "Kubernetes to start a Pod of it"
	case timeline.ForEnd:
		out.Text = "the end of its Job"
	case timeline.ForCancel:
		out.Text = "a watcher to cancel it" + cause
	case timeline.ForRetry:
		out.Text = fmt.Sprintf("callback %d, attempt %d", status, w.Attempts+1)
	case timeline.ForNotifier:
		out.Text = fmt.Sprintf("a notifier to deliver callback %d", status)
	case timeline.ForPredecessor:
		out.Text = fmt.Sprintf("callback %d, which comes after the one before it", status)
	case timeline.ForReplay:
		out.Text = fmt.Sprintf("the replay of callback %d, attempt %d", status, w.Attempts+1)
	default:
		out.Text = string(w.For)
	}
	return out
}

// duration is in two units at the most: 6 ms, 1.6 s, 25 s, 2 m 5 s, 3 h 12 m, 2 d 3 h.
func duration(d time.Duration) string { return timeline.Elapsed(d, " ") }

// clock is a time in a title, which no script makes local.
func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") + " UTC" }

// number has thin spaces between thousands.
func number(n int) string {
	s := fmt.Sprint(n)
	out := ""
	for len(s) > 3 {
		out = "\u202f" + s[len(s)-3:] + out
		s = s[:len(s)-3]
	}
	return cmp.Or(s, "0") + out
}
