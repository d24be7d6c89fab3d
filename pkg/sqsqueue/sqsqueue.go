// Package sqsqueue receives messages from SQS queues, and is the only package
// that imports the AWS SDK.
package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Bounds of the protocol (Amazon SQS developer guide, quotas).
const (
	maxBatch = 10               // messages a call
	maxPoll  = 20 * time.Second // a long poll
)

// callTimeout bounds a call; a poll has its own wait on top.
const callTimeout = 10 * time.Second

// Message is one received message. Exactly one of Delete and Release ends it;
// without either it comes again after the visibility timeout.
type Message struct {
	Body   []byte
	SentAt time.Time // zero where the queue does not say
	Trace  string    // W3C traceparent of the producer; empty without one
	// Group is the message group of a FIFO queue: its messages are taken one
	// after the other. Empty on a standard queue.
	Group string
	// Receives is how often it was handed out, this time included.
	Receives int

	id, handle         string
	received, deadline time.Time
}

// maxHidden is how long SQS keeps a message invisible in all, from its receive.
const maxHidden = 12 * time.Hour

// Deadline is when the message becomes visible to others, unless it is extended.
func (m *Message) Deadline() time.Time { return m.deadline }

// Queue is one SQS queue.
type Queue struct {
	client     *sqs.Client
	calls      *telemetry.Calls
	url, name  string
	visibility time.Duration
}

// Config says which queue, and how to reach it where the SDK's own
// configuration (environment, shared files, instance roles;
// AWS_ENDPOINT_URL_SQS among it) is not to decide.
type Config struct {
	QueueURL string
	// Endpoint is that of a development stack: it is called with the
	// credentials of nobody, whatever the environment says. Empty: the SDK's.
	Endpoint string
	Region   string           // empty: the SDK's, else the one in the queue's host
	Calls    *telemetry.Calls // nil: not counted
}

// Open looks the queue up. Its error is that of the first call, or says what
// is wrong with the address.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	u, err := parse(cfg.QueueURL)
	if err != nil {
		return nil, err
	}
	var options []func(*config.LoadOptions) error
	if cfg.Region != "" {
		options = append(options, config.WithRegion(cfg.Region))
	}
	if cfg.Endpoint != "" {
		options = append(options, config.WithBaseEndpoint(cfg.Endpoint),
			config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("development", "development", "")))
	}
	sdk, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	if sdk.Region == "" {
		sdk.Region = regionOf(u.Host)
	}
	client := sqs.NewFromConfig(sdk, func(o *sqs.Options) {
		o.HTTPClient = plainBodies{o.HTTPClient}
		if cfg.Endpoint != "" {
			o.BaseEndpoint = &cfg.Endpoint // wins over AWS_ENDPOINT_URL_SQS
		}
	})
	q := &Queue{client: client, calls: cfg.Calls, url: cfg.QueueURL, name: nameIn(u)}
	return q, q.refresh(ctx)
}

func parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") == "" {
		// What stands before an @ may be a login; credentials are the SDK's.
		if at := strings.LastIndex(address, "@"); at >= 0 {
			address = "…" + address[at:]
		}
		return nil, fmt.Errorf("%w: %q; one looks like https://sqs.<region>.amazonaws.com/<account>/<name>", ErrAddress, address)
	}
	return u, nil
}

func nameIn(u *url.URL) string { return u.Path[strings.LastIndex(u.Path, "/")+1:] }

// NameOf is the name in a queue's URL, the last part; its error is ErrAddress.
func NameOf(address string) (string, error) {
	u, err := parse(address)
	if err != nil {
		return "", err
	}
	return nameIn(u), nil
}

// ErrAddress is what Open's error wraps where no retry helps.
var ErrAddress = errors.New("not a queue's URL")

// regionOf is the region in a queue's host sqs.<region>.amazonaws.com; for any
// other host one that the signature needs and nobody checks.
func regionOf(host string) string {
	if p := strings.Split(host, "."); len(p) > 2 && p[0] == "sqs" {
		return p[1]
	}
	return "us-east-1"
}

func (q *Queue) refresh(ctx context.Context) error {
	values, err := q.attributes(ctx, types.QueueAttributeNameVisibilityTimeout)
	if err != nil {
		return err
	}
	q.visibility = time.Duration(values[0]) * time.Second
	return nil
}

