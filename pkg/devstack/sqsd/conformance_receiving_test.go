package sqsd_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

var receiving = []behaviour{
	{"a receive gives one message unless asked for more", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "1")
		e.send(url, "2")
		out, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
		check(t, err)
		wantEqual(t, "messages", len(out.Messages), 1)
	}},
	{"a receive gives ten messages at most", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 12 {
			e.send(url, "m")
		}
		wantEqual(t, "messages", len(e.receive(url)), 10)
		wantEqual(t, "the rest", len(e.receive(url)), 2)
		_, err := e.tryReceive(url, atMost(11))
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"a receive of an empty queue is empty", func(t *testing.T, e endpoint) {
		wantEqual(t, "messages", len(e.receive(e.queue("q", nil))), 0)
	}},
	{"a message has its sender, its times and its count of receives", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "1"})
		e.send(url, "m")
		for _, count := range []string{"1", "2", "3"} {
			e.clock.Advance(time.Second)
			got := e.one(url).Attributes
			wantEqual(t, "SentTimestamp", got["SentTimestamp"], "1772366400000")
			wantEqual(t, "ApproximateFirstReceiveTimestamp", got["ApproximateFirstReceiveTimestamp"], "1772366401000")
			wantEqual(t, "ApproximateReceiveCount", got["ApproximateReceiveCount"], count)
			if got["SenderId"] == "" {
				t.Error("no SenderId")
			}
		}
	}},
	{"system attributes come only when asked for, by their newer or older name", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0"})
		e.send(url, "m")
		ask := func(newer []types.MessageSystemAttributeName, older []types.QueueAttributeName) string {
			m := e.one(url, func(in *sqs.ReceiveMessageInput) {
				in.MessageSystemAttributeNames, in.AttributeNames = newer, older //nolint:staticcheck // older clients send it
			})
			var names []string
			for name := range m.Attributes {
				names = append(names, name)
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		all := "ApproximateFirstReceiveTimestamp ApproximateReceiveCount SenderId SentTimestamp"
		wantEqual(t, "nothing", ask(nil, nil), "")
		wantEqual(t, "all", ask([]types.MessageSystemAttributeName{"All"}, nil), all)
		wantEqual(t, "all, of old", ask(nil, []types.QueueAttributeName{"All"}), all)
		wantEqual(t, "one that it has and one that it has not", ask([]types.MessageSystemAttributeName{"SenderId", "SequenceNumber"}, nil), "SenderId")
		wantEqual(t, "one by either name", ask([]types.MessageSystemAttributeName{"SenderId"}, []types.QueueAttributeName{"SentTimestamp"}), "SenderId SentTimestamp")
	}},
	{"a receive's own VisibilityTimeout goes before the queue's", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "40"})
		e.send(url, "m")
		e.receive(url, visibleAfter(3))
		e.clock.Advance(3*time.Second - time.Millisecond)
		wantEqual(t, "counts before", e.counts(url), "0 1 0")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "counts", e.counts(url), "1 0 0")
		_, err := e.tryReceive(url, visibleAfter(43201))
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"a wait over 20 seconds is refused", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.tryReceive(e.queue("q", nil), func(in *sqs.ReceiveMessageInput) { in.WaitTimeSeconds = 21 })
		return err
	})},
}

