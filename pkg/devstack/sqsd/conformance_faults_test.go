package sqsd_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

var faults = []behaviour{
	{"a failed call does nothing and has the status and its code", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for status, code := range map[int]string{0: "ServiceUnavailable", 500: "InternalFailure", 429: "RequestThrottled"} {
			e.Faults().Set("SendMessage", sqsd.Fault{FailNext: 1, Status: status})
			_, err := e.trySend(url, "m")
			wantCode(t, err, code)
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		e.send(url, "m") // the fault is used up
	}},
	{"the SDK tries a failed call again", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.Faults().Set("SendMessage", sqsd.Fault{FailNext: 2})
		_, err := newClient(t, e.URL(), retrying).SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("m")})
		check(t, err)
		wantEqual(t, "failed", e.Faults().Injected("SendMessage").Failed, 2)
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"an entry of a batch that the endpoint fails is in Failed and stays undone", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.Faults().Set("SendMessageBatch", sqsd.Fault{RefuseNext: 1})
		out, err := e.sendBatch(url, entry("a", "m"), entry("b", "m"))
		check(t, err)
		wantEqual(t, "failed", failures(out.Failed), " a InternalFailure false")
		wantEqual(t, "sent", len(out.Successful), 1)
		wantEqual(t, "counts", e.counts(url), "1 0 0")
		wantEqual(t, "refused", e.Faults().Injected("SendMessageBatch").Refused, 1)
	}},
	{"a dropped answer comes after the work", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.Faults().Set("SendMessage", sqsd.Fault{DropNext: 1})
		if _, err := e.trySend(url, "m"); err == nil {
			t.Error("the answer arrived")
		}
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"a send whose answer is lost is two messages in a standard queue and one in a FIFO queue", func(t *testing.T, e endpoint) {
		client := newClient(t, e.URL(), retrying)
		for url, want := range map[string]string{e.queue("q", nil): "2 0 0", e.fifo("q.fifo", nil): "1 0 0"} {
			e.Faults().Set("SendMessage", sqsd.Fault{DropNext: 1})
			in := &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("m")}
			if strings.HasSuffix(url, ".fifo") {
				inGroup("g", "d")(in)
			}
			_, err := client.SendMessage(t.Context(), in)
			check(t, err)
			wantEqual(t, "counts of "+url, e.counts(url), want)
		}
	}},
	{"a dropped receive leaves its messages in flight until their timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "30"})
		e.send(url, "m")
		e.Faults().Set("ReceiveMessage", sqsd.Fault{DropNext: 1})
		if _, err := e.tryReceive(url); err == nil {
			t.Error("the answer arrived")
		}
		wantEqual(t, "counts", e.counts(url), "0 1 0")
		e.clock.Advance(30 * time.Second)
		wantEqual(t, "after the timeout", e.bodies(url), "m")
	}},
	{"a duplicated delivery is received again at once", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		e.Faults().Set("ReceiveMessage", sqsd.Fault{DuplicateNext: 1})
		first, second := e.one(url), e.one(url)
		wantEqual(t, "id", *second.MessageId, *first.MessageId)
		wantEqual(t, "ApproximateReceiveCount", second.Attributes["ApproximateReceiveCount"], "2")
		wantEqual(t, "received a third time", e.bodies(url), "")
	}},
	{"an action's own fault goes before that of all, and Clear ends both", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.Faults().Set(sqsd.AllActions, sqsd.Fault{FailRate: 1, Status: 500})
		e.Faults().Set("SendMessage", sqsd.Fault{})
		e.send(url, "m")
		_, err := e.tryReceive(url)
		wantCode(t, err, "InternalFailure")
		e.Faults().Clear()
		wantEqual(t, "received", e.bodies(url), "m")
	}},
	{"what was injected is counted", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.Faults().Set("SendMessage", sqsd.Fault{FailNext: 2, DropNext: 1, Latency: time.Nanosecond})
		for range 4 {
			_, _ = e.trySend(url, "m") // two fail, one has no answer, one is sent
		}
		wantEqual(t, "injected", e.Faults().Injected("SendMessage"), sqsd.Injected{Delayed: 4, Failed: 2, Dropped: 1})
		wantEqual(t, "counts", e.counts(url), "2 0 0")
	}},
	{"latency comes before the work, and a stop ends it", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.Faults().Set("SendMessage", sqsd.Fault{Latency: time.Hour})
		done := make(chan error, 1)
		go func() {
			_, err := e.trySend(url, "m")
			done <- err
		}()
		for e.Faults().Injected("SendMessage").Delayed == 0 {
			runtime.Gosched()
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		check(t, e.Stop(t.Context()))
		if <-done == nil {
			t.Error("the call was answered")
		}
	}},
}

var stopping = []behaviour{
	{"Stop answers waiting polls at once", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		var polls []<-chan polled
		for range 3 {
			polls = append(polls, e.poll(t.Context(), url))
		}
		check(t, e.Stop(t.Context()))
		for _, poll := range polls { // the clock has not moved
			wantBody(t, poll, "")
		}
	}},
	{"EndPolls answers polls, those that wait and those to come, and leaves the rest running", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "held")
		held := e.one(url)
		waiting := e.poll(t.Context(), url)
		e.EndPolls()
		wantBody(t, waiting, "")
		got, err := e.tryReceive(url, func(in *sqs.ReceiveMessageInput) { in.WaitTimeSeconds = 20 })
		check(t, err)
		wantEqual(t, "messages of a later poll", len(got), 0)
		check(t, e.delete(url, held))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
}

