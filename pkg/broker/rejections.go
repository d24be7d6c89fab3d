package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// OpenReader is OpenAdmin for commands that read these streams: what needs no
// other may be called. A stream that is not there is a *TopologyError.
func OpenReader(ctx context.Context, address string, log zerolog.Logger, streams ...string) (*Broker, error) {
	b, err := OpenAdmin(ctx, address, log)
	if err != nil {
		return nil, err
	}
	for _, name := range streams {
		if b.streams[name], err = b.js.Stream(ctx, name); err != nil {
			b.Close()
			return nil, streamError(name, err)
		}
	}
	return b, nil
}

// Rejected is a rejection as it is recorded. What the event of its log tells is
// empty where that is not there: ingest records, then appends.
type Rejected struct {
	Rejection // of a listing, without its body

	At    time.Time // when it was recorded, the last time
	Code  string    // error code, of the event
	Queue string    // CloudEvents source, of the event
	Trace string    // W3C traceparent of the producer, of the event
}

// RejectionFilter says which rejections are listed.
type RejectionFilter struct {
	Since   time.Time // zero: all that are kept
	Service string    // empty: any
	Code    string    // empty: any
	Limit   int       // of the newest; at least 1
}

// rejectionsPage is how many places on the stream are read at once.
const rejectionsPage = 1000

// Rejections lists the newest rejections, the newest first. It reads headers
// alone, a page of the stream at a time from its end, and holds no more than
// it returns and a page's.
func (b *Broker) Rejections(ctx context.Context, f RejectionFilter) ([]Rejected, error) {
	info, err := b.streams[StreamRejections].Info(ctx)
	if err != nil {
		return nil, streamError(StreamRejections, err)
	}
	var out []Rejected
	first := max(info.State.FirstSeq, 1)
	for end := info.State.LastSeq + 1; end > first && len(out) < f.Limit; {
		start := first
		if end-first > rejectionsPage {
			start = end - rejectionsPage
		}
		page, older, err := b.rejectionsPage(ctx, start, end, f)
		if err != nil {
			return nil, err
		}
		for _, r := range slices.Backward(page) {
			if err := b.readEvent(ctx, &r); err != nil {
				return nil, err
			}
			if f.Code == "" || r.Code == f.Code {
				out = append(out, r)
			}
			if len(out) == f.Limit {
				break
			}
		}
		if older { // all before them are too
			break
		}
		end = start
	}
	return out, nil
}

// rejectionsPage reads the rejections at start and after, before end. older
// tells that one of them was recorded before the filter's time.
func (b *Broker) rejectionsPage(ctx context.Context, start, end uint64, f RejectionFilter) (page []Rejected, older bool, err error) {
	consumer, err := b.js.OrderedConsumer(ctx, StreamRejections, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, HeadersOnly: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, false, streamError(StreamRejections, err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return nil, false, nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(rejectionsPage))
	if err != nil {
		return nil, false, fmt.Errorf("rejections: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, false, fmt.Errorf("rejections: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, false, fmt.Errorf("rejections: %w", err)
		}
		if meta.Sequence.Stream >= end {
			return page, older, nil
		}
		r, err := decodeRejection(m.Subject(), m.Headers(), meta.Timestamp)
		switch {
		case err != nil:
			b.log.Warn().Err(err).Msg("rejections") // one that cannot be read hides no other
		case meta.Timestamp.Before(f.Since):
			older = true
		case f.Service == "" || r.Service == f.Service:
			page = append(page, r)
		}
		if meta.NumPending == 0 {
			return page, older, nil
		}
	}
}

// Rejected is the recorded rejection of a log key with its body, or
// ErrNotFound.
func (b *Broker) Rejected(ctx context.Context, logKey string) (Rejected, error) {
	m, err := b.last(ctx, StreamRejections, event.RejectionSubject(logKey))
	if err != nil {
		return Rejected{}, err
	}
	r, err := decodeRejection(m.Subject, m.Header, m.Time)
	if err != nil {
		return Rejected{}, err
	}
	r.Body = m.Data
	err = b.readEvent(ctx, &r)
	return r, err
}

// readEvent fills in what only the event of the rejection's log tells.
func (b *Broker) readEvent(ctx context.Context, r *Rejected) error {
	m, err := b.last(ctx, StreamEvents, event.Subject(r.Service, r.LogKey, event.TypeRequestRejected))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	e, err := event.Decode(m.Header, m.Data)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Subject, err)
	}
	if d, ok := e.Data.(*jobsv1.RequestRejected); ok {
		r.Code, r.Queue, r.Trace = d.GetError().GetErrorCode(), e.Source, e.Trace
	}
	return nil
}

// decodeRejection reads what Reject wrote, but for the body.
func decodeRejection(subject string, header map[string][]string, at time.Time) (Rejected, error) {
	value := func(name string) []byte {
		if v := header[name]; len(v) > 0 {
			return []byte(v[0])
		}
		return nil
	}
	var info readable
	r := Rejected{At: at, Rejection: Rejection{LogKey: subject[len(event.RejectionSubject("")):]}}
	err := errors.Join(json.Unmarshal(value(headerRejectionRequest), &info), json.Unmarshal(value(headerRejectionProblems), &r.Problems))
	if err != nil {
		return Rejected{}, fmt.Errorf("%s: %w", subject, err)
	}
	r.ID, r.Service = info.ID, info.Service
	if info.URL != "" {
		r.Webhook = &jobsv1.Webhook{Url: info.URL, Statuses: info.Statuses}
	}
	return r, nil
}
