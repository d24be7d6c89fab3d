package sqsd_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		serveUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// endpoint is a running server, an SDK client for it and its clock.
type endpoint struct {
	*sqsd.Server
	*sqs.Client
	clock *sqsd.ManualClock
	t     *testing.T
}

func start(t *testing.T, dir string, clock *sqsd.ManualClock) endpoint {
	t.Helper()
	s, err := sqsd.Start(sqsd.Config{Dir: dir, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	e := endpoint{Server: s, Client: newClient(t, s.URL()), clock: clock, t: t}
	t.Cleanup(e.stop)
	return e
}

func newEndpoint(t *testing.T) endpoint {
	t.Helper()
	return start(t, "", newClock())
}

func newClock() *sqsd.ManualClock {
	return sqsd.NewManualClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
}

func (e endpoint) stop() {
	if err := e.Stop(context.Background()); err != nil {
		e.t.Error(err)
	}
}

// newClient tries each call once, so that a test sees every failure.
func newClient(t *testing.T, url string) *sqs.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return sqs.New(sqs.Options{
		BaseEndpoint:     aws.String(url),
		Region:           "us-east-1",
		RetryMaxAttempts: 1,
		HTTPClient:       &http.Client{Transport: transport},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
		}),
	})
}

func (e endpoint) queue(name string, attributes map[string]string) string {
	e.t.Helper()
	url, err := e.Server.CreateQueue(name, attributes)
	if err != nil {
		e.t.Fatal(err)
	}
	return url
}

func (e endpoint) fifo(name string, more map[string]string) string {
	e.t.Helper()
	attributes := map[string]string{"FifoQueue": "true"}
	for k, v := range more {
		attributes[k] = v
	}
	return e.queue(name, attributes)
}

func (e endpoint) send(url, body string, options ...func(*sqs.SendMessageInput)) *sqs.SendMessageOutput {
	e.t.Helper()
	in := &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}
	for _, o := range options {
		o(in)
	}
	out, err := e.SendMessage(e.t.Context(), in)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

func inGroup(group, dedupID string) func(*sqs.SendMessageInput) {
	return func(in *sqs.SendMessageInput) {
		in.MessageGroupId = &group
		if dedupID != "" {
			in.MessageDeduplicationId = &dedupID
		}
	}
}

func (e endpoint) receive(url string, options ...func(*sqs.ReceiveMessageInput)) []types.Message {
	e.t.Helper()
	in := &sqs.ReceiveMessageInput{
		QueueUrl: &url, MaxNumberOfMessages: 10,
		MessageAttributeNames:       []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"},
	}
	for _, o := range options {
		o(in)
	}
	out, err := e.ReceiveMessage(e.t.Context(), in)
	if err != nil {
		e.t.Fatal(err)
	}
	return out.Messages
}

func (e endpoint) bodies(url string, options ...func(*sqs.ReceiveMessageInput)) string {
	e.t.Helper()
	var all []string
	for _, m := range e.receive(url, options...) {
		all = append(all, *m.Body)
	}
	return strings.Join(all, " ")
}

func atMost(n int32) func(*sqs.ReceiveMessageInput) {
	return func(in *sqs.ReceiveMessageInput) { in.MaxNumberOfMessages = n }
}

func (e endpoint) delete(url string, m types.Message) error {
	_, err := e.DeleteMessage(e.t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle})
	return err
}

func (e endpoint) changeVisibility(url string, m types.Message, seconds int32) error {
	_, err := e.ChangeMessageVisibility(e.t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: seconds})
	return err
}

// counts are visible, in flight and delayed, as in "1 0 0".
func (e endpoint) counts(url string) string {
	e.t.Helper()
	a := e.attributes(url, "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")
	return a["ApproximateNumberOfMessages"] + " " + a["ApproximateNumberOfMessagesNotVisible"] + " " + a["ApproximateNumberOfMessagesDelayed"]
}

