package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

func open(t *testing.T) (*sqsd.Server, *sqsqueue.Queue) {
	t.Helper()
	s, err := sqsd.Start(sqsd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	address, err := s.CreateQueue("jobs", map[string]string{"VisibilityTimeout": "7"})
	if err != nil {
		t.Fatal(err)
	}
	// The environment's endpoint leads nowhere: the given one wins.
	t.Setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
	q, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: address, Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	return s, q
}

func TestQueue(t *testing.T) {
	s, q := open(t)
	if q.Name() != "jobs" || q.Visibility().Seconds() != 7 {
		t.Errorf("%s %s", q.Name(), q.Visibility())
	}
	for i := range 12 {
		if _, err := q.Send(t.Context(), []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	first, err := q.Receive(t.Context(), 100) // SQS gives 10 at most
	if err != nil || len(first) != 10 || first[0].SentAt.IsZero() || first[0].Receives != 1 {
		t.Fatalf("%d messages, %v", len(first), err)
	}
	second, err := q.Receive(t.Context(), 10)
	if err != nil || len(second) != 2 {
		t.Fatalf("%d messages, %v", len(second), err)
	}
	if rest, err := q.Delete(t.Context(), append(first, second[0])); err != nil || len(rest) > 0 { // two calls
		t.Fatal(err)
	}
	if err := q.Extend(t.Context(), second[1:]); err != nil {
		t.Error(err)
	}
	if err := q.Release(t.Context(), second[1:]); err != nil {
		t.Fatal(err)
	}
	again, err := q.Receive(t.Context(), 10)
	if err != nil || len(again) != 1 || string(again[0].Body) != string(second[1].Body) || again[0].Receives != 2 {
		t.Errorf("%d messages after a release, %v", len(again), err)
	}
	// A poll is ended by its queue, and is no error then.
	s.EndPolls()
	if rest, err := q.Receive(t.Context(), 1); err != nil || len(rest) != 0 {
		t.Errorf("%d messages, %v", len(rest), err)
	}
}

func TestBadAddresses(t *testing.T) {
	for _, address := range []string{"", "jobs", "http://", "http://host", "http://host/"} {
		if _, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: address}); !errors.Is(err, sqsqueue.ErrAddress) {
			t.Errorf("%q: %v", address, err)
		}
	}
	s, _ := open(t)
	if _, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: s.QueueURL("nobody"), Endpoint: s.URL()}); err == nil || errors.Is(err, sqsqueue.ErrAddress) || !strings.Contains(err.Error(), "is the queue's URL right?") {
		t.Errorf("a queue that is not there: %v", err)
	}
}
