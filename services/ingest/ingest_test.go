package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/services/ingest"
)

const sampleID = "31a89a91-43d8-4786-a195-9b25cec28a44"

// bench is a queue, a NATS, and ingest between them.
type bench struct {
	t       *testing.T
	natsDir string
	nats    *natsd.Server
	sqs     *sqsd.Server
	queue   string
	b       *broker.Broker
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, natsDir: t.TempDir()}
	b.startNATS("")
	var err error
	if b.sqs, err = sqsd.Start(sqsd.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.sqs.Stop(context.Background()) })
	if b.queue, err = b.sqs.CreateQueue("jobs", map[string]string{"VisibilityTimeout": "3"}); err != nil {
		t.Fatal(err)
	}
	if b.b, err = broker.Open(t.Context(), broker.Config{URL: b.nats.URL(), Role: "test"}, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.b.Close)
	return b
}

func (b *bench) startNATS(address string) {
	b.t.Helper()
	var err error
	if b.nats, err = natsd.Start(b.t.Context(), natsd.Config{Dir: b.natsDir, Addr: address}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(b.nats.Stop)
}

// run starts ingest; the returned function stops it in order.
func (b *bench) run(args ...string) (stop func()) {
	b.t.Helper()
	var cfg ingest.Config
	if err := process.Parse(&cfg, nil, append(args, "--nats-url="+b.nats.URL(), "--sqs-queue-url="+b.queue, "--metrics-addr=127.0.0.1:0")...); err != nil {
		b.t.Fatal(err)
	}
	cfg.Endpoint = b.sqs.URL()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ingest.Run(ctx, cfg, zerolog.Nop()); err != nil && !errors.Is(err, context.Canceled) {
			b.t.Error(err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); b.sqs.EndPolls(); running.Wait() }) }
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) client() *sqs.Client {
	return sqs.New(sqs.Options{
		BaseEndpoint: aws.String(b.sqs.URL()), Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	})
}