func (e endpoint) attributes(url string, names ...types.QueueAttributeName) map[string]string {
	e.t.Helper()
	out, err := e.GetQueueAttributes(e.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: names})
	if err != nil {
		e.t.Fatal(err)
	}
	return out.Attributes
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("error %v, want the code %s", err, code)
	}
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAMessageIsSentReceivedAndDeleted(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	sent := e.send(url, "héllo <&>", func(in *sqs.SendMessageInput) {
		in.MessageAttributes = map[string]types.MessageAttributeValue{
			"text":   {DataType: aws.String("String.label"), StringValue: aws.String("x")},
			"number": {DataType: aws.String("Number"), StringValue: aws.String("42")},
			"bytes":  {DataType: aws.String("Binary"), BinaryValue: []byte{0, 1, 255}},
		}
		in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{
			"AWSTraceHeader": {DataType: aws.String("String"), StringValue: aws.String("Root=1-5759e988-bd862e3fe1be46a994272793")},
		}
	})
	// The digest of these attributes, reckoned apart with Python's hashlib by the Developer Guide's algorithm.
	wantEqual(t, "MD5 of the attributes", *sent.MD5OfMessageAttributes, "1c5baba21183f1b365df7051c5b0c8ed")
	e.clock.Advance(time.Second)
	got := e.receive(url)
	if len(got) != 1 {
		t.Fatalf("received %d messages", len(got))
	}
	m := got[0]
	wantEqual(t, "id", *m.MessageId, *sent.MessageId)
	wantEqual(t, "body", *m.Body, "héllo <&>")
	wantEqual(t, "MD5 of the received attributes", *m.MD5OfMessageAttributes, *sent.MD5OfMessageAttributes)
	wantEqual(t, "binary attribute", string(m.MessageAttributes["bytes"].BinaryValue), "\x00\x01\xff")
	wantEqual(t, "SentTimestamp", m.Attributes["SentTimestamp"], "1772366400000")
	wantEqual(t, "ApproximateFirstReceiveTimestamp", m.Attributes["ApproximateFirstReceiveTimestamp"], "1772366401000")
	wantEqual(t, "ApproximateReceiveCount", m.Attributes["ApproximateReceiveCount"], "1")
	wantEqual(t, "AWSTraceHeader", m.Attributes["AWSTraceHeader"], "Root=1-5759e988-bd862e3fe1be46a994272793")
	if m.Attributes["SenderId"] == "" {
		t.Error("no SenderId")
	}
	check(t, e.delete(url, m))
	check(t, e.delete(url, m)) // once more is no error
	wantEqual(t, "counts", e.counts(url), "0 0 0")
}

func TestAttributesAreGivenOnlyWhenAskedFor(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	for range 3 {
		e.send(url, "m", func(in *sqs.SendMessageInput) {
			in.MessageAttributes = map[string]types.MessageAttributeValue{
				"a.b": {DataType: aws.String("String"), StringValue: aws.String("1")},
				"c":   {DataType: aws.String("String"), StringValue: aws.String("2")},
			}
		})
	}
	names := func(m types.Message) string {
		var all []string
		for name := range m.MessageAttributes {
			all = append(all, name)
		}
		slices.Sort(all)
		for name := range m.Attributes {
			all = append(all, name)
		}
		return strings.Join(all, " ")
	}
	none := e.receive(url, atMost(1), func(in *sqs.ReceiveMessageInput) {
		in.MessageAttributeNames, in.MessageSystemAttributeNames = nil, nil
	})
	wantEqual(t, "asked for nothing", names(none[0]), "")
	prefix := e.receive(url, atMost(1), func(in *sqs.ReceiveMessageInput) {
		in.MessageAttributeNames, in.MessageSystemAttributeNames = []string{"a.*"}, nil
		in.AttributeNames = []types.QueueAttributeName{"SentTimestamp"} //nolint:staticcheck // older clients send it
	})
	wantEqual(t, "asked for a prefix and an older name", names(prefix[0]), "a.b SentTimestamp")
	all := e.receive(url, atMost(1), func(in *sqs.ReceiveMessageInput) {
		in.MessageAttributeNames = []string{".*"}
		in.MessageSystemAttributeNames = []types.MessageSystemAttributeName{"ApproximateReceiveCount"}
	})
	wantEqual(t, "asked for all", names(all[0]), "a.b c ApproximateReceiveCount")
}

func TestVisibility(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
	e.send(url, "m")
	first := e.receive(url)[0]
	wantEqual(t, "counts in flight", e.counts(url), "0 1 0")
	e.clock.Advance(10*time.Second - time.Millisecond)
	wantEqual(t, "before the timeout", e.bodies(url), "")
	e.clock.Advance(time.Millisecond)
	wantCode(t, e.changeVisibility(url, first, 5), "AWS.SimpleQueueService.MessageNotInflight")
	second := e.receive(url)[0]
	wantEqual(t, "receive count", second.Attributes["ApproximateReceiveCount"], "2")

	wantCode(t, e.changeVisibility(url, first, 0), "InvalidParameterValue") // an old handle
	check(t, e.delete(url, first))                                          // accepted, and keeps the message
	wantEqual(t, "counts after a stale delete", e.counts(url), "0 1 0")

	check(t, e.changeVisibility(url, second, 60))
	e.clock.Advance(59 * time.Second)
	wantEqual(t, "extended", e.bodies(url), "")
	check(t, e.changeVisibility(url, second, 0))
	wantEqual(t, "given back", e.counts(url), "1 0 0")
	check(t, e.delete(url, second)) // its newest handle deletes it though it is visible
	wantEqual(t, "counts after the delete", e.counts(url), "0 0 0")
	wantCode(t, e.changeVisibility(url, second, 1), "InvalidParameterValue")

	e.send(url, "n")
	wantEqual(t, "own timeout", e.bodies(url, func(in *sqs.ReceiveMessageInput) { in.VisibilityTimeout = 3 }), "n")
	e.clock.Advance(3 * time.Second)
	wantEqual(t, "own timeout is over", e.counts(url), "1 0 0")
}