// attributes are numbers that the queue says of itself.
func (q *Queue) attributes(ctx context.Context, names ...types.QueueAttributeName) ([]int, error) {
	end := q.calls.Begin(telemetry.SQS, q.name, "attributes")
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &q.url, AttributeNames: names})
	end(result(err))
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w%s", q.name, err, advice(err))
	}
	values := make([]int, len(names))
	for i, name := range names {
		if values[i], err = strconv.Atoi(out.Attributes[string(name)]); err != nil {
			return nil, fmt.Errorf("queue %s: %s %q", q.name, name, out.Attributes[string(name)])
		}
	}
	return values, nil
}

// Depth is how many messages a queue has, as far as SQS knows: its counts trail
// by up to a minute.
type Depth struct{ Visible, InFlight, Delayed int }

// Depth asks the queue, which is a request that is paid for like any other.
func (q *Queue) Depth(ctx context.Context) (Depth, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := q.attributes(ctx, types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible, types.QueueAttributeNameApproximateNumberOfMessagesDelayed)
	if err != nil {
		return Depth{}, err
	}
	return Depth{v[0], v[1], v[2]}, nil
}

// result is what a call's error is counted as.
func result(err error) telemetry.Result {
	if err == nil {
		return telemetry.OK
	}
	var code interface{ ErrorCode() string }
	if errors.As(err, &code) && (strings.Contains(code.ErrorCode(), "Throttl") || code.ErrorCode() == "OverLimit") {
		return telemetry.Limited
	}
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) && answer.HTTPStatusCode() >= 400 {
		return telemetry.Status(answer.HTTPStatusCode())
	}
	return telemetry.Failed // a lost answer, too
}

// Name is the last part of the queue's URL.
func (q *Queue) Name() string { return q.name }

// Visibility is the queue's own timeout, read when it was opened.
func (q *Queue) Visibility() time.Duration { return q.visibility }

// Receive waits up to 20 s for at most most messages (10 at most). The poll is
// not to be cancelled at a stop: messages handed out in that instant would
// stay invisible until their timeout.
func (q *Queue) Receive(ctx context.Context, most int) ([]*Message, error) {
	ctx, cancel := context.WithTimeout(ctx, maxPoll+callTimeout)
	defer cancel()
	asked := time.Now()
	end := q.calls.Begin(telemetry.SQS, q.name, "receive")
	out, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &q.url, MaxNumberOfMessages: int32(min(most, maxBatch)), WaitTimeSeconds: int32(maxPoll / time.Second), //nolint:gosec // small constants
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameSentTimestamp, types.MessageSystemAttributeNameApproximateReceiveCount,
			types.MessageSystemAttributeNameMessageGroupId,
		},
		MessageAttributeNames: []string{"traceparent"},
	}, func(o *sqs.Options) { o.RetryMaxAttempts = 1 }) // who polls decides when to poll again
	end(result(err))
	if err != nil {
		return nil, fmt.Errorf("receive from %s: %w", q.name, err)
	}
	messages := make([]*Message, 0, len(out.Messages))
	for _, m := range out.Messages {
		messages = append(messages, q.message(m, asked))
	}
	return messages, nil
}

func (q *Queue) message(m types.Message, asked time.Time) *Message {
	out := &Message{
		Body: []byte(aws.ToString(m.Body)), id: aws.ToString(m.MessageId), handle: aws.ToString(m.ReceiptHandle),
		received: asked, deadline: asked.Add(q.visibility),
	}
	if ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64); err == nil {
		out.SentAt = time.UnixMilli(ms)
	}
	out.Group = m.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]
	out.Receives, _ = strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	if trace, ok := m.MessageAttributes["traceparent"]; ok {
		out.Trace = aws.ToString(trace.StringValue)
	}
	return out
}

// advice says what to do about an error that stays until somebody does it.
func advice(err error) string {
	var answer interface{ ErrorCode() string }
	if !errors.As(err, &answer) {
		return ""
	}
	switch code := answer.ErrorCode(); {
	case strings.Contains(code, "NonExistentQueue"), strings.Contains(code, "QueueDoesNotExist"):
		return "; is the queue's URL right?"
	case strings.Contains(code, "AccessDenied"):
		return "; the credentials need sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility and sqs:GetQueueAttributes of it"
	case strings.Contains(code, "InvalidClientTokenId"), strings.Contains(code, "UnrecognizedClient"), strings.Contains(code, "SignatureDoesNotMatch"):
		return "; are the credentials right?"
	}
	return ""
}

