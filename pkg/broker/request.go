package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Accept stores an accepted request, the first of its key. ErrConflict means
// that the key is known: compare the stored request. After any other error it
// may or may not be stored.
func (b *Broker) Accept(ctx context.Context, e event.Event) error {
	header, data, err := event.Encode(e)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: event.RequestSubject(e.LogKey), Header: header, Data: data}
	_, err = b.publish(ctx, m, jetstream.WithExpectLastSequencePerSubject(0))
	return err
}

// Request is the accepted request of a key, or ErrNotFound.
func (b *Broker) Request(ctx context.Context, key string) (event.Event, error) {
	m, err := b.last(ctx, StreamRequests, event.RequestSubject(key))
	if err != nil {
		return event.Event{}, err
	}
	return DecodeRequest(m.Header, m.Data)
}

// DecodeRequest reads a message of REQUESTS.
func DecodeRequest(header map[string][]string, data []byte) (event.Event, error) {
	e, err := event.Decode(header, data)
	if err != nil {
		return event.Event{}, err
	}
	if _, ok := e.Data.(*jobsv1.JobRequested); !ok {
		return event.Event{}, fmt.Errorf("%w: %s on %s", event.ErrNotAnEvent, e.Type, StreamRequests)
	}
	return e, nil
}

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

// Rejection is the recorded rejection of a log key, or ErrNotFound.
func (b *Broker) Rejection(ctx context.Context, logKey string) (Rejection, error) {
	m, err := b.last(ctx, StreamRejections, event.RejectionSubject(logKey))
	if err != nil {
		return Rejection{}, err
	}
	var info readable
	r := Rejection{LogKey: logKey, Body: m.Data}
	err = errors.Join(
		json.Unmarshal([]byte(m.Header.Get(headerRejectionRequest)), &info),
		json.Unmarshal([]byte(m.Header.Get(headerRejectionProblems)), &r.Problems),
	)
	if err != nil {
		return Rejection{}, fmt.Errorf("rejection %s: %w", logKey, err)
	}
	r.ID, r.Service = info.ID, info.Service
	if info.URL != "" {
		r.Webhook = &jobsv1.Webhook{Url: info.URL, Statuses: info.Statuses}
	}
	return r, nil
}