func TestVisibilityIsCappedAtTwelveHoursInAll(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	e.send(url, "m")
	m := e.receive(url)[0]
	e.clock.Advance(10 * time.Second)
	check(t, e.changeVisibility(url, m, 43190))
	wantCode(t, e.changeVisibility(url, m, 43191), "InvalidParameterValue")
	wantCode(t, e.changeVisibility(url, m, 43201), "InvalidParameterValue")
	wantCode(t, e.changeVisibility(url, m, -1), "InvalidParameterValue")
	e.clock.Advance(43190 * time.Second)
	wantEqual(t, "counts after twelve hours", e.counts(url), "1 0 0")
}

func TestDelayAndRetention(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", map[string]string{"DelaySeconds": "5", "MessageRetentionPeriod": "60"})
	e.send(url, "queue's")
	e.send(url, "own", func(in *sqs.SendMessageInput) { in.DelaySeconds = 20 })
	wantEqual(t, "counts", e.counts(url), "0 0 2")
	e.clock.Advance(5 * time.Second)
	wantEqual(t, "after 5 s", e.bodies(url), "queue's")
	e.clock.Advance(15 * time.Second)
	wantEqual(t, "after 20 s", e.bodies(url), "own")
	wantEqual(t, "counts in flight", e.counts(url), "0 2 0")
	e.clock.Advance(40 * time.Second)
	wantEqual(t, "counts past the retention", e.counts(url), "0 0 0")
}

func TestRedrive(t *testing.T) {
	e := newEndpoint(t)
	dead := e.queue("dead", nil)
	arn := e.attributes(dead, "QueueArn")["QueueArn"]
	wantEqual(t, "ARN", arn, "arn:aws:sqs:us-east-1:000000000000:dead")
	url := e.queue("q", map[string]string{"VisibilityTimeout": "1", "RedrivePolicy": `{"deadLetterTargetArn":"` + arn + `","maxReceiveCount":"2"}`})
	sent := e.send(url, "bad")
	for range 2 {
		wantEqual(t, "received", e.bodies(url), "bad")
		e.clock.Advance(time.Second)
	}
	e.send(url, "good")
	wantEqual(t, "received instead", e.bodies(url), "good")
	got := e.receive(dead)
	if len(got) != 1 {
		t.Fatalf("%d dead letters", len(got))
	}
	wantEqual(t, "id", *got[0].MessageId, *sent.MessageId)
	wantEqual(t, "source", got[0].Attributes["DeadLetterQueueSourceArn"], "arn:aws:sqs:us-east-1:000000000000:q")
	wantEqual(t, "sent", got[0].Attributes["SentTimestamp"], "1772366400000")
	wantEqual(t, "left in the source", e.counts(url), "0 1 0")

	_, err := e.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"RedrivePolicy": ""}})
	check(t, err)
	if _, ok := e.attributes(url, "All")["RedrivePolicy"]; ok {
		t.Error("an emptied RedrivePolicy is still there")
	}
}

func TestFIFOOrderAndGroups(t *testing.T) {
	e := newEndpoint(t)
	url := e.fifo("q.fifo", map[string]string{"ContentBasedDeduplication": "true", "VisibilityTimeout": "10"})
	for _, body := range []string{"a1", "b1", "a2", "b2", "a3"} {
		e.send(url, body, inGroup(body[:1], ""))
	}
	first := e.receive(url, atMost(2)) // as many of one group as there are
	wantEqual(t, "first", *first[0].Body+" "+*first[1].Body, "a1 a2")
	second := e.receive(url, atMost(1))
	wantEqual(t, "a is blocked", *second[0].Body, "b1")
	wantEqual(t, "both are blocked", e.bodies(url), "")

	check(t, e.delete(url, first[0]))
	wantEqual(t, "a2 still blocks a", e.bodies(url), "")
	check(t, e.changeVisibility(url, first[1], 0))
	wantEqual(t, "a2 comes again, before a3", e.bodies(url), "a2 a3")
	check(t, e.delete(url, second[0]))
	e.clock.Advance(10 * time.Second)
	wantEqual(t, "after the timeout", e.bodies(url), "a2 a3 b2")
	wantCode(t, e.delete(url, first[1]), "InvalidParameterValue") // expired
}