var polls = []behaviour{
	{"a long poll wakes when a message arrives", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		poll := e.poll(t.Context(), url)
		e.send(url, "sent")
		wantBody(t, poll, "sent")
	}},
	{"a message wakes one of the polls that wait", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		one, other := e.poll(t.Context(), url), e.poll(t.Context(), url)
		e.send(url, "sent")
		var messages []types.Message
		select {
		case p := <-one:
			messages, one = p.messages, other
		case p := <-other:
			messages = p.messages
		}
		wantEqual(t, "messages of the first", len(messages), 1)
		e.clock.Advance(20 * time.Second)
		wantBody(t, one, "")
	}},
	{"a long poll wakes when a delay is over", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"DelaySeconds": "5"})
		poll := e.poll(t.Context(), url)
		e.send(url, "delayed")
		<-e.clock.waits // it looked, and waits for the delay now
		e.clock.Advance(5 * time.Second)
		wantBody(t, poll, "delayed")
	}},
	{"a long poll wakes when a visibility timeout is over", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "5"})
		e.send(url, "again")
		e.one(url)
		poll := e.poll(t.Context(), url)
		e.clock.Advance(5 * time.Second)
		wantBody(t, poll, "again")
	}},
	{"a long poll wakes when a message is given back", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "given back")
		m := e.one(url)
		poll := e.poll(t.Context(), url)
		check(t, e.changeVisibility(url, m, 0))
		wantBody(t, poll, "given back")
	}},
	{"a long poll wakes when a group goes on", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		e.send(url, "1", inGroup("g", "1"))
		e.send(url, "2", inGroup("g", "2"))
		m := e.one(url)
		poll := e.poll(t.Context(), url)
		check(t, e.delete(url, m))
		wantBody(t, poll, "2")
	}},
	{"a long poll of a queue that stays empty is empty after its wait", func(t *testing.T, e endpoint) {
		poll := e.poll(t.Context(), e.queue("q", nil))
		e.clock.Advance(20 * time.Second)
		wantBody(t, poll, "")
	}},
	{"a queue's own wait is for receives without one", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"ReceiveMessageWaitTimeSeconds": "7"})
		done := make(chan error, 1)
		go func() {
			_, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
			done <- err
		}()
		wantEqual(t, "waits until", <-e.clock.waits, e.clock.Now().Add(7*time.Second))
		e.clock.Advance(7 * time.Second)
		check(t, <-done)
	}},
	{"a long poll ends when its queue is deleted", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		poll := e.poll(t.Context(), url)
		check(t, e.deleteQueue(url))
		wantCode(t, (<-poll).err, legacy+"NonExistentQueue")
	}},
	{"a long poll whose caller is gone takes nothing", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		ctx, cancel := context.WithCancel(t.Context())
		poll := e.poll(ctx, url)
		cancel()
		if p := <-poll; p.err == nil {
			t.Fatal("the poll was answered")
		}
		<-e.clock.ends // the endpoint has noticed
		next := e.poll(t.Context(), url)
		e.send(url, "m")
		wantBody(t, next, "m")
	}},
}

var deleting = []behaviour{
	{"DeleteMessage removes a message, and once more is no error", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		check(t, e.delete(url, m))
		check(t, e.delete(url, m))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
	{"a handle that is none, or of another queue, is ReceiptHandleIsInvalid", func(t *testing.T, e endpoint) {
		url, other := e.queue("q", nil), e.queue("other", nil)
		e.send(url, "m")
		for _, err := range []error{e.delete(url, types.Message{ReceiptHandle: aws.String("nonsense")}), e.delete(other, e.one(url))} {
			wantCode(t, err, "ReceiptHandleIsInvalid")
			wantType[*types.ReceiptHandleIsInvalid](t, err)
		}
	}},
	{"no handle is a missing parameter", refuses("MissingParameter", func(e endpoint) error {
		return e.delete(e.queue("q", nil), types.Message{ReceiptHandle: aws.String("")})
	})},
	{"a standard queue accepts an old handle and keeps the message that was received since", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		old := e.one(url)
		e.clock.Advance(10 * time.Second)
		newest := e.one(url)
		check(t, e.delete(url, old))
		wantEqual(t, "counts after the old handle", e.counts(url), "0 1 0")
		check(t, e.delete(url, newest))
		wantEqual(t, "counts after the newest", e.counts(url), "0 0 0")
	}},
	{"a standard queue deletes by the newest handle also after the visibility timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(11 * time.Second)
		check(t, e.delete(url, m))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
	{"a FIFO queue refuses a handle after the visibility timeout, received since or not", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m", inGroup("g", "d"))
		m := e.one(url)
		e.clock.Advance(11 * time.Second)
		wantCode(t, e.delete(url, m), "InvalidParameterValue")
		newest := e.one(url)
		wantCode(t, e.delete(url, m), "InvalidParameterValue")
		check(t, e.delete(url, newest))
		check(t, e.delete(url, newest)) // of a message that is gone
	}},
	{"a FIFO queue deletes by a handle whose timeout was extended", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m", inGroup("g", "d"))
		m := e.one(url)
		check(t, e.changeVisibility(url, m, 20))
		e.clock.Advance(15 * time.Second)
		check(t, e.delete(url, m))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
}

var visibility = []behaviour{
	{"a received message is hidden for the queue's visibility timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		e.one(url)
		e.clock.Advance(10*time.Second - time.Millisecond)
		wantEqual(t, "before", e.bodies(url), "")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "after", e.bodies(url), "m")
	}},
	{"a visibility timeout of no seconds hides nothing", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0"})
		e.send(url, "m")
		wantEqual(t, "received", e.bodies(url), "m") // once in one answer
		wantEqual(t, "received again", e.bodies(url), "m")
	}},
	{"ChangeMessageVisibility counts from now", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(5 * time.Second)
		check(t, e.changeVisibility(url, m, 60))
		e.clock.Advance(60*time.Second - time.Millisecond)
		wantEqual(t, "extended", e.bodies(url), "")
		check(t, e.changeVisibility(url, m, 1))
		e.clock.Advance(time.Second)
		wantEqual(t, "shortened", e.bodies(url), "m")
	}},
	{"ChangeMessageVisibility to 0 gives a message back, and the next receive has the queue's timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		check(t, e.changeVisibility(url, e.one(url), 0))
		wantEqual(t, "counts", e.counts(url), "1 0 0")
		wantEqual(t, "received", e.bodies(url), "m")
		wantEqual(t, "hidden again", e.bodies(url), "")
	}},
	{"ChangeMessageVisibility of a message that is not in flight is MessageNotInflight", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(10 * time.Second)
		err := e.changeVisibility(url, m, 5)
		wantCode(t, err, legacy+"MessageNotInflight")
		wantType[*types.MessageNotInflight](t, err)
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"ChangeMessageVisibility by an old handle is refused", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		old := e.one(url)
		e.clock.Advance(10 * time.Second)
		e.one(url)
		wantCode(t, e.changeVisibility(url, old, 0), "InvalidParameterValue")
		wantEqual(t, "counts", e.counts(url), "0 1 0")
	}},
	{"ChangeMessageVisibility of a deleted message is refused", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		check(t, e.delete(url, m))
		wantCode(t, e.changeVisibility(url, m, 1), "InvalidParameterValue")
	}},
	{"ChangeMessageVisibility by a handle that is none is ReceiptHandleIsInvalid", refuses("ReceiptHandleIsInvalid", func(e endpoint) error {
		return e.changeVisibility(e.queue("q", nil), types.Message{ReceiptHandle: aws.String("INVALID")}, 60)
	})},
	{"a message is hidden for twelve hours in all since its receive", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(10 * time.Second)
		check(t, e.changeVisibility(url, m, 43190))
		for _, seconds := range []int32{43191, 43201, -1} {
			wantCode(t, e.changeVisibility(url, m, seconds), "InvalidParameterValue")
		}
		e.clock.Advance(43190 * time.Second)
		wantEqual(t, "counts after twelve hours", e.counts(url), "1 0 0")
	}},
	{"twelve hours begin anew with each receive", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		e.one(url, visibleAfter(43200))
		e.clock.Advance(12 * time.Hour)
		check(t, e.changeVisibility(url, e.one(url), 43200))
	}},
}

