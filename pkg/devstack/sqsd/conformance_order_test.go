package sqsd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

var deadLetters = []behaviour{
	{"a message that was received maxReceiveCount times goes to the dead-letter queue instead", func(t *testing.T, e endpoint) {
		dead := e.queue("dead", nil)
		url := e.queue("q", map[string]string{"VisibilityTimeout": "1", "RedrivePolicy": redrive("dead", 2)})
		e.send(url, "bad")
		for range 2 {
			wantEqual(t, "received", e.bodies(url), "bad")
			e.clock.Advance(time.Second)
		}
		e.send(url, "good")
		wantEqual(t, "received instead", e.bodies(url), "good")
		wantEqual(t, "counts of the source", e.counts(url), "0 1 0")
		wantEqual(t, "dead letters", e.bodies(dead), "bad")
	}},
	{"a dead letter keeps its id, attributes, time of sending and count, and names its source", func(t *testing.T, e endpoint) {
		dead := e.queue("dead", nil)
		url := e.queue("q", map[string]string{"VisibilityTimeout": "1", "RedrivePolicy": redrive("dead", 1)})
		sent := e.send(url, "m", with("MyAttribute", "String", "foobar"))
		e.one(url)
		e.clock.Advance(time.Second)
		e.receive(url)
		m := e.one(dead)
		wantEqual(t, "id", *m.MessageId, *sent.MessageId)
		wantEqual(t, "MD5 of the attributes", *m.MD5OfMessageAttributes, "adb59cd4678ea5a855436b949cd07ab6") // of AWS
		wantEqual(t, "SentTimestamp", m.Attributes["SentTimestamp"], "1772366400000")
		wantEqual(t, "ApproximateReceiveCount", m.Attributes["ApproximateReceiveCount"], "2")
		wantEqual(t, "DeadLetterQueueSourceArn", m.Attributes["DeadLetterQueueSourceArn"], arnOf+"q")
	}},
	{"a chain of dead-letter queues counts the receives of each", func(t *testing.T, e endpoint) {
		third := e.queue("third", nil)
		second := e.queue("second", map[string]string{"VisibilityTimeout": "0", "RedrivePolicy": redrive("third", 1)})
		first := e.queue("first", map[string]string{"VisibilityTimeout": "0", "RedrivePolicy": redrive("second", 2)})
		e.send(first, "m")
		for range 2 {
			wantEqual(t, "received from the first", e.bodies(first), "m")
		}
		wantEqual(t, "left in the first", e.bodies(first), "")
		wantEqual(t, "received from the second", e.bodies(second), "m")
		wantEqual(t, "left in the second", e.bodies(second), "")
		wantEqual(t, "received from the third", e.bodies(third), "m")
	}},
	{"a dead letter ages from its sending in a standard queue", func(t *testing.T, e endpoint) {
		dead := e.queue("dead", map[string]string{"MessageRetentionPeriod": "60"})
		url := e.queue("q", map[string]string{"VisibilityTimeout": "50", "RedrivePolicy": redrive("dead", 1)})
		e.send(url, "m")
		e.one(url)
		e.clock.Advance(50 * time.Second)
		e.receive(url)
		wantEqual(t, "counts", e.counts(dead), "1 0 0")
		e.clock.Advance(10 * time.Second)
		wantEqual(t, "counts after its retention", e.counts(dead), "0 0 0")
	}},
	{"a dead letter ages from its arrival in a FIFO queue", func(t *testing.T, e endpoint) {
		dead := e.fifo("dead.fifo", map[string]string{"MessageRetentionPeriod": "60"})
		url := e.fifo("q.fifo", map[string]string{"VisibilityTimeout": "50", "RedrivePolicy": redrive("dead.fifo", 1)})
		e.send(url, "m", inGroup("g", "d"))
		e.one(url)
		e.clock.Advance(50 * time.Second)
		e.receive(url)
		e.clock.Advance(60*time.Second - time.Millisecond)
		wantEqual(t, "counts", e.counts(dead), "1 0 0")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "counts after its retention", e.counts(dead), "0 0 0")
	}},
	{"a dead letter of a FIFO queue keeps its group, and the group goes on without it", func(t *testing.T, e endpoint) {
		dead := e.fifo("dead.fifo", map[string]string{"ContentBasedDeduplication": "true"})
		url := e.fifo("q.fifo", map[string]string{"ContentBasedDeduplication": "true", "VisibilityTimeout": "1", "RedrivePolicy": redrive("dead.fifo", 1)})
		e.send(url, "bad", inGroup("g", ""))
		e.send(url, "good", inGroup("g", ""))
		e.one(url)
		e.clock.Advance(time.Second)
		wantEqual(t, "received", e.bodies(url), "good")
		m := e.one(dead)
		wantEqual(t, "dead letter", *m.Body+" "+m.Attributes["MessageGroupId"], "bad g")
	}},
	{"a dead letter wakes a long poll of its new queue", func(t *testing.T, e endpoint) {
		dead := e.queue("dead", nil)
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0", "RedrivePolicy": redrive("dead", 1)})
		e.send(url, "m")
		e.one(url)
		poll := e.poll(t.Context(), dead)
		wantEqual(t, "received", e.bodies(url), "")
		wantBody(t, poll, "m")
	}},
}

