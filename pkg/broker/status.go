package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
