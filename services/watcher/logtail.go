package watcher

import (
	"context"
	"errors"
	"io"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

const (
	// maxLogTail bounds the lines of a log that are asked for.
	maxLogTail = 100
	// logTimeout bounds one reading of a log: the end of its job waits for it.
	logTimeout = 2 * time.Second
	// maxLogLine is the longest line, in bytes, that a container runtime writes;
	// one that is longer it writes as several.
	maxLogLine = 16 << 10
	// silentFor is how long a node is not asked again that did not answer in time:
	// its Jobs' ends cost the workers one timeout each a minute.
	silentFor = time.Minute
	// maxSilent bounds the nodes that are remembered for that.
	maxSilent = 1_000
	// logWarning is between two warnings of one cause.
	logWarning = time.Minute
)

// What became of the reading of a log, the label of its metric.
const (
	logRead      = "read"
	logGone      = "gone"      // the Pod went
	logForbidden = "forbidden" // get on pods/log is not allowed
	logTimedOut  = "timeout"
	logSkipped   = "skipped" // its node did not answer in time a moment ago
	logFailed    = "failed"
)

// logTails reads the last lines of containers' logs.
type logTails struct {
	silent   *lru.Cache[string, time.Time] // nodes that did not answer, since when
	warnings map[string]*rate.Sometimes    // by what became of the reading
}

func newLogTails() *logTails {
	silent, err := lru.New[string, time.Time](maxSilent)
	if err != nil {
		panic(err) // only for a size below 1
	}
	t := &logTails{silent: silent, warnings: map[string]*rate.Sometimes{}}
	for _, outcome := range []string{logGone, logForbidden, logTimedOut, logFailed} {
		t.warnings[outcome] = &rate.Sometimes{Interval: logWarning}
	}
	return t
}

// withLogTail is the decision with the last lines of the log that it asks for.
// Where they cannot be had the end goes without, after logTimeout at most.
func (w *Watcher) withLogTail(ctx context.Context, job *batchv1.Job, o jobstatus.Observation, d jobstatus.Decision) jobstatus.Decision {
	if w.options.LogTail == 0 {
		return d
	}
	from, asked := d.AsksLogTail(o)
	if !asked {
		return d
	}
	if since, silent := w.logTails.silent.Get(from.Node); silent && w.options.Now().Sub(since) < silentFor {
		w.metrics.logTails.WithLabelValues(logSkipped).Inc()
		return d
	}
	log, err := w.readLog(ctx, job.Namespace, from)
	if ctx.Err() != nil {
		return d
	}
	outcome := logOutcome(err)
	w.metrics.logTails.WithLabelValues(outcome).Inc()
	if err == nil {
		return d.WithLogTail(log)
	}
	if outcome == logTimedOut {
		w.logTails.silent.Add(from.Node, w.options.Now())
	}
	w.logTails.warnings[outcome].Do(func() {
		w.logger.Warn().Err(err).Str("cause", outcome).Str("namespace", job.Namespace).Str("job", job.Name).
			Str("pod", from.Pod).Str("node", from.Node).Msg("the log of a failed container is not read: its event goes without the last lines; said once a minute")
	})
	return d
}

// readLog is the end of the last lines of a container's log: what an event may
// carry of them, and one byte more.
func (w *Watcher) readLog(ctx context.Context, namespace string, from jobstatus.LogSource) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	// The node counts the limit from the first of the lines: so it is for all.
	lines := int64(w.options.LogTail)
	limit := lines * maxLogLine
	log, err := w.client.CoreV1().Pods(namespace).GetLogs(from.Pod, &corev1.PodLogOptions{
		Container: from.Container, TailLines: &lines, LimitBytes: &limit,
	}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	end := lastBytes{most: jobstatus.MaxLogTail + 1}
	if _, err := io.Copy(&end, io.LimitReader(log, limit)); err != nil {
		return nil, err // what came is not known to be the end
	}
	return end.kept, nil
}

func logOutcome(err error) string {
	switch {
	case err == nil:
		return logRead
	case errors.Is(err, context.DeadlineExceeded):
		return logTimedOut
	case apierrors.IsForbidden(err):
		return logForbidden
	case apierrors.IsNotFound(err):
		return logGone
	}
	return logFailed
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	most int
	kept []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.kept = append(l.kept, p...)
	if over := len(l.kept) - l.most; over > 0 {
		l.kept = append(l.kept[:0], l.kept[over:]...)
	}
	return len(p), nil
}