var inFlight = []behaviour{
	{"a short poll of a standard queue past its limit in flight is OverLimit", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 2}, newClock())
		url := e.queue("q", nil)
		for _, body := range []string{"1", "2", "3"} {
			e.send(url, body)
		}
		got := e.receive(url)
		wantEqual(t, "received up to the limit", len(got), 2)
		_, err := e.tryReceive(url)
		wantCode(t, err, "OverLimit")
		wantType[*types.OverLimit](t, err)
		check(t, e.delete(url, got[0]))
		wantEqual(t, "after a delete", e.bodies(url), "3")
	}},
	{"a long poll past the limit waits, and wakes when a message is deleted", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 1}, newClock())
		url := e.queue("q", map[string]string{"VisibilityTimeout": "60"})
		e.send(url, "1")
		e.send(url, "2")
		m := e.one(url)
		poll := e.poll(t.Context(), url)
		e.clock.Advance(20 * time.Second)
		wantBody(t, poll, "")
		poll = e.poll(t.Context(), url)
		check(t, e.delete(url, m))
		wantBody(t, poll, "2")
	}},
	{"a FIFO queue past its limit is as if it were empty", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 1}, newClock())
		url := e.fifo("q.fifo", nil)
		e.send(url, "1", inGroup("g", "1"))
		e.send(url, "2", inGroup("h", "2"))
		m := e.one(url)
		wantEqual(t, "received", e.bodies(url), "")
		check(t, e.delete(url, m))
		wantEqual(t, "after a delete", e.bodies(url), "2")
	}},
	{"each queue has its own limit, and a message that is visible again does not count", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 1}, newClock())
		url, other := e.queue("q", map[string]string{"VisibilityTimeout": "1"}), e.queue("other", nil)
		e.send(url, "m")
		e.send(other, "o")
		e.one(url)
		wantEqual(t, "of another queue", e.bodies(other), "o")
		e.clock.Advance(time.Second)
		wantEqual(t, "received again", e.bodies(url), "m")
	}},
}
