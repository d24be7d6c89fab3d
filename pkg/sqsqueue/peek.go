package sqsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	// peekVisibility is how long a message that is looked at may be hidden where
	// giving it back fails: a look takes less.
	peekVisibility = 30 * time.Second
	// peekWait makes each receive a long poll: a short one may find nothing in
	// a queue that holds something.
	peekWait = time.Second
	// peekStale ends a look after so many receives of what was shown already:
	// a queue may hand a message out twice.
	peekStale = 3
)

// MessageID is what the queue calls the message.
func (m *Message) MessageID() string { return m.id }

// Waiting is what a queue says of itself.
type Waiting struct {
	Visible     int    // messages, about
	DeadLetters string // name of the queue that a message is moved to; empty: none
	MaxReceives int    // how often a message is handed out before that
}

// Waiting asks how much waits, and what a receive too many would do.
func (q *Queue) Waiting(ctx context.Context) (Waiting, error) {
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameRedrivePolicy,
	}})
	if err != nil {
		return Waiting{}, fmt.Errorf("queue %s: %w", q.name, err)
	}
	var w Waiting
	w.Visible, _ = strconv.Atoi(out.Attributes[string(types.QueueAttributeNameApproximateNumberOfMessages)]) // 0 will do
	text := out.Attributes[string(types.QueueAttributeNameRedrivePolicy)]
	if text == "" {
		return w, nil
	}
	var policy struct {
		Target      string          `json:"deadLetterTargetArn"`
		MaxReceives json.RawMessage `json:"maxReceiveCount"` // a number, or one in quotes
	}
	err = json.Unmarshal([]byte(text), &policy)
	if err == nil {
		w.MaxReceives, err = strconv.Atoi(strings.Trim(string(policy.MaxReceives), `"`))
	}
	if err != nil {
		return Waiting{}, fmt.Errorf("queue %s: its redrive policy %s: %w", q.name, text, err)
	}
	w.DeadLetters = policy.Target[strings.LastIndex(policy.Target, ":")+1:]
	return w, nil
}

// Peek shows the messages that are visible, each once and at most most of
// them, and gives all back at the end, also after an error or when ctx ends;
// none is deleted. Until then they are hidden from other receivers, and each
// has been received once more. It returns how many it showed.
func (q *Queue) Peek(ctx context.Context, most int, see func(*Message) error) (int, error) {
	held := map[string]*Message{} // by id, with the newest handle
	err := q.look(ctx, most, held, see)
	back := make([]*Message, 0, len(held))
	for _, m := range held {
		back = append(back, m)
	}
	return len(held), errors.Join(err, q.Release(context.WithoutCancel(ctx), back))
}

func (q *Queue) look(ctx context.Context, most int, held map[string]*Message, see func(*Message) error) error {
	for stale := 0; len(held) < most && stale < peekStale; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		messages, err := q.receiveShortly(ctx, most-len(held))
		if err != nil || len(messages) == 0 {
			return err
		}
		var fresh []*Message
		for _, m := range messages { // all are held before any is shown
			first := held[m.id]
			held[m.id] = m
			if first == nil {
				fresh = append(fresh, m)
			}
		}
		if stale++; len(fresh) > 0 {
			stale = 0
		}
		for _, m := range fresh {
			if err := see(m); err != nil {
				return err
			}
			m.Body = nil
		}
	}
	return nil
}

// receiveShortly is not cancelled: what is handed out in that instant would
// stay hidden.
func (q *Queue) receiveShortly(ctx context.Context, most int) ([]*Message, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peekWait+callTimeout)
	defer cancel()
	asked := time.Now()
	out, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &q.url, MaxNumberOfMessages: int32(min(most, maxBatch)), //nolint:gosec // a small constant
		WaitTimeSeconds: int32(peekWait / time.Second), VisibilityTimeout: int32(peekVisibility / time.Second),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameSentTimestamp, types.MessageSystemAttributeNameApproximateReceiveCount,
			types.MessageSystemAttributeNameMessageGroupId,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", q.name, err)
	}
	messages := make([]*Message, 0, len(out.Messages))
	for _, m := range out.Messages {
		messages = append(messages, q.message(m, asked))
	}
	return messages, nil
}
