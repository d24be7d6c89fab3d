package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// Status is what one replica says of itself. STATUS keeps the last of each for
// a minute.
type Status struct {
	Role     string            `json:"role"`
	Instance string            `json:"instance"`
	Version  string            `json:"version"`
	Started  time.Time         `json:"started"`
	At       time.Time         `json:"at"`
	Ready    bool              `json:"ready"`
	Checks   map[string]string `json:"checks"` // as /readyz says them
	// Failing is how many endpoints a notifier fails to reach; Endpoints are those
	// of them that fail for longest, MaxStatusEndpoints at most.
	Failing   int        `json:"failing,omitempty"`
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// MaxStatusEndpoints bounds the endpoints in a Status, some 300 bytes each.
const MaxStatusEndpoints = 100

// Endpoint is a receiver whose last attempt was not delivered, as one replica of the
// notifier sees it.
type Endpoint struct {
	Name     string           `json:"endpoint"` // scheme, host and port
	Breaker  string           `json:"breaker"`  // closed, open, half-open
	Until    time.Time        `json:"until,omitzero"`
	Since    time.Time        `json:"since"`    // the first failure after the last delivery
	Failures int              `json:"failures"` // unwell in a row
	Limit    int              `json:"limit"`    // attempts at once
	InFlight int              `json:"inFlight"`
	Waiting  int              `json:"waiting"` // tokens in hand
	Last     delivery.Attempt `json:"last"`
	Cause    string           `json:"cause,omitempty"`
}

// EndpointOverall is an endpoint as the notifiers together see it.
type EndpointOverall struct {
	// Breaker is open where it is for any of the Replicas that fail to reach it;
	// empty where none of the last minute does.
	Breaker  string           `json:"breaker,omitempty"`
	Replicas int              `json:"replicas"`
	Since    time.Time        `json:"since,omitzero"` // the earliest of theirs
	Failures int              `json:"failures"`       // unwell in a row, the most of theirs
	Last     delivery.Attempt `json:"last,omitzero"`  // the latest of theirs
	Cause    string           `json:"cause,omitempty"`
	Until    time.Time        `json:"next,omitzero"` // the earliest end of an open breaker
	InFlight int              `json:"inFlight"`
	Waiting  int              `json:"waiting"` // in hand, for a slot
}

// Add is what one more replica saw up to 15 s ago: its breaker may have gone on.
func (o *EndpointOverall) Add(e Endpoint, now time.Time) {
	if e.Breaker == string(delivery.Open) && !e.Until.After(now) {
		e.Breaker = string(delivery.HalfOpen)
	}
	o.Replicas++
	o.Failures = max(o.Failures, e.Failures)
	o.InFlight += e.InFlight
	o.Waiting += e.Waiting
	if o.Since.IsZero() || e.Since.Before(o.Since) {
		o.Since = e.Since
	}
	if e.Last.At.After(o.Last.At) {
		o.Last, o.Cause = e.Last, e.Cause
	}
	if !e.Until.IsZero() && (o.Until.IsZero() || e.Until.Before(o.Until)) {
		o.Until = e.Until
	}
	order := []string{"", string(delivery.Closed), string(delivery.HalfOpen), string(delivery.Open)}
	if slices.Index(order, e.Breaker) > slices.Index(order, o.Breaker) {
		o.Breaker = e.Breaker
	}
}

// Answer is what it last said: an HTTP status, or why there was none.
func (o EndpointOverall) Answer() string { return answer(o.Last, o.Cause) }

func answer(last delivery.Attempt, cause string) string {
	if last.Code != 0 {
		return strconv.Itoa(last.Code)
	}
	return cmp.Or(cause, string(last.Class))
}

// Report replaces what is known of the replica.
func (b *Broker) Report(ctx context.Context, s Status) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = b.publish(ctx, &nats.Msg{Subject: "status." + s.Role + "." + s.Instance, Data: data})
	return err
}

// Statuses is what every replica of the last minute said of itself, by role and
// instance.
func (b *Broker) Statuses(ctx context.Context) ([]Status, error) {
	stream, err := b.js.Stream(ctx, StreamStatus)
	if err != nil {
		return nil, streamError(StreamStatus, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("status.>"))
	if err != nil {
		return nil, streamError(StreamStatus, err)
	}
	var out []Status
	for subject := range info.State.Subjects {
		m, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // its minute is over
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", subject, err)
		}
		var s Status
		if err := json.Unmarshal(m.Data, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", subject, err)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, c Status) int {
		return strings.Compare(a.Role+"."+a.Instance, c.Role+"."+c.Instance)
	})
	return out, nil
}
