package ingest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/semaphore"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// plant is one queue, and a receiver that stores in a NATS of its own.
type plant struct {
	*receiver

	t      *testing.T
	sqs    *sqsd.Server
	client *sqs.Client
	log    *broker.Broker
}

// newPlant is a plant whose receiver does not run yet. It reaches the endpoint
// through front, where that is given.
func newPlant(t *testing.T, change func(*queue), front func(http.Handler) http.Handler) *plant {
	t.Helper()
	p := &plant{t: t}
	var err error
	if p.sqs, err = sqsd.Start(sqsd.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.sqs.Stop(context.Background()) })
	q := queue{name: "jobs", receivers: 4, inFlight: 256}
	if q.url, err = p.sqs.CreateQueue("jobs", map[string]string{"VisibilityTimeout": "60"}); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&q)
	}
	p.client = sqs.New(sqs.Options{BaseEndpoint: aws.String(p.sqs.URL()), Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")})
	endpoint := p.sqs.URL()
	if front != nil {
		u, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(front(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}))
		t.Cleanup(proxy.Close)
		endpoint = proxy.URL
	}
	var in *intake
	p.log, in = newIntake(t)
	p.receiver = newReceiver(q, in, &gate{}, semaphore.NewWeighted(maxBytes), sqsqueue.Config{Endpoint: endpoint}, in.log)
	return p
}

// start runs the receiver; it returns what stops it in order.
func (p *plant) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx)
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	p.t.Cleanup(func() { p.sqs.EndPolls(); stop() })
	return stop
}

// send puts n messages with different ids on the queue.
func (p *plant) send(n int) {
	p.t.Helper()
	for i := 0; i < n; i += 10 {
		var entries []types.SendMessageBatchRequestEntry
		for j := i; j < min(n, i+10); j++ {
			body := strings.Replace(string(request.Sample), "31a89a91", fmt.Sprint(j), 1)
			entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(j)), MessageBody: &body})
		}
		if _, err := p.client.SendMessageBatch(p.t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &p.url, Entries: entries}); err != nil {
			p.t.Fatal(err)
		}
	}
}

// depth is how many messages the queue has: visible, and in flight.
func (p *plant) depth() (visible, inFlight int) {
	p.t.Helper()
	out, err := p.client.GetQueueAttributes(p.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &p.url, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil {
		p.t.Fatal(err)
	}
	for name, n := range map[string]*int{"ApproximateNumberOfMessages": &visible, "ApproximateNumberOfMessagesNotVisible": &inFlight} {
		if _, err := fmt.Sscan(out.Attributes[name], n); err != nil {
			p.t.Fatal(err)
		}
	}
	return visible, inFlight
}

func (p *plant) drained() {
	p.t.Helper()
	await.That(p.t, "an empty queue", func() bool { visible, inFlight := p.depth(); return visible+inFlight == 0 })
}

func (p *plant) requests(action string) float64 {
	return testutil.ToFloat64(p.metrics.requests.WithLabelValues(action))
}

func (p *plant) stored() int {
	p.t.Helper()
	s, err := p.log.JetStream().Stream(p.t.Context(), broker.StreamRequests)
	if err != nil {
		p.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

func (p *plant) receivers() int { _, n, _ := p.now(); return n }

// TestRequestsAMessage: under load no more than 0.21 requests a message; then
// one poll is open.
func TestRequestsAMessage(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil, nil)
	const n = 3000
	p.send(n)
	p.start()
	most := 0
	await.That(t, "an empty queue", func() bool {
		most = max(most, p.receivers())
		visible, inFlight := p.depth()
		return visible+inFlight == 0
	})
	requests := p.requests("receive") + p.requests("delete") + p.requests("visibility")
	t.Logf("%g requests for %d messages, %d receivers at most", requests, n, most)
	if requests/n > 0.21 || p.stored() != n {
		t.Errorf("%g requests a message, %d stored", requests/n, p.stored())
	}
	if most < 2 {
		t.Errorf("%d receivers under load", most)
	}
	await.That(t, "one receiver", func() bool { return p.receivers() == 1 })
}

// TestAFewSlots: one more message than fits is never held.
func TestAFewSlots(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(q *queue) { q.inFlight = 3 }, nil)
	p.send(30)
	p.start()
	p.drained()
	if got := p.stored(); got != 30 {
		t.Errorf("%d stored", got)
	}
}

// TestDeletesAreTriedAgain: entries that the queue failed to delete are deleted
// with a later call, and what cannot be deleted at all is known when it comes again.
func TestDeletesAreTriedAgain(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil, nil)
	p.send(20)
	p.sqs.Faults().Set("DeleteMessageBatch", sqsd.Fault{RefuseNext: 25})
	p.start()
	p.drained()
	if got, failed := p.stored(), testutil.ToFloat64(p.metrics.undeleted); got != 20 || failed != 0 {
		t.Errorf("%d stored, %g not deleted", got, failed)
	}
	if n := p.sqs.Faults().Injected("DeleteMessageBatch").Refused; n != 25 {
		t.Errorf("%d entries were refused", n)
	}
}

