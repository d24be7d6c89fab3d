package sqsd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

// watchedClock says when a long poll begins to wait and when it ends to.
type watchedClock struct {
	*sqsd.ManualClock
	waits chan time.Time
	ends  chan struct{}
}

func (c watchedClock) At(t time.Time) (<-chan struct{}, func()) {
	reached, cancel := c.ManualClock.At(t)
	c.waits <- t
	return reached, func() {
		cancel()
		c.ends <- struct{}{}
	}
}

// polling is an endpoint with long polls of which a test knows when they wait.
func polling(t *testing.T) (endpoint, watchedClock) {
	t.Helper()
	clock := watchedClock{newClock(), make(chan time.Time, 100), make(chan struct{}, 100)}
	s, err := sqsd.Start(sqsd.Config{Clock: clock})
	check(t, err)
	e := endpoint{Server: s, Client: newClient(t, s.URL()), clock: clock.ManualClock, t: t}
	t.Cleanup(e.stop)
	return e, clock
}

type polled struct {
	messages []types.Message
	err      error
}

// poll starts a poll of 20 s and returns when it waits.
func (e endpoint) poll(ctx context.Context, clock watchedClock, url string) <-chan polled {
	done := make(chan polled, 1)
	go func() {
		out, err := e.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20, MaxNumberOfMessages: 10})
		if err != nil {
			done <- polled{err: err}
			return
		}
		done <- polled{messages: out.Messages}
	}()
	<-clock.waits
	return done
}

func wantBody(t *testing.T, poll <-chan polled, body string) {
	t.Helper()
	p := <-poll
	switch {
	case p.err != nil:
		t.Error(p.err)
	case body == "" && len(p.messages) == 0:
	case len(p.messages) != 1 || *p.messages[0].Body != body:
		t.Errorf("polled %d messages, want %q", len(p.messages), body)
	}
}

func TestALongPollWakes(t *testing.T) {
	e, clock := polling(t)

	arrival := e.queue("arrival", nil)
	poll := e.poll(t.Context(), clock, arrival)
	e.send(arrival, "sent")
	wantBody(t, poll, "sent")

	timeout := e.queue("timeout", map[string]string{"VisibilityTimeout": "5"})
	e.send(timeout, "again")
	e.receive(timeout)
	poll = e.poll(t.Context(), clock, timeout)
	e.clock.Advance(5 * time.Second)
	wantBody(t, poll, "again")

	delay := e.queue("delay", map[string]string{"DelaySeconds": "5"})
	poll = e.poll(t.Context(), clock, delay)
	e.send(delay, "delayed")
	<-clock.waits // it looked, and waits for the delay now
	e.clock.Advance(5 * time.Second)
	wantBody(t, poll, "delayed")

	back := e.queue("back", nil)
	e.send(back, "given back")
	m := e.receive(back)[0]
	poll = e.poll(t.Context(), clock, back)
	check(t, e.changeVisibility(back, m, 0))
	wantBody(t, poll, "given back")

	fifo := e.fifo("group.fifo", nil)
	e.send(fifo, "1", inGroup("g", "1"))
	e.send(fifo, "2", inGroup("g", "2"))
	m = e.receive(fifo, atMost(1))[0]
	poll = e.poll(t.Context(), clock, fifo)
	check(t, e.delete(fifo, m))
	wantBody(t, poll, "2")

	empty := e.queue("empty", nil)
	poll = e.poll(t.Context(), clock, empty)
	e.clock.Advance(20 * time.Second)
	wantBody(t, poll, "")

	gone := e.queue("gone", nil)
	poll = e.poll(t.Context(), clock, gone)
	_, err := e.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &gone})
	check(t, err)
	wantCode(t, (<-poll).err, "AWS.SimpleQueueService.NonExistentQueue")
}

func TestAQueueHasItsOwnWait(t *testing.T) {
	e, clock := polling(t)
	url := e.queue("q", map[string]string{"ReceiveMessageWaitTimeSeconds": "7"})
	done := make(chan error, 1)
	go func() {
		_, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
		done <- err
	}()
	wantEqual(t, "waits until", <-clock.waits, e.clock.Now().Add(7*time.Second))
	e.clock.Advance(7 * time.Second)
	check(t, <-done)
}

func TestStopAnswersPollsAtOnce(t *testing.T) {
	e, clock := polling(t)
	url := e.queue("q", nil)
	var polls []<-chan polled
	for range 3 {
		polls = append(polls, e.poll(t.Context(), clock, url))
	}
	unused, err := net.Dial("tcp", e.Addr())
	check(t, err)
	defer func() { _ = unused.Close() }()
	began := time.Now()
	check(t, e.Stop(t.Context()))
	for _, poll := range polls {
		wantBody(t, poll, "")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Stop took %s", took)
	}
}

