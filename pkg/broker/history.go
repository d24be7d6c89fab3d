package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// maxRejections bounds the rejections among which those of one id are looked for:
// subjects cannot be filtered by the beginning of a token, so all are named.
const maxRejections = 100_000

// ErrTooMany means that something was not looked for: there is more of it than is
// read at once.
var ErrTooMany = errors.New("more than is looked through at once")

// History is what the opened streams keep of an id: of its log, where there is a
// request or an event, and of the logs of its rejected messages, the oldest first.
// It reads by direct gets and STREAM.INFO alone. Streams that were not opened are
// passed over: what they would tell is empty. With ErrTooMany what it returns is
// whole but for the rejected messages.
func (b *Broker) History(ctx context.Context, id string) ([]timeline.Records, error) {
	key := event.Key(id)
	out, err := b.Log(ctx, key)
	if err != nil {
		return nil, err
	}
	rejected, err := b.rejectedLogs(ctx, key)
	for _, logKey := range rejected {
		logs, err := b.Log(ctx, logKey)
		if err != nil {
			return nil, err
		}
		out = append(out, logs...)
	}
	return out, err
}

// Log is what the opened streams keep of a log key: nothing where there is neither
// a request nor an event, nor, for who may not read requests, a launch that is parked.
func (b *Broker) Log(ctx context.Context, logKey string) ([]timeline.Records, error) {
	r := timeline.Records{LogKey: logKey}
	var err error
	if r.Service, r.Log, err = b.wholeLog(ctx, logKey); err != nil {
		return nil, err
	}
	if b.opened(StreamRequests) && event.IDKey(logKey) == logKey {
		request, err := b.Request(ctx, logKey)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil {
			r.Request, r.Service = &request, requestService(request)
		}
	}
	if r.Request == nil && len(r.Log) == 0 {
		if b.opened(StreamRequests) {
			return nil, nil
		}
		if err := b.readParked(ctx, &r); err != nil || r.Launch == nil {
			return nil, err
		}
		return []timeline.Records{r}, nil
	}
	for _, read := range []func(context.Context, *timeline.Records) error{b.readLedger, b.readLetters, b.readParked, b.readCommands} {
		if err := read(ctx, &r); err != nil {
			return nil, err
		}
	}
	return []timeline.Records{r}, nil
}

func (b *Broker) opened(stream string) bool { return b.streams[stream] != nil }

func requestService(e event.Event) string {
	d, ok := e.Data.(interface{ GetService() string })
	if !ok {
		return ""
	}
	return d.GetService()
}

// wholeLog is every event of a log: there is one of each type at most, so the last
// ones are all.
func (b *Broker) wholeLog(ctx context.Context, logKey string) (service string, log []event.Event, err error) {
	messages, err := b.lasts(ctx, StreamEvents, event.LogFilter("*", logKey))
	for _, m := range messages {
		e, err := stored(m.Subject, m.Sequence, m.Header, m.Data)
		if err != nil {
			return "", nil, err
		}
		service, log = e.Service, append(log, e.Event)
	}
	return service, log, err
}

// rejectedLogs are the log keys of the rejected messages of a key.
func (b *Broker) rejectedLogs(ctx context.Context, key string) ([]string, error) {
	if !b.opened(StreamRejections) {
		return nil, nil
	}
	stream := b.streams[StreamRejections]
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, streamError(StreamRejections, err)
	}
	if n := info.State.NumSubjects; n > maxRejections {
		return nil, fmt.Errorf("%d rejections: %w", n, ErrTooMany)
	}
	if info, err = stream.Info(ctx, jetstream.WithSubjectFilter(event.RejectionSubject("*"))); err != nil {
		return nil, streamError(StreamRejections, err)
	}
	var subjects []string
	for subject := range info.State.Subjects {
		if strings.HasPrefix(subject, event.RejectionSubject(key)+"-") {
			subjects = append(subjects, subject)
		}
	}
	if len(subjects) == 0 {
		return nil, nil
	}
	if len(subjects) > mostLasts {
		subjects = subjects[:mostLasts]
	}
	messages, err := b.lasts(ctx, StreamRejections, subjects...)
	var out []string
	for _, m := range messages {
		out = append(out, strings.TrimPrefix(m.Subject, event.RejectionSubject("")))
	}
	return out, err
}