func TestFIFODeduplication(t *testing.T) {
	e := newEndpoint(t)
	byContent := e.fifo("content.fifo", map[string]string{"ContentBasedDeduplication": "true"})
	first := e.send(byContent, "x", inGroup("g", ""))
	again := e.send(byContent, "x", inGroup("other", ""))
	wantEqual(t, "id of a duplicate", *again.MessageId, *first.MessageId)
	wantEqual(t, "sequence number of a duplicate", *again.SequenceNumber, *first.SequenceNumber)
	other := e.send(byContent, "x", inGroup("g", "explicit"))
	if *other.SequenceNumber <= *first.SequenceNumber {
		t.Errorf("sequence numbers %s, then %s", *first.SequenceNumber, *other.SequenceNumber)
	}
	for _, m := range e.receive(byContent) {
		check(t, e.delete(byContent, m))
	}
	e.clock.Advance(5*time.Minute - time.Second)
	e.send(byContent, "x", inGroup("g", ""))
	wantEqual(t, "within five minutes, though deleted", e.counts(byContent), "0 0 0")
	e.clock.Advance(time.Second)
	e.send(byContent, "x", inGroup("g", ""))
	wantEqual(t, "after five minutes", e.counts(byContent), "1 0 0")

	perGroup := e.fifo("group.fifo", map[string]string{"DeduplicationScope": "messageGroup"})
	for _, group := range []string{"g", "h", "g"} {
		e.send(perGroup, "x", inGroup(group, "id"))
	}
	wantEqual(t, "scope of a group", e.counts(perGroup), "2 0 0")
	got := e.receive(perGroup, atMost(1))[0].Attributes
	wantEqual(t, "MessageGroupId", got["MessageGroupId"], "g")
	wantEqual(t, "MessageDeduplicationId", got["MessageDeduplicationId"], "id")
	wantEqual(t, "SequenceNumber", len(got["SequenceNumber"]), 20)
}

func TestQueues(t *testing.T) {
	e := newEndpoint(t)
	ctx := t.Context()
	attributes := map[string]string{"VisibilityTimeout": "40"}
	made, err := e.Client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("b"), Attributes: attributes})
	check(t, err)
	wantEqual(t, "URL", *made.QueueUrl, e.URL()+"/000000000000/b")
	wantEqual(t, "QueueURL", *made.QueueUrl, e.QueueURL("b"))
	wantEqual(t, "created again", e.queue("b", nil), *made.QueueUrl)
	_, err = e.Client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("b"), Attributes: map[string]string{"VisibilityTimeout": "41"}})
	wantCode(t, err, "QueueAlreadyExists")
	var exists *types.QueueNameExists
	if !errors.As(err, &exists) {
		t.Errorf("error %T, want QueueNameExists", err)
	}

	found, err := e.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("b")})
	check(t, err)
	wantEqual(t, "found", *found.QueueUrl, *made.QueueUrl)
	e.send("http://another.example:1/000000000000/b", "m") // the path counts
	wantEqual(t, "sent by another host", e.counts(*made.QueueUrl), "1 0 0")

	for _, name := range []string{"c1", "c2", "c3"} {
		e.queue(name, nil)
	}
	var names []string
	pages := sqs.NewListQueuesPaginator(e, &sqs.ListQueuesInput{QueueNamePrefix: aws.String("c"), MaxResults: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		check(t, err)
		for _, url := range page.QueueUrls {
			names = append(names, url[strings.LastIndex(url, "/")+1:])
		}
		names = append(names, "|")
	}
	wantEqual(t, "pages", strings.Join(names, " "), "c1 c2 | c3 |")

	e.clock.Advance(time.Minute)
	_, err = e.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{QueueUrl: made.QueueUrl, Attributes: map[string]string{"DelaySeconds": "7"}})
	check(t, err)
	all := e.attributes(*made.QueueUrl, "All")
	for name, want := range map[string]string{
		"VisibilityTimeout": "40", "DelaySeconds": "7", "MaximumMessageSize": "1048576", "MessageRetentionPeriod": "345600",
		"ReceiveMessageWaitTimeSeconds": "0", "CreatedTimestamp": "1772366400", "LastModifiedTimestamp": "1772366460",
	} {
		wantEqual(t, name, all[name], want)
	}

	_, err = e.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: made.QueueUrl})
	check(t, err)
	wantEqual(t, "purged", e.counts(*made.QueueUrl), "0 0 0")
	_, err = e.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: made.QueueUrl})
	wantCode(t, err, "AWS.SimpleQueueService.PurgeQueueInProgress")

	_, err = e.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl})
	check(t, err)
	_, err = e.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("b")})
	wantCode(t, err, "AWS.SimpleQueueService.NonExistentQueue")
	var missing *types.QueueDoesNotExist
	if !errors.As(err, &missing) {
		t.Errorf("error %T, want QueueDoesNotExist", err)
	}
}