var groups = []behaviour{
	{"a group's messages come in the order in which they were sent", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		for i := range 12 {
			e.send(url, fmt.Sprint(i), inGroup("g", fmt.Sprint(i)))
		}
		got := e.receive(url)
		for i, m := range got {
			wantEqual(t, "body", *m.Body, fmt.Sprint(i))
			check(t, e.delete(url, m))
		}
		wantEqual(t, "the rest", e.bodies(url), "10 11")
	}},
	{"a receive has as many of one group as there are", func(t *testing.T, e endpoint) {
		url := e.letters("q.fifo", "a1 b1 a2 b2 a3")
		wantEqual(t, "received", e.bodies(url, atMost(4)), "a1 a2 a3 b1")
	}},
	{"a group is blocked while one of its messages is in flight; others are not", func(t *testing.T, e endpoint) {
		url := e.letters("q.fifo", "a1 b1 a2 b2 a3")
		first := e.receive(url, atMost(2))
		wantEqual(t, "first", *first[0].Body+" "+*first[1].Body, "a1 a2")
		wantEqual(t, "of another group", e.bodies(url), "b1 b2")
		check(t, e.delete(url, first[0]))
		wantEqual(t, "a2 still blocks", e.bodies(url), "")
		check(t, e.delete(url, first[1]))
		wantEqual(t, "free", e.bodies(url), "a3")
	}},
	{"a message that is given back comes again before those after it", func(t *testing.T, e endpoint) {
		url := e.letters("q.fifo", "a1 a2 a3")
		first := e.receive(url, atMost(2))
		check(t, e.delete(url, first[0]))
		check(t, e.changeVisibility(url, first[1], 0))
		wantEqual(t, "received", e.bodies(url), "a2 a3")
	}},
	{"a group comes again in order after its visibility timeout", func(t *testing.T, e endpoint) {
		url := e.letters("q.fifo", "a1 b1 a2")
		wantEqual(t, "received", e.bodies(url), "a1 a2 b1")
		e.clock.Advance(30 * time.Second)
		wantEqual(t, "again", e.bodies(url), "a1 a2 b1")
	}},
	{"a group is blocked from the message on whose timeout was extended", func(t *testing.T, e endpoint) {
		for extended, want := range []string{"", "a1", "a1 a2"} { // the answers are of AWS
			url := e.letters(fmt.Sprintf("q%d.fifo", extended), "a1 a2 a3")
			check(t, e.changeVisibility(url, e.receive(url)[extended], 60))
			e.clock.Advance(30 * time.Second)
			wantEqual(t, fmt.Sprint("extended ", extended), e.bodies(url), want)
		}
	}},
	{"a FIFO queue's delay keeps the order", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"DelaySeconds": "5"})
		e.send(url, "1", inGroup("g", "1"))
		e.clock.Advance(3 * time.Second)
		e.send(url, "2", inGroup("g", "2"))
		e.clock.Advance(2 * time.Second)
		wantEqual(t, "received", e.bodies(url), "1")
		wantEqual(t, "counts", e.counts(url), "0 1 1")
	}},
	{"a message's own delay is refused", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.fifo("q.fifo", nil), "m", inGroup("g", "d"), delayed(1))
		return err
	})},
	{"MessageGroupId is required", refuses("MissingParameter", func(e endpoint) error {
		_, err := e.trySend(e.fifo("q.fifo", map[string]string{"ContentBasedDeduplication": "true"}), "m")
		return err
	})},
	{"a message has its group, its deduplication id and a sequence number that grows", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		last := ""
		for _, id := range []string{"1", "2", "3"} {
			sent := e.send(url, "m", inGroup("g"+id, id))
			got := e.one(url).Attributes
			wantEqual(t, "MessageGroupId", got["MessageGroupId"], "g"+id)
			wantEqual(t, "MessageDeduplicationId", got["MessageDeduplicationId"], id)
			wantEqual(t, "SequenceNumber", got["SequenceNumber"], *sent.SequenceNumber)
			if len(*sent.SequenceNumber) != 20 || *sent.SequenceNumber <= last {
				t.Errorf("sequence number %s after %s", *sent.SequenceNumber, last)
			}
			last = *sent.SequenceNumber
		}
	}},
}

