package sqsd_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
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
	clock watchedClock
	t     *testing.T
}

// watchedClock stands still and says when a long poll begins to wait and when
// it ends to.
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

func newClock() watchedClock {
	return clockAt(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
}

func clockAt(now time.Time) watchedClock {
	return watchedClock{sqsd.NewManualClock(now), make(chan time.Time, 100), make(chan struct{}, 100)}
}

func newEndpoint(t *testing.T) endpoint {
	t.Helper()
	return start(t, sqsd.Config{}, newClock())
}

func startIn(t *testing.T, dir string, clock watchedClock) endpoint {
	t.Helper()
	return start(t, sqsd.Config{Dir: dir}, clock)
}

func start(t *testing.T, cfg sqsd.Config, clock watchedClock) endpoint {
	t.Helper()
	cfg.Clock = clock
	s, err := sqsd.Start(cfg)
	check(t, err)
	e := endpoint{Server: s, Client: newClient(t, s.URL()), clock: clock, t: t}
	t.Cleanup(e.stop)
	return e
}

func (e endpoint) stop() {
	if err := e.Stop(context.Background()); err != nil {
		e.t.Error(err)
	}
}

// newClient tries each call once, unless told otherwise, so that a test sees
// every failure.
func newClient(t testing.TB, url string, options ...func(*sqs.Options)) *sqs.Client {
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
	}, options...)
}

func (e endpoint) queue(name string, attributes map[string]string) string {
	e.t.Helper()
	url, err := e.Server.CreateQueue(name, attributes)
	check(e.t, err)
	return url
}

func (e endpoint) fifo(name string, more map[string]string) string {
	e.t.Helper()
	attributes := map[string]string{"FifoQueue": "true"}
	maps.Copy(attributes, more)
	return e.queue(name, attributes)
}

// create makes a queue by the SDK, where queue does by Server.CreateQueue.
func (e endpoint) create(name string, attributes map[string]string) (string, error) {
	out, err := e.Client.CreateQueue(e.t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
	if err != nil {
		return "", err
	}
	return *out.QueueUrl, nil
}

func (e endpoint) setAttributes(url string, attributes map[string]string) error {
	_, err := e.SetQueueAttributes(e.t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: attributes})
	return err
}

func (e endpoint) deleteQueue(url string) error {
	_, err := e.DeleteQueue(e.t.Context(), &sqs.DeleteQueueInput{QueueUrl: &url})
	return err
}

func (e endpoint) purge(url string) error {
	_, err := e.PurgeQueue(e.t.Context(), &sqs.PurgeQueueInput{QueueUrl: &url})
	return err
}

func (e endpoint) send(url, body string, options ...func(*sqs.SendMessageInput)) *sqs.SendMessageOutput {
	e.t.Helper()
	out, err := e.trySend(url, body, options...)
	check(e.t, err)
	return out
}

func (e endpoint) trySend(url, body string, options ...func(*sqs.SendMessageInput)) (*sqs.SendMessageOutput, error) {
	in := &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}
	for _, o := range options {
		o(in)
	}
	return e.SendMessage(e.t.Context(), in)
}

func delayed(seconds int32) func(*sqs.SendMessageInput) {
	return func(in *sqs.SendMessageInput) { in.DelaySeconds = seconds }
}

// with adds a message attribute.
func with(name, dataType, value string) func(*sqs.SendMessageInput) {
	return func(in *sqs.SendMessageInput) {
		if in.MessageAttributes == nil {
			in.MessageAttributes = map[string]types.MessageAttributeValue{}
		}
		a := types.MessageAttributeValue{DataType: &dataType}
		if strings.HasPrefix(dataType, "Binary") {
			a.BinaryValue = []byte(value)
		} else {
			a.StringValue = &value
		}
		in.MessageAttributes[name] = a
	}
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
	messages, err := e.tryReceive(url, options...)
	check(e.t, err)
	return messages
}

// one receives a message that must be there.
func (e endpoint) one(url string, options ...func(*sqs.ReceiveMessageInput)) types.Message {
	e.t.Helper()
	messages := e.receive(url, append(options, atMost(1))...)
	if len(messages) != 1 {
		e.t.Fatal("nothing was received")
	}
	return messages[0]
}

// tryReceive asks for ten messages with all they have, at once.
func (e endpoint) tryReceive(url string, options ...func(*sqs.ReceiveMessageInput)) ([]types.Message, error) {
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
		return nil, err
	}
	return out.Messages, nil
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

func visibleAfter(seconds int32) func(*sqs.ReceiveMessageInput) {
	return func(in *sqs.ReceiveMessageInput) { in.VisibilityTimeout = seconds }
}

type polled struct {
	messages []types.Message
	err      error
}

// poll starts a poll of 20 s and returns when it waits.
func (e endpoint) poll(ctx context.Context, url string) <-chan polled {
	done := make(chan polled, 1)
	go func() {
		out, err := e.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20, MaxNumberOfMessages: 10})
		if err != nil {
			done <- polled{err: err}
			return
		}
		done <- polled{messages: out.Messages}
	}()
	<-e.clock.waits
	return done
}

// wantBody is for the answer of a poll; no body is for an empty answer.
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
	check(e.t, err)
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