// TestTheLogRefuses: while nothing can be stored, the receivers stop, tell it,
// and give back what they cannot store; when it can be stored again all is.
func TestTheLogRefuses(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil, nil)
	p.patience = time.Second
	limit := func(n int64) {
		t.Helper()
		s, err := p.log.JetStream().Stream(t.Context(), broker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		config.MaxMsgs, config.Discard = n, jetstream.DiscardNew
		if _, err := p.log.JetStream().UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	limit(5)
	const n = 500
	p.send(n)
	p.start()
	await.That(t, "the receiver to tell it", func() bool {
		_, err := p.ready()
		return err != nil && strings.Contains(err.Error(), "cannot be stored")
	})
	given := func() float64 { return testutil.ToFloat64(p.metrics.givenBack) }
	await.That(t, "messages to be given back", func() bool { visible, _ := p.depth(); return given() > 0 && visible >= n-5-10 })
	// From now on one at a time is tried.
	before, calls := given(), p.requests("receive")
	await.That(t, "two more tries", func() bool { return given() >= before+2 })
	if now := p.requests("receive"); now-calls > given()-before+2 {
		t.Errorf("%g receives for %g tries", now-calls, given()-before)
	}
	limit(-1)
	p.drained()
	if got := p.stored(); got != n {
		t.Errorf("%d stored", got)
	}
	if _, err := p.ready(); err != nil {
		t.Error(err)
	}
}

// TestStopGivesBack: what a stop finds unstored is visible to others at once.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil, nil)
	config, err := p.log.JetStream().Stream(t.Context(), broker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	full := config.CachedInfo().Config
	full.MaxMsgs, full.Discard = 1, jetstream.DiscardNew
	if _, err := p.log.JetStream().UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	p.send(30)
	stop := p.start()
	await.That(t, "messages in hand", func() bool { _, inFlight := p.depth(); return inFlight > 1 && p.stored() == 1 })
	p.sqs.EndPolls()
	stop()
	if visible, inFlight := p.depth(); visible+inFlight != 29 || inFlight != 0 {
		t.Errorf("%d visible, %d in flight", visible, inFlight)
	}
}

// TestStopWithoutAnswers: an endpoint that answers nothing any more does not
// hold up the stop.
func TestStopWithoutAnswers(t *testing.T) {
	t.Parallel()
	frozen, over := make(chan struct{}), make(chan struct{})
	p := newPlant(t, nil, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-frozen:
				<-over
			default:
				next.ServeHTTP(w, r)
			}
		})
	})
	t.Cleanup(func() { close(over) })
	p.send(20)
	stop := p.start()
	p.drained()
	close(frozen)
	p.send(10) // the open poll brings some, whose deletion has no answer
	await.That(t, "the messages to be known", func() bool { return testutil.ToFloat64(p.intake.metrics.messages.WithLabelValues("duplicate")) > 0 })
	stop() // within process.StopTimeout; the test's own bound is go test's
}

// TestAMessageIsExtended: what is held for longer than the queue's timeout is
// handed to nobody else.
func TestAMessageIsExtended(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil, nil)
	if _, err := p.client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &p.url, Attributes: map[string]string{"VisibilityTimeout": "1"}}); err != nil {
		t.Fatal(err)
	}
	s, err := p.log.JetStream().Stream(t.Context(), broker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxMsgs, config.Discard = 1, jetstream.DiscardNew
	if _, err := p.log.JetStream().UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	p.patience = 4 * time.Second
	p.send(2)
	p.start()
	await.That(t, "one to be stored, the other to be given back", func() bool { return testutil.ToFloat64(p.metrics.givenBack) > 0 })
	if n := p.requests("visibility"); n < 4 { // one gives back; the timeout ended four times meanwhile
		t.Errorf("%g calls for the visibility", n)
	}
	out, err := p.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &p.url, WaitTimeSeconds: 1,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range out.Messages { // none where the receiver has it again
		if n := m.Attributes["ApproximateReceiveCount"]; n != "2" {
			t.Errorf("it was handed out %s times", n)
		}
	}
}
