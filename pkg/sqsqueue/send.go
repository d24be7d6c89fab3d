package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/cenkalti/backoff/v5"
)

// maxSize bounds a message, and all messages of one call, in bytes: body and
// attributes.
const maxSize = 1 << 20

// sendTries bounds the calls for an entry that the queue did not take, through
// no fault of ours.
const sendTries = 5

// Outgoing is a message to send.
type Outgoing struct {
	Name  string // what its sender calls it; it is not sent
	Body  []byte
	Trace string // W3C traceparent; empty: none is attached

	// Group and DedupID are for FIFO queues, and need one; a message whose
	// DedupID was sent in the last 5 minutes is taken and dropped.
	Group   string
	DedupID string
}

// Sent is what became of an Outgoing: MessageID or Err is set.
type Sent struct {
	Outgoing

	MessageID string
	Err       error
}

// ErrUnsendable is what Sent.Err wraps where SQS takes no such message.
var ErrUnsendable = errors.New("SQS does not take the message")

// FIFO reports whether the queue is one: its name says so.
func (q *Queue) FIFO() bool { return strings.HasSuffix(q.name, ".fifo") }

// SendAll sends messages in their order, in calls as large as SQS takes, and
// reports each; one call's messages are all it holds. What SQS does not take
// is reported, and the rest sent; entries that failed are tried again. An
// error ends it: then the messages of its call were reported with it, and
// those after them were not asked for.
func (q *Queue) SendAll(ctx context.Context, messages iter.Seq[Outgoing], report func(Sent)) error {
	var batch []Outgoing
	size := 0
	flush := func() error {
		err := q.sendBatch(ctx, batch, report)
		batch, size = batch[:0], 0
		return err
	}
	for m := range messages {
		if err := m.check(); err != nil {
			report(Sent{Outgoing: m, Err: err})
			continue
		}
		if len(batch) == maxBatch || size+m.size() > maxSize {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, m)
		size += m.size()
	}
	return flush()
}

const traceAttribute, stringType = "traceparent", "String"

// size is what SQS counts.
func (m Outgoing) size() int {
	n := len(m.Body)
	if m.Trace != "" {
		n += len(traceAttribute) + len(stringType) + len(m.Trace)
	}
	return n
}

func (m Outgoing) check() error {
	switch {
	case len(m.Body) == 0:
		return fmt.Errorf("%w: it is empty", ErrUnsendable)
	case m.size() > maxSize:
		return fmt.Errorf("%w: it is larger than 1 MiB, attributes included", ErrUnsendable)
	}
	return nil
}

// sendBatch sends up to 10 messages, and again those that failed.
func (q *Queue) sendBatch(ctx context.Context, batch []Outgoing, report func(Sent)) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 100 * time.Millisecond
	for try := 1; len(batch) > 0; try++ {
		failed, err := q.sendOnce(ctx, batch, report)
		if err == nil && len(failed) > 0 && try < sendTries {
			err = pause(ctx, wait.NextBackOff())
		}
		if err != nil || try == sendTries {
			for _, f := range failed {
				report(Sent{Outgoing: f.Outgoing, Err: errors.Join(f.Err, err)})
			}
			return err
		}
		batch = batch[:0:0]
		for _, f := range failed {
			batch = append(batch, f.Outgoing)
		}
	}
	return nil
}

// sendOnce is one call. It reports what is settled and returns the rest.
func (q *Queue) sendOnce(ctx context.Context, batch []Outgoing, report func(Sent)) (failed []Sent, err error) {
	entries := make([]types.SendMessageBatchRequestEntry, len(batch))
	for i, m := range batch {
		entries[i] = types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(m.Body))}
		if m.Trace != "" {
			entries[i].MessageAttributes = map[string]types.MessageAttributeValue{
				traceAttribute: {DataType: aws.String(stringType), StringValue: aws.String(m.Trace)},
			}
		}
		if m.Group != "" {
			entries[i].MessageGroupId = aws.String(m.Group)
		}
		if m.DedupID != "" {
			entries[i].MessageDeduplicationId = aws.String(m.DedupID)
		}
	}
	out, err := q.client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &q.url, Entries: entries})
	if err != nil {
		for _, m := range batch {
			failed = append(failed, Sent{Outgoing: m})
		}
		return failed, fmt.Errorf("send to %s: %w", q.name, err)
	}
	unanswered := map[int]bool{}
	for i := range batch {
		unanswered[i] = true
	}
	answered := func(id *string) (Outgoing, bool) {
		i, err := strconv.Atoi(aws.ToString(id))
		if err != nil || !unanswered[i] {
			return Outgoing{}, false
		}
		delete(unanswered, i)
		return batch[i], true
	}
	for _, s := range out.Successful {
		if m, ok := answered(s.Id); ok {
			report(Sent{Outgoing: m, MessageID: aws.ToString(s.MessageId)})
		}
	}
	for _, f := range out.Failed {
		m, ok := answered(f.Id)
		switch {
		case !ok:
		case f.SenderFault:
			report(Sent{Outgoing: m, Err: fmt.Errorf("%w: %s: %s", ErrUnsendable, aws.ToString(f.Code), aws.ToString(f.Message))})
		default:
			failed = append(failed, Sent{Outgoing: m, Err: fmt.Errorf("send to %s: %s: %s", q.name, aws.ToString(f.Code), aws.ToString(f.Message))})
		}
	}
	for i, m := range batch {
		if unanswered[i] {
			failed = append(failed, Sent{Outgoing: m, Err: fmt.Errorf("send to %s: the queue did not say what became of it", q.name)})
		}
	}
	return failed, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