func TestEndPollsLeavesTheRestRunning(t *testing.T) {
	e, clock := polling(t)
	url := e.queue("q", nil)
	e.send(url, "held")
	held := e.receive(url)[0]
	waiting := e.poll(t.Context(), clock, url)
	e.EndPolls()
	wantBody(t, waiting, "")
	out, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
	check(t, err)
	wantEqual(t, "messages of a later poll", len(out.Messages), 0)
	check(t, e.delete(url, held))
	wantEqual(t, "counts", e.counts(url), "0 0 0")
}

func TestAPollWhoseCallerIsGoneTakesNothing(t *testing.T) {
	e, clock := polling(t)
	url := e.queue("q", nil)
	ctx, cancel := context.WithCancel(t.Context())
	poll := e.poll(ctx, clock, url)
	cancel()
	if p := <-poll; p.err == nil {
		t.Fatal("the poll was answered")
	}
	<-clock.ends // the endpoint has noticed
	next := e.poll(t.Context(), clock, url)
	e.send(url, "m")
	wantBody(t, next, "m")
}

func TestAPollWithoutAnAnswerLeavesMessagesToTheNext(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", map[string]string{"VisibilityTimeout": "30"})
	e.send(url, "m")
	e.Faults().Set("ReceiveMessage", sqsd.Fault{DropNext: 1})
	if _, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url}); err == nil {
		t.Error("a dropped answer arrived")
	}
	wantEqual(t, "the work was done", e.counts(url), "0 1 0")
	e.clock.Advance(30 * time.Second)
	wantEqual(t, "after the timeout", e.bodies(url), "m")
}

func TestFaults(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	send := func() error {
		_, err := e.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("m")})
		return err
	}
	e.Faults().Set("SendMessage", sqsd.Fault{FailNext: 2, DropNext: 1, Latency: time.Millisecond})
	wantCode(t, send(), "ServiceUnavailable")
	wantCode(t, send(), "ServiceUnavailable")
	wantEqual(t, "failed calls do nothing", e.counts(url), "0 0 0")
	if send() == nil {
		t.Error("a dropped answer arrived")
	}
	check(t, send())
	wantEqual(t, "dropped answers do their work", e.counts(url), "2 0 0")
	wantEqual(t, "injected", e.Faults().Injected("SendMessage"), sqsd.Injected{Delayed: 4, Failed: 2, Dropped: 1})

	e.Faults().Set(sqsd.AllActions, sqsd.Fault{FailRate: 1, Status: 500})
	check(t, send()) // its own fault is used up, and goes before that of all
	_, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
	wantCode(t, err, "InternalFailure")
	e.Faults().Clear()

	e.Faults().Set("ReceiveMessage", sqsd.Fault{DuplicateNext: 1})
	first, second := e.receive(url, atMost(1))[0], e.receive(url, atMost(1))[0]
	wantEqual(t, "delivered twice", *second.MessageId, *first.MessageId)
	wantEqual(t, "second delivery", second.Attributes["ApproximateReceiveCount"], "2")

	e.Faults().Set("ReceiveMessage", sqsd.Fault{Latency: time.Hour})
	done := make(chan error, 1)
	go func() {
		_, err := e.ReceiveMessage(context.Background(), &sqs.ReceiveMessageInput{QueueUrl: &url})
		done <- err
	}()
	for e.Faults().Injected("ReceiveMessage").Delayed == 0 {
		runtime.Gosched()
	}
	check(t, e.Stop(t.Context()))
	if <-done == nil {
		t.Error("Stop let a delayed call through")
	}
}

func TestManyConsumersShareAQueue(t *testing.T) {
	s, err := sqsd.Start(sqsd.Config{Dir: t.TempDir()})
	check(t, err)
	e := endpoint{Server: s, Client: newClient(t, s.URL()), t: t}
	t.Cleanup(e.stop)
	url := e.queue("q", nil)
	const n = 200
	var senders, consumers sync.WaitGroup
	began := time.Now()
	for i := range 10 {
		senders.Go(func() {
			for j := range n / 10 {
				if _, err := e.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String(fmt.Sprintf("%d/%d", i, j))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	seen := map[string]int{}
	for range 5 {
		consumers.Go(func() {
			for ctx.Err() == nil {
				out, err := e.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, WaitTimeSeconds: 20})
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				for _, m := range out.Messages {
					if err := e.delete(url, m); err != nil {
						t.Error(err)
					}
					mu.Lock()
					seen[*m.Body]++
					if len(seen) == n {
						cancel()
					}
					mu.Unlock()
				}
			}
		})
	}
	senders.Wait()
	t.Logf("%d concurrent sends took %s", n, time.Since(began))
	consumers.Wait()
	for body, times := range seen {
		if times != 1 {
			t.Errorf("%s was received %d times", body, times)
		}
	}
}

func TestStartNamesATakenAddress(t *testing.T) {
	e := newEndpoint(t)
	if _, err := sqsd.Start(sqsd.Config{Addr: e.Addr()}); err == nil || !strings.Contains(err.Error(), e.Addr()) {
		t.Errorf("error %v, want one that names %s", err, e.Addr())
	}
}
