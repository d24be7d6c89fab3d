package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

func TestPeekShowsEachOnceAndTakesNone(t *testing.T) {
	s, q := open(t)
	var o outcomes
	if err := q.SendAll(t.Context(), numbered(25), o.report); err != nil {
		t.Fatal(err)
	}
	s.Faults().Set("ReceiveMessage", sqsd.Fault{DuplicateNext: 1})
	seen := map[string]int{}
	look := func(m *sqsqueue.Message) error {
		seen[string(m.Body)]++
		if m.MessageID() != o.ids[string(m.Body)] {
			t.Errorf("%s is %s", m.Body, m.MessageID())
		}
		return nil
	}
	n, err := q.Peek(t.Context(), 20, look)
	if err != nil || n != 20 || len(seen) != 20 || waiting(t, q) != 25 {
		t.Fatalf("%d, %v: %d different; %d wait", n, err, len(seen), waiting(t, q))
	}
	n, err = q.Peek(t.Context(), 1000, look)
	if err != nil || n != 25 || len(seen) != 25 || waiting(t, q) != 25 {
		t.Fatalf("%d, %v: %d different; %d wait", n, err, len(seen), waiting(t, q))
	}
}

func TestPeekGivesBackWhatever(t *testing.T) {
	_, q := open(t)
	var o outcomes
	if err := q.SendAll(t.Context(), numbered(15), o.report); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := q.Peek(t.Context(), 100, func(*sqsqueue.Message) error { return broken }); !errors.Is(err, broken) || waiting(t, q) != 15 {
		t.Errorf("%v, %d wait", err, waiting(t, q))
	}
	ctx, cancel := context.WithCancel(t.Context())
	n, err := q.Peek(ctx, 100, func(*sqsqueue.Message) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || n != 10 || waiting(t, q) != 15 {
		t.Errorf("%d, %v, %d wait", n, err, waiting(t, q))
	}
}

func TestWaitingTellsTheRedrivePolicy(t *testing.T) {
	s, q := open(t)
	if w, err := q.Waiting(t.Context()); err != nil || w != (sqsqueue.Waiting{}) {
		t.Errorf("%+v, %v", w, err)
	}
	if _, err := s.CreateQueue("dead", nil); err != nil {
		t.Fatal(err)
	}
	for i, count := range []string{"3", `"3"`} {
		address, err := s.CreateQueue(fmt.Sprint("redriven-", i), map[string]string{
			"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":` + count + `}`,
		})
		if err != nil {
			t.Fatal(err)
		}
		q, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: address, Endpoint: s.URL()})
		if err != nil {
			t.Fatal(err)
		}
		if w, err := q.Waiting(t.Context()); err != nil || w.DeadLetters != "dead" || w.MaxReceives != 3 {
			t.Errorf("%+v, %v", w, err)
		}
	}
}