var restarting = []behaviour{
	{"a restart keeps queues, their attributes and what is visible, delayed and in flight", func(t *testing.T, _ endpoint) {
		dir, clock := t.TempDir(), newClock()
		e := startIn(t, dir, clock)
		e.queue("dead", nil)
		url := e.queue("q", map[string]string{"VisibilityTimeout": "30", "RedrivePolicy": redrive("dead", 2)})
		e.send(url, "in flight", with("Foo", "String", "Bar"))
		inFlight := e.one(url)
		e.send(url, "delayed", delayed(60))
		e.send(url, "visible")
		before := e.attributes(url, "All")
		e.stop()

		clock.Advance(29 * time.Second)
		e = startIn(t, dir, clock)
		url = e.QueueURL("q")
		wantEqual(t, "attributes", fmt.Sprint(e.attributes(url, "All")), fmt.Sprint(before))
		wantEqual(t, "visible", e.bodies(url), "visible")
		clock.Advance(time.Second)
		again := e.one(url)
		wantEqual(t, "id after its timeout", *again.MessageId, *inFlight.MessageId)
		wantEqual(t, "ApproximateReceiveCount", again.Attributes["ApproximateReceiveCount"], "2")
		wantEqual(t, "MD5 of the attributes", *again.MD5OfMessageAttributes, *inFlight.MD5OfMessageAttributes)
		check(t, e.delete(url, inFlight)) // an old handle now
		clock.Advance(30 * time.Second)
		wantEqual(t, "one is due, one comes again, one is dead", e.bodies(url), "delayed visible")
		wantEqual(t, "dead letters", e.bodies(e.QueueURL("dead")), "in flight")
	}},
	{"a restart brings no deleted message and no deleted queue back", func(t *testing.T, _ endpoint) {
		dir, clock := t.TempDir(), newClock()
		e := startIn(t, dir, clock)
		url, gone, purged := e.queue("q", nil), e.queue("gone", nil), e.queue("purged", nil)
		for _, queue := range []string{url, gone, purged} {
			e.send(queue, "m")
		}
		check(t, e.delete(url, e.one(url)))
		check(t, e.deleteQueue(gone))
		check(t, e.purge(purged))
		e.stop()

		e = startIn(t, dir, clock)
		wantEqual(t, "counts after the delete", e.counts(e.QueueURL("q")), "0 0 0")
		wantEqual(t, "counts after the purge", e.counts(e.QueueURL("purged")), "0 0 0")
		_, err := e.trySend(e.QueueURL("gone"), "m")
		wantCode(t, err, legacy+"NonExistentQueue")
	}},
	{"a restart keeps handles good", func(t *testing.T, _ endpoint) {
		dir, clock := t.TempDir(), newClock()
		e := startIn(t, dir, clock)
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		e.stop()
		e = startIn(t, dir, clock)
		check(t, e.changeVisibility(e.QueueURL("q"), m, 60))
		check(t, e.delete(e.QueueURL("q"), m))
		wantEqual(t, "counts", e.counts(e.QueueURL("q")), "0 0 0")
	}},
	{"a restart keeps groups blocked, their order and what is known for deduplication", func(t *testing.T, _ endpoint) {
		dir, clock := t.TempDir(), newClock()
		e := startIn(t, dir, clock)
		url := e.letters("q.fifo", "a1 a2")
		first := e.one(url)
		purged := e.letters("purged.fifo", "a1")
		check(t, e.purge(purged))
		e.stop()

		e = startIn(t, dir, clock)
		url, purged = e.QueueURL("q.fifo"), e.QueueURL("purged.fifo")
		wantEqual(t, "blocked", e.bodies(url), "")
		sent := e.send(url, "a2", inGroup("a", ""))
		check(t, e.delete(url, first))
		wantEqual(t, "received", e.bodies(url), "a2")
		next := e.send(url, "a3", inGroup("a", ""))
		if *next.SequenceNumber <= *sent.SequenceNumber {
			t.Errorf("sequence number %s after %s", *next.SequenceNumber, *sent.SequenceNumber)
		}
		e.send(purged, "a1", inGroup("a", ""))
		wantEqual(t, "counts after a purge", e.counts(purged), "1 0 0")
	}},
	{"a message that was acknowledged is there after a kill", func(t *testing.T, _ endpoint) {
		dir := t.TempDir()
		child, url := startChild(t, dir)
		client, ctx := newClient(t, url), t.Context()
		queue, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("q")})
		check(t, err)
		for _, body := range []string{"deleted", "kept"} {
			_, err = client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: queue.QueueUrl, MessageBody: &body})
			check(t, err)
		}
		out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl})
		check(t, err)
		_, err = client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: queue.QueueUrl, ReceiptHandle: out.Messages[0].ReceiptHandle})
		check(t, err)
		check(t, child.Process.Kill())
		_ = child.Wait() // "signal: killed"

		e := startIn(t, dir, clockAt(time.Now()))
		wantEqual(t, "received", e.bodies(e.QueueURL("q")), "kept")
	}},
}