// Delete removes messages for good, up to 10 a call. It returns those that were
// not, and why; they come again, and are known then.
func (q *Queue) Delete(ctx context.Context, messages []*Message) (rest []*Message, err error) {
	var wrong []error
	for batch := range slices.Chunk(messages, maxBatch) {
		entries := make([]types.DeleteMessageBatchRequestEntry, len(batch))
		for i, m := range batch {
			entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &m.handle}
		}
		end := q.calls.Begin(telemetry.SQS, q.name, "delete")
		out, err := q.client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &q.url, Entries: entries})
		end(result(err))
		if err != nil {
			wrong, rest = append(wrong, fmt.Errorf("delete from %s: %w", q.name, err)), append(rest, batch...)
			continue
		}
		wrong = append(wrong, failed("delete from "+q.name, out.Failed)...)
		for _, f := range out.Failed {
			if i, err := strconv.Atoi(aws.ToString(f.Id)); err == nil && i >= 0 && i < len(batch) {
				rest = append(rest, batch[i])
			}
		}
	}
	return rest, errors.Join(wrong...)
}

// Release makes messages visible to others now.
func (q *Queue) Release(ctx context.Context, messages []*Message) error {
	_, err := q.changeVisibility(ctx, messages, func(*Message) time.Duration { return 0 })
	return err
}

// Extend keeps messages invisible for the queue's own timeout from now on; past
// 12 hours since its receive, SQS keeps none. Where a call fails, the deadlines
// stay.
func (q *Queue) Extend(ctx context.Context, messages []*Message) error {
	now := time.Now()
	wanted := func(m *Message) time.Duration {
		return max(0, min(q.visibility, m.received.Add(maxHidden).Sub(now))).Truncate(time.Second)
	}
	done, err := q.changeVisibility(ctx, messages, wanted)
	for _, m := range done {
		m.deadline = now.Add(wanted(m))
	}
	return err
}

func (q *Queue) changeVisibility(ctx context.Context, messages []*Message, wanted func(*Message) time.Duration) (done []*Message, err error) {
	var wrong []error
	for batch := range slices.Chunk(messages, maxBatch) {
		entries := make([]types.ChangeMessageVisibilityBatchRequestEntry, len(batch))
		for i, m := range batch {
			entries[i] = types.ChangeMessageVisibilityBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &m.handle, VisibilityTimeout: int32(wanted(m) / time.Second), //nolint:gosec // ≤ 43,200
			}
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		end := q.calls.Begin(telemetry.SQS, q.name, "visibility")
		out, err := q.client.ChangeMessageVisibilityBatch(call, &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &q.url, Entries: entries})
		end(result(err))
		cancel()
		if err != nil {
			wrong = append(wrong, fmt.Errorf("visibility in %s: %w", q.name, err))
			continue
		}
		wrong = append(wrong, failed("visibility in "+q.name, out.Failed)...)
		for i, m := range batch {
			if !slices.ContainsFunc(out.Failed, func(f types.BatchResultErrorEntry) bool { return aws.ToString(f.Id) == strconv.Itoa(i) }) {
				done = append(done, m)
			}
		}
	}
	return done, errors.Join(wrong...)
}

// failed names the entries that a batch call left out.
func failed(what string, entries []types.BatchResultErrorEntry) []error {
	var out []error
	for _, f := range entries {
		out = append(out, fmt.Errorf("%s: entry %s: %s", what, aws.ToString(f.Id), aws.ToString(f.Code)))
	}
	return out
}

// Send puts one message on the queue and returns its id.
func (q *Queue) Send(ctx context.Context, body []byte) (string, error) {
	in := &sqs.SendMessageInput{QueueUrl: &q.url, MessageBody: aws.String(string(body))}
	out, err := q.client.SendMessage(ctx, in)
	if err != nil {
		return "", fmt.Errorf("send to %s: %w", q.name, err)
	}
	return aws.ToString(out.MessageId), nil
}
