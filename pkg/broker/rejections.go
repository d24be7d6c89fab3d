package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Rejection is a message that was not accepted: its raw body, why, and what of
// it could be read, so that nobody parses the raw text again.
type Rejection struct {
	LogKey   string
	Body     []byte
	ID       string
	Service  string
	Webhook  *jobsv1.Webhook
	Problems []*jobsv1.Problem
}

// Headers of a rejection. Their values are JSON.
const (
	headerRejectionRequest  = "Jobrelay-Request"
	headerRejectionProblems = "Jobrelay-Problems"
	// maxProblemsHeader bounds the reasons in a header, so that all headers
	// stay below 32 KiB; the reasons past it are counted.
	maxProblemsHeader = 24 << 10
)

// readable is what of a rejected message could be read.
type readable struct {
	ID       string  `json:"id,omitempty"`
	Service  string  `json:"service,omitempty"`
	URL      string  `json:"url,omitempty"`
	Statuses []int32 `json:"statuses,omitempty"`
}

// Reject records a rejection. It may be called again with the same one: the
// record is replaced by itself.
func (b *Broker) Reject(ctx context.Context, r Rejection) error {
	info, err := json.Marshal(readable{r.ID, r.Service, r.Webhook.GetUrl(), r.Webhook.GetStatuses()})
	if err != nil {
		return err
	}
	m := nats.NewMsg(event.RejectionSubject(r.LogKey))
	m.Data = r.Body
	m.Header.Set(headerRejectionRequest, string(info))
	m.Header.Set(headerRejectionProblems, problemsHeader(r.Problems))
	_, err = b.publish(ctx, m)
	return err
}

func problemsHeader(problems []*jobsv1.Problem) string {
	type problem struct {
		Path    string `json:"path"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	out, size := []problem{}, 0
	for i, p := range problems {
		next := problem{p.GetPath(), p.GetCode(), p.GetMessage()}
		b, _ := json.Marshal(next) // strings alone: no error
		if size += len(b) + 1; size > maxProblemsHeader {
			out = append(out, problem{"$", "more", fmt.Sprintf("and %d more", len(problems)-i)})
			break
		}
		out = append(out, next)
	}
	b, _ := json.Marshal(out)
	return string(b)
}

// Refusal is a rejection and what its event says.
type Refusal struct {
	Rejection

	Code, Message string // of the error
	Source        string // CloudEvents source
	Trace         string // W3C traceparent of the producer
	Span          string // traceparent of the span that refuses it; empty without one
	Callback      bool   // whether a 99 is to be sent
	At            time.Time
}

// Refuse records a rejection, then appends its event to a log of its own. It may
// be called again with the same one: then the log has its event.
func (b *Broker) Refuse(ctx context.Context, r Refusal) error {
	if err := b.Reject(ctx, r.Rejection); err != nil {
		return err
	}
	e, err := event.New(r.LogKey, r.Source, r.ID, 0, r.At, &jobsv1.RequestRejected{
		Id: r.ID, Service: r.Service, Callback: r.Callback, Problems: r.Problems,
		Error: &jobsv1.Error{ErrorCode: r.Code, Message: r.Message},
	})
	if err != nil {
		return err
	}
	e.Trace, e.Span = r.Trace, r.Span
	if _, err := b.Append(ctx, r.Service, Tail{}, e); !errors.Is(err, ErrConflict) {
		return err
	}
	return nil
}

// Rejection is the recorded rejection of a log key, or ErrNotFound.
func (b *Broker) Rejection(ctx context.Context, logKey string) (Rejection, error) {
	r, err := b.rejection(ctx, logKey)
	return r.Rejection, err
}

func (b *Broker) rejection(ctx context.Context, logKey string) (Rejected, error) {
	m, err := b.last(ctx, StreamRejections, event.RejectionSubject(logKey))
	if err != nil {
		return Rejected{}, err
	}
	r, err := decodeRejection(m.Subject, m.Header, m.Time)
	if err != nil {
		return Rejected{}, err
	}
	r.Body = m.Data
	return r, nil
}

// OpenReader is OpenAdmin for commands that read these streams: what needs no
// other may be called. A stream that is not there is a *TopologyError.
func OpenReader(ctx context.Context, at Access, log zerolog.Logger, streams ...string) (*Broker, error) {
	b, err := OpenAdmin(ctx, at, log)
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
	r, err := b.rejection(ctx, logKey)
	if err != nil {
		return Rejected{}, err
	}
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