func (b *bench) send(bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		if _, err := b.client().SendMessage(b.t.Context(), &sqs.SendMessageInput{QueueUrl: &b.queue, MessageBody: &body, MessageAttributes: map[string]types.MessageAttributeValue{
			"traceparent": {DataType: aws.String("String"), StringValue: aws.String("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")},
		}}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// drained waits until the queue holds nothing, in flight or not.
func (b *bench) drained() {
	b.t.Helper()
	await.That(b.t, "an empty queue", func() bool {
		out, err := b.client().GetQueueAttributes(b.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &b.queue, AttributeNames: []types.QueueAttributeName{"All"}})
		return err == nil && out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0"
	})
}

func (b *bench) count(stream string) uint64 {
	b.t.Helper()
	s, err := b.b.JetStream().Stream(b.t.Context(), stream)
	if err != nil {
		b.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func (b *bench) rejected(id, body string) (*jobsv1.RequestRejected, broker.Rejection) {
	b.t.Helper()
	logKey, service := event.RejectedLogKey(id, []byte(body)), ""
	r, err := b.b.Rejection(b.t.Context(), logKey)
	if err != nil {
		b.t.Fatal(err)
	}
	service = r.Service
	tail, err := b.b.Tail(b.t.Context(), service, logKey)
	if err != nil || tail.Empty() {
		b.t.Fatalf("%s has no event (%v)", logKey, err)
	}
	return tail.Last.Data.(*jobsv1.RequestRejected), r
}

func TestTheSampleIsAccepted(t *testing.T) {
	b := newBench(t)
	b.send(string(request.Sample))
	b.run()
	b.drained()
	e, err := b.b.Request(t.Context(), event.Key(sampleID))
	if err != nil {
		t.Fatal(err)
	}
	r := e.Data.(*jobsv1.JobRequested)
	if r.GetJob().GetVolume().GetMountPath() != "/workdir" || r.GetHash() == "" || r.GetQueuedAt().AsTime().IsZero() ||
		e.Source != "jobrelay://default/queues/jobs" || !strings.HasPrefix(e.Trace, "00-4bf92f") || e.ID != sampleID {
		t.Errorf("%+v %v", e, r)
	}
}

func TestTheSameIsKnownAndAnotherIsRecorded(t *testing.T) {
	b := newBench(t)
	other := strings.Replace(string(request.Sample), `"busybox"`, `"alpine"`, 1)
	b.send(string(request.Sample), strings.ReplaceAll(string(request.Sample), "\n", " "))
	stop := b.run()
	b.drained()
	b.send(other)
	b.drained()
	stop()
	if n := b.count(broker.StreamRequests); n != 1 {
		t.Errorf("%d requests", n)
	}
	d, r := b.rejected(sampleID, other)
	if d.GetError().GetErrorCode() != "ID_REUSED" || d.GetCallback() || string(r.Body) != other {
		t.Errorf("%v", d)
	}
}

func TestRejectionsAreRecordedBeforeTheyAreDeleted(t *testing.T) {
	b := newBench(t)
	const readable = `{"id":"x","service":"s","webhook":{"url":"http://example.com/h"}}`
	const hookless = `{"id":"y","service":"s"}`
	const garbage = `no JSON at all`
	b.send(readable, hookless, garbage, readable)
	b.run()
	b.drained()
	d, r := b.rejected("x", readable)
	if d.GetError().GetErrorCode() != "MESSAGE_INVALID" || !d.GetCallback() || len(d.GetProblems()) == 0 || r.Webhook.GetUrl() != "http://example.com/h" || string(r.Body) != readable {
		t.Errorf("%v %+v", d, r)
	}
	if d, _ := b.rejected("y", hookless); d.GetCallback() {
		t.Errorf("a callback without a webhook: %v", d)
	}
	if d, _ := b.rejected("", garbage); d.GetCallback() || d.GetId() != "" {
		t.Errorf("%v", d)
	}
	if n := b.count(broker.StreamEvents); n != 3 {
		t.Errorf("%d events of 3 different messages", n)
	}
}

func TestARejectionDoesNotClaimTheID(t *testing.T) {
	b := newBench(t)
	broken := strings.Replace(string(request.Sample), `"busybox"`, `""`, 1)
	b.send(broken)
	b.run()
	b.drained()
	b.send(string(request.Sample))
	b.drained()
	if _, err := b.b.Request(t.Context(), event.Key(sampleID)); err != nil {
		t.Errorf("the corrected message: %v", err)
	}
	again := strings.Replace(string(request.Sample), `"busybox"`, `" "`, 1)
	b.send(again)
	b.drained()
	if d, _ := b.rejected(sampleID, again); d.GetCallback() {
		t.Error("a 99 for an id that is accepted")
	}
}

// TestFaultyQueue: answers are lost, calls fail, messages come twice. Each is
// accepted once, and all are deleted in the end.
func TestFaultyQueue(t *testing.T) {
	b := newBench(t)
	const n = 100
	for i := range n {
		b.send(strings.Replace(string(request.Sample), sampleID, fmt.Sprint("id ", i), 1))
	}
	b.sqs.Faults().Set("ReceiveMessage", sqsd.Fault{DropNext: 2, FailNext: 2, DuplicateRate: 0.3})
	b.sqs.Faults().Set("DeleteMessageBatch", sqsd.Fault{DropNext: 3, FailNext: 2})
	b.run()
	b.drained()
	if got := b.count(broker.StreamRequests); got != n {
		t.Errorf("%d requests of %d messages", got, n)
	}
	if got := b.count(broker.StreamRejections); got != 0 {
		t.Errorf("%d rejections", got)
	}
}

// TestNATSAway: what was received is held and not lost; nothing is deleted
// before it is stored.
func TestNATSAway(t *testing.T) {
	b := newBench(t)
	b.run()
	address := b.nats.Addr()
	b.nats.Stop()
	for i := range 20 {
		b.send(strings.Replace(string(request.Sample), sampleID, fmt.Sprint("id ", i), 1))
	}
	b.startNATS(address)
	b.drained()
	await.That(b.t, "a connection", func() bool { return b.b.Ready() == nil })
	if got := b.count(broker.StreamRequests); got != 20 {
		t.Errorf("%d requests", got)
	}
}

func TestTwoReplicasAndDuplicates(t *testing.T) {
	b := newBench(t)
	const n = 50
	for range 4 {
		for i := range n {
			b.send(strings.Replace(string(request.Sample), sampleID, fmt.Sprint("id ", i), 1))
		}
	}
	b.run()
	b.run("--ingest-in-flight=3", "--ingest-receivers=1")
	b.drained()
	if got := b.count(broker.StreamRequests); got != n {
		t.Errorf("%d requests of %d ids", got, n)
	}
}

// TestAQueueThatIsNotThere does not keep the others waiting, and is taken up when
// it is made.
func TestAQueueThatIsNotThere(t *testing.T) {
	b := newBench(t)
	there, missing := b.queue, b.sqs.QueueURL("later")
	b.send(string(request.Sample))
	b.queue = missing + "," + there
	b.run()
	b.queue = there
	b.drained()
	var err error
	if b.queue, err = b.sqs.CreateQueue("later", nil); err != nil {
		t.Fatal(err)
	}
	b.send(strings.Replace(string(request.Sample), sampleID, "later", 1))
	b.drained()
	if got := b.count(broker.StreamRequests); got != 2 {
		t.Errorf("%d requests", got)
	}
}

// TestFIFOGroups: of two requests under one id, the one that was sent first is
// accepted.
func TestFIFOGroups(t *testing.T) {
	b := newBench(t)
	var err error
	if b.queue, err = b.sqs.CreateQueue("jobs.fifo", map[string]string{"FifoQueue": "true", "ContentBasedDeduplication": "true"}); err != nil {
		t.Fatal(err)
	}
	const n = 20
	for i := range n {
		for _, image := range []string{"first", "second"} {
			body := strings.Replace(strings.Replace(string(request.Sample), sampleID, fmt.Sprint("id ", i), 1), `"busybox"`, `"`+image+`"`, 1)
			if _, err := b.client().SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &b.queue, MessageBody: &body, MessageGroupId: aws.String(fmt.Sprint(i % 3))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.run()
	b.drained()
	for i := range n {
		e, err := b.b.Request(t.Context(), event.Key(fmt.Sprint("id ", i)))
		if err != nil || e.Data.(*jobsv1.JobRequested).GetJob().GetImage() != "first" {
			t.Errorf("id %d: %v %v", i, e.Data, err)
		}
	}
}

// TestPolicy: what the policy denies is recorded with the rule's name and gets a
// 99, unless to a host that is denied itself; a changed file is in force without
// a restart, and what was accepted before stays known.
func TestPolicy(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sample := string(request.Sample)
	write("default: {images: [alpine]}")
	b.send(sample)
	b.run("--policy-file=" + file)
	b.drained()
	d, _ := b.rejected(sampleID, sample)
	if d.GetError().GetErrorCode() != "POLICY_DENIED" || !d.GetCallback() || !strings.Contains(d.GetError().GetMessage(), ".images)") {
		t.Errorf("%v", d)
	}
	write("default: {webhookHosts: []}")
	hookless := sample + " "
	await.That(t, "the new policy to deny the webhook", func() bool {
		hookless += " "
		b.send(hookless)
		b.drained()
		d, _ := b.rejected(sampleID, hookless)
		return !d.GetCallback() && strings.Contains(d.GetError().GetMessage(), ".webhookHosts)")
	})
	write("")
	await.That(t, "the empty policy to allow it", func() bool {
		b.send(sample)
		b.drained()
		_, err := b.b.Request(t.Context(), event.Key(sampleID))
		return err == nil
	})
	write("default: {images: [alpine]}")
	tries := 0
	await.That(t, "the first policy again", func() bool {
		tries++ // under another id each time: what is accepted once stays known
		id := fmt.Sprint("other ", tries)
		body := strings.Replace(sample, sampleID, id, 1)
		b.send(body)
		b.drained()
		_, err := b.b.Rejection(t.Context(), event.RejectedLogKey(id, []byte(body)))
		return err == nil
	})
	before := b.count(broker.StreamRejections)
	b.send(sample)
	b.drained()
	if got := b.count(broker.StreamRejections); got != before {
		t.Error("a request that was accepted is rejected when it comes again")
	}
}