var deduplication = []behaviour{
	{"a deduplication id is required without ContentBasedDeduplication", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.fifo("q.fifo", nil), "m", inGroup("g", ""))
		return err
	})},
	{"a deduplication id is of 1 to 128 letters, digits and punctuation", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		for _, id := range []string{"", "a b", strings.Repeat("d", 129)} {
			_, err := e.trySend(url, "m", inGroup("g", "d"), func(in *sqs.SendMessageInput) { in.MessageDeduplicationId = &id })
			wantCode(t, err, "InvalidParameterValue")
		}
	}},
	{"a duplicate is accepted with the id and number of the first, and not delivered", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		first := e.send(url, "x", inGroup("g", "d"))
		again := e.send(url, "another body", inGroup("other", "d"))
		wantEqual(t, "id", *again.MessageId, *first.MessageId)
		wantEqual(t, "SequenceNumber", *again.SequenceNumber, *first.SequenceNumber)
		wantEqual(t, "received", e.bodies(url), "x")
	}},
	{"deduplication lasts five minutes, whether or not the message was deleted", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		e.send(url, "x", inGroup("g", "d"))
		check(t, e.delete(url, e.one(url)))
		e.clock.Advance(5*time.Minute - time.Millisecond)
		e.send(url, "x", inGroup("g", "d"))
		wantEqual(t, "counts within", e.counts(url), "0 0 0")
		e.clock.Advance(time.Millisecond)
		e.send(url, "x", inGroup("g", "d"))
		wantEqual(t, "counts after", e.counts(url), "1 0 0")
	}},
	{"content-based deduplication goes by the body, without the attributes", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"ContentBasedDeduplication": "true"})
		e.send(url, "x", inGroup("g", ""))
		e.send(url, "x", inGroup("g", ""), with("Foo", "String", "Bar"))
		e.send(url, "y", inGroup("g", ""))
		wantEqual(t, "received", e.bodies(url), "x y")
	}},
	{"an explicit id goes before the content", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"ContentBasedDeduplication": "true"})
		e.send(url, "x", inGroup("g", ""))
		e.send(url, "x", inGroup("g", "explicit"))
		e.send(url, "y", inGroup("g", "explicit"))
		wantEqual(t, "received", e.bodies(url), "x x")
	}},
	{"the scope of deduplication can be a group", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"DeduplicationScope": "messageGroup"})
		for _, group := range []string{"g", "h", "g"} {
			e.send(url, "x", inGroup(group, "id"))
		}
		wantEqual(t, "counts", e.counts(url), "2 0 0")
	}},
	{"a duplicate within one batch is one message", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		a, b := entry("a", "x"), entry("b", "y")
		a.MessageGroupId, a.MessageDeduplicationId = aws.String("g"), aws.String("d")
		b.MessageGroupId, b.MessageDeduplicationId = aws.String("g"), aws.String("d")
		out, err := e.sendBatch(url, a, b)
		check(t, err)
		wantEqual(t, "answer", sentIDs(out), "sent a b, failed")
		wantEqual(t, "id", *out.Successful[1].MessageId, *out.Successful[0].MessageId)
		wantEqual(t, "received", e.bodies(url), "x")
	}},
	{"PurgeQueue forgets what was sent", func(t *testing.T, e endpoint) { // so does AWS
		url := e.fifo("q.fifo", nil)
		e.send(url, "1", inGroup("g", "d"))
		check(t, e.purge(url))
		e.send(url, "2", inGroup("g", "d"))
		wantEqual(t, "received", e.bodies(url), "2")
	}},
}