func (b *Broker) readLedger(ctx context.Context, r *timeline.Records) error {
	if !b.opened(StreamLedger) {
		return nil
	}
	entry, err := b.Ledger(ctx, r.LogKey)
	r.Ledger = entry.Ledger
	return err
}

func (b *Broker) readLetters(ctx context.Context, r *timeline.Records) error {
	if !b.opened(StreamDeadLetters) {
		return nil
	}
	messages, err := b.lasts(ctx, StreamDeadLetters, "deadletters.callback."+event.ServiceToken(r.Service)+"."+r.LogKey+".*")
	for _, m := range messages {
		l, err := decodeLetter(m.Subject, m.Data)
		if err != nil {
			return err
		}
		r.Letters = append(r.Letters, l)
	}
	slices.SortFunc(r.Letters, func(a, b delivery.Letter) int { return cmp.Compare(a.N, b.N) })
	return err
}

// readParked reads what of the log is parked, or has woken up and is not done yet.
func (b *Broker) readParked(ctx context.Context, r *timeline.Records) error {
	if !b.opened(StreamWakeups) {
		return nil
	}
	messages, err := b.lasts(ctx, StreamWakeups,
		"schedules."+PurposeLaunch+"."+r.LogKey, "wakeups."+PurposeLaunch+"."+r.LogKey,
		"schedules."+PurposeCallback+"."+r.LogKey+".>", "wakeups."+PurposeCallback+"."+r.LogKey+".>")
	if err != nil {
		return err
	}
	last := map[string]*jetstream.RawStreamMsg{} // by token: a schedule follows its wake-up until that is acknowledged
	for _, m := range messages {
		_, token, _ := strings.Cut(m.Subject, ".")
		if before := last[token]; before == nil || before.Sequence < m.Sequence {
			last[token] = m
		}
	}
	for token, m := range last {
		due := dueTime(m)
		if strings.HasPrefix(token, PurposeLaunch+".") {
			var p ParkedLaunch
			if err := json.Unmarshal(m.Data, &p); err != nil {
				return fmt.Errorf("%s: %w", m.Subject, err)
			}
			r.Launch = &timeline.Launch{Due: due, Tries: p.Tries, Cause: p.Cause}
			continue
		}
		p := timeline.Parked{Due: due}
		if err := json.Unmarshal(m.Data, &p.Wakeup); err != nil {
			return fmt.Errorf("%s: %w", m.Subject, err)
		}
		r.Parked = append(r.Parked, p)
	}
	slices.SortFunc(r.Parked, func(a, b timeline.Parked) int { return strings.Compare(a.Token(), b.Token()) })
	return nil
}

// dueTime is when a schedule fires; zero of a wake-up.
func dueTime(m *jetstream.RawStreamMsg) time.Time {
	at, _ := strings.CutPrefix(m.Header.Get(headerSchedule), scheduleAt)
	due, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return time.Time{}
	}
	return due
}

// readCommands reads what an operator has set for the service or asked of the job.
func (b *Broker) readCommands(ctx context.Context, r *timeline.Records) error {
	if b.opened(StreamControls) && r.Service != "" {
		p, err := b.Pause(ctx, r.Service)
		if err != nil {
			return err
		}
		if p.Paused {
			r.Pause = &timeline.Asked{At: p.At, Reason: p.Reason}
		}
	}
	if b.opened(StreamCommands) {
		var c Cancel
		asked, err := b.readJSON(ctx, StreamCommands, cancelSubject+r.LogKey, &c)
		if err != nil {
			return err
		}
		if asked > 0 {
			r.Cancel = &timeline.Asked{At: c.At, Reason: c.Reason}
		}
	}
	return nil
}

// mostLasts is how many last messages the server gives at once.
const mostLasts = 1024

// lasts are the last messages on the subjects, which may hold wildcards, by stream
// sequence: mostLasts of them at the most.
func (b *Broker) lasts(ctx context.Context, stream string, subjects ...string) ([]*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("%s: no answer", stream))
	defer cancel()
	messages, err := jetstreamext.GetLastMsgsFor(ctx, b.js, stream, subjects)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stream, err)
	}
	var out []*jetstream.RawStreamMsg
	for m, err := range messages {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", stream, err)
		}
		out = append(out, m)
	}
	if ctx.Err() != nil { // the messages end without an error where the time is up
		return nil, context.Cause(ctx)
	}
	slices.SortFunc(out, func(a, b *jetstream.RawStreamMsg) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return out, nil
}
