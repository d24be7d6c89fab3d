package sqsd

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"time"
)

// call is what an action knows of its HTTP request.
type call struct {
	account   *account
	base      string // of the queue URLs in the answer, such as http://127.0.0.1:9324
	duplicate bool   // see Fault
	refuse    func() bool
}

func (c call) queueURL(name string) string { return c.base + "/" + accountID + "/" + name }

// The requests and answers have the members of the SQS API reference; members
// that mean nothing here (tags, ReceiveRequestAttemptId) are not read.

type queueRequest struct {
	QueueURL string `json:"QueueUrl"`
}

type empty struct{}

type queueURLAnswer struct {
	QueueURL string `json:"QueueUrl"`
}

type createQueueRequest struct {
	QueueName  string
	Attributes map[string]string
}

func createQueue(_ context.Context, c call, in createQueueRequest) (queueURLAnswer, error) {
	if in.QueueName == "" {
		return queueURLAnswer{}, errMissingParameter("QueueName")
	}
	return queueURLAnswer{c.queueURL(in.QueueName)}, c.account.createQueue(in.QueueName, in.Attributes)
}

type getQueueURLRequest struct {
	QueueName              string
	QueueOwnerAWSAccountID string `json:"QueueOwnerAWSAccountId"`
}

func getQueueURL(_ context.Context, c call, in getQueueURLRequest) (queueURLAnswer, error) {
	if in.QueueName == "" {
		return queueURLAnswer{}, errMissingParameter("QueueName")
	}
	c.account.mu.Lock()
	defer c.account.mu.Unlock()
	another := in.QueueOwnerAWSAccountID != "" && in.QueueOwnerAWSAccountID != accountID
	if another || c.account.queues[in.QueueName] == nil {
		return queueURLAnswer{}, errQueueDoesNotExist()
	}
	return queueURLAnswer{c.queueURL(in.QueueName)}, nil
}

type listQueuesRequest struct {
	QueueNamePrefix string
	MaxResults      *int
	NextToken       string
}

type listQueuesAnswer struct {
	QueueURLs []string `json:"QueueUrls,omitempty"`
	NextToken string   `json:",omitempty"`
}

// listQueues pages only when MaxResults asks for it, and has 1,000 at most.
func listQueues(_ context.Context, c call, in listQueuesRequest) (listQueuesAnswer, error) {
	const most = 1000
	limit := most
	if in.MaxResults != nil {
		if limit = *in.MaxResults; limit < 1 || limit > most {
			return listQueuesAnswer{}, errOutOfRange("MaxResults", limit, 1, most)
		}
	}
	after, err := base64.StdEncoding.DecodeString(in.NextToken)
	if err != nil {
		return listQueuesAnswer{}, errInvalidParameter("Value %s for parameter NextToken is invalid. Reason: It is not of a former answer.", in.NextToken)
	}
	var out listQueuesAnswer
	names := c.account.list(in.QueueNamePrefix, string(after))
	if len(names) > limit {
		names = names[:limit]
		if in.MaxResults != nil {
			out.NextToken = base64.StdEncoding.EncodeToString([]byte(names[limit-1]))
		}
	}
	for _, name := range names {
		out.QueueURLs = append(out.QueueURLs, c.queueURL(name))
	}
	return out, nil
}

type attributeNamesRequest struct {
	queueRequest
	AttributeNames []string
}

type attributesAnswer struct {
	Attributes map[string]string `json:",omitempty"`
}

func getQueueAttributes(_ context.Context, c call, in attributeNamesRequest) (out attributesAnswer, err error) {
	err = c.account.update(in.QueueURL, func(q *queue, now time.Time) (err error) {
		out.Attributes, err = q.describe(now, c.account.arn(q.Name), in.AttributeNames)
		return err
	})
	return out, err
}

type setQueueAttributesRequest struct {
	queueRequest
	Attributes map[string]string
}

func setQueueAttributes(_ context.Context, c call, in setQueueAttributesRequest) (empty, error) {
	if len(in.Attributes) == 0 {
		return empty{}, errMissingParameter("Attributes")
	}
	return empty{}, c.account.setAttributes(in.QueueURL, in.Attributes)
}

func deleteQueue(_ context.Context, c call, in queueRequest) (empty, error) {
	return empty{}, c.account.deleteQueue(in.QueueURL)
}

func purgeQueue(_ context.Context, c call, in queueRequest) (empty, error) {
	return empty{}, c.account.update(in.QueueURL, func(q *queue, now time.Time) error { return q.purge(now) })
}

type sendMessageRequest struct {
	queueRequest
	messageInput
}

type sendMessageAnswer struct {
	MessageID                    string `json:"MessageId"`
	MD5OfMessageBody             string
	MD5OfMessageAttributes       string `json:",omitempty"`
	MD5OfMessageSystemAttributes string `json:",omitempty"`
	SequenceNumber               string `json:",omitempty"`
}

func sendMessage(_ context.Context, c call, in sendMessageRequest) (out sendMessageAnswer, err error) {
	err = c.account.update(in.QueueURL, func(q *queue, now time.Time) (err error) {
		out, err = in.send(q, now)
		return err
	})
	return out, err
}

func (in messageInput) send(q *queue, now time.Time) (sendMessageAnswer, error) {
	s, err := in.check(q.attributes)
	if err != nil {
		return sendMessageAnswer{}, err
	}
	id, seq := q.send(now, s)
	out := sendMessageAnswer{
		MessageID:                    id,
		MD5OfMessageBody:             bodyMD5(s.Body),
		MD5OfMessageAttributes:       attributesMD5(s.Attributes),
		MD5OfMessageSystemAttributes: attributesMD5(in.MessageSystemAttributes),
	}
	if q.attributes.fifo {
		out.SequenceNumber = sequenceNumber(seq)
	}
	return out, nil
}

// batch is a request with entries; Successful and Failed of the answer have
// the ids of theirs.
type batch[E any] struct {
	queueRequest
	Entries []E
}

type batchAnswer[R any] struct {
	Successful []R
	Failed     []batchFailure
}

type batchFailure struct {
	ID          string `json:"Id"`
	Code        string
	Message     string
	SenderFault bool
}

type entryID struct {
	ID string `json:"Id"`
}

func (e entryID) id() string { return e.ID }

// each does the entries one by one; an entry's error is its own alone. kind is
// the entry's name in the API.
func each[E interface{ id() string }, R any](c call, in batch[E], kind string, check func(*queue, []E) error, do func(*queue, time.Time, E) (R, error)) (out batchAnswer[R], err error) {
	ids := make([]string, len(in.Entries))
	for i, e := range in.Entries {
		ids[i] = e.id()
	}
	out = batchAnswer[R]{Successful: []R{}, Failed: []batchFailure{}}
	err = c.account.update(in.QueueURL, func(q *queue, now time.Time) error {
		if err := checkBatch(kind, ids); err != nil {
			return err
		}
		if err := check(q, in.Entries); err != nil {
			return err
		}
		for _, e := range in.Entries {
			if c.refuse() {
				f := errInternal(errors.New("an injected fault"))
				out.Failed = append(out.Failed, batchFailure{ID: e.id(), Code: f.Code, Message: f.Message, SenderFault: f.senderFault()})
				continue
			}
			done, err := do(q, now, e)
			var refused *Error
			switch {
			case errors.As(err, &refused):
				out.Failed = append(out.Failed, batchFailure{ID: e.id(), Code: refused.Code, Message: refused.Message, SenderFault: refused.senderFault()})
			case err != nil:
				return err
			default:
				out.Successful = append(out.Successful, done)
			}
		}
		return nil
	})
	return out, err
}

func noCheck[E any](*queue, []E) error { return nil }

type sendEntry struct {
	entryID
	messageInput
}

type sendEntryAnswer struct {
	entryID
	sendMessageAnswer
}

// sendMessageBatch fails as a whole when all entries together are too long, or
// when one for a FIFO queue lacks its group or deduplication id; each other
// error is of its entry alone.
func sendMessageBatch(_ context.Context, c call, in batch[sendEntry]) (batchAnswer[sendEntryAnswer], error) {
	whole := func(q *queue, entries []sendEntry) error {
		size := 0
		for _, e := range entries {
			size += e.size()
			if lack := e.lack(q.attributes); lack != nil {
				return errInvalidParameter("%s", lack.Message)
			}
		}
		if size > maxMessageSize {
			return errBatchRequestTooLong(size)
		}
		return nil
	}
	return each(c, in, "SendMessageBatchRequestEntry", whole, func(q *queue, now time.Time, e sendEntry) (sendEntryAnswer, error) {
		sent, err := e.send(q, now)
		return sendEntryAnswer{e.entryID, sent}, err
	})
}

type receiptRequest struct {
	ReceiptHandle string
}

type deleteMessageRequest struct {
	queueRequest
	receiptRequest
}

func (r receiptRequest) delete(q *queue, now time.Time) error {
	if r.ReceiptHandle == "" {
		return errMissingParameter("ReceiptHandle")
	}
	return q.delete(now, r.ReceiptHandle)
}

func deleteMessage(_ context.Context, c call, in deleteMessageRequest) (empty, error) {
	return empty{}, c.account.update(in.QueueURL, in.delete)
}

type deleteEntry struct {
	entryID
	receiptRequest
}

func deleteMessageBatch(_ context.Context, c call, in batch[deleteEntry]) (batchAnswer[entryID], error) {
	return each(c, in, "DeleteMessageBatchRequestEntry", noCheck, func(q *queue, now time.Time, e deleteEntry) (entryID, error) {
		return e.entryID, e.delete(q, now)
	})
}

type visibilityRequest struct {
	receiptRequest
	VisibilityTimeout *int
}

func (r visibilityRequest) change(q *queue, now time.Time) error {
	switch {
	case r.ReceiptHandle == "":
		return errMissingParameter("ReceiptHandle")
	case r.VisibilityTimeout == nil:
		return errMissingParameter("VisibilityTimeout")
	}
	return q.changeVisibility(now, r.ReceiptHandle, *r.VisibilityTimeout)
}

type changeVisibilityRequest struct {
	queueRequest
	visibilityRequest
}

func changeMessageVisibility(_ context.Context, c call, in changeVisibilityRequest) (empty, error) {
	return empty{}, c.account.update(in.QueueURL, in.change)
}

type visibilityEntry struct {
	entryID
	visibilityRequest
}

func changeMessageVisibilityBatch(_ context.Context, c call, in batch[visibilityEntry]) (batchAnswer[entryID], error) {
	return each(c, in, "ChangeMessageVisibilityBatchRequestEntry", noCheck, func(q *queue, now time.Time, e visibilityEntry) (entryID, error) {
		return e.entryID, e.change(q, now)
	})
}

type receiveMessageRequest struct {
	queueRequest
	MaxNumberOfMessages         *int
	WaitTimeSeconds             *int
	VisibilityTimeout           *int
	MessageAttributeNames       []string
	MessageSystemAttributeNames []string
	AttributeNames              []string // what MessageSystemAttributeNames was called before
}

type receiveMessageAnswer struct {
	Messages []receivedMessage `json:",omitempty"`
}

type receivedMessage struct {
	MessageID              string `json:"MessageId"`
	ReceiptHandle          string
	MD5OfBody              string
	Body                   string
	Attributes             map[string]string           `json:",omitempty"`
	MD5OfMessageAttributes string                      `json:",omitempty"`
	MessageAttributes      map[string]messageAttribute `json:",omitempty"`
}

func receiveMessage(ctx context.Context, c call, in receiveMessageRequest) (receiveMessageAnswer, error) {
	for _, p := range []struct {
		name      string
		value     *int
		low, high int
	}{
		{"MaxNumberOfMessages", in.MaxNumberOfMessages, 1, maxBatch},
		{"WaitTimeSeconds", in.WaitTimeSeconds, 0, maxWait},
		{"VisibilityTimeout", in.VisibilityTimeout, 0, int(maxVisibility / time.Second)},
	} {
		if p.value != nil && (*p.value < p.low || *p.value > p.high) {
			return receiveMessageAnswer{}, errOutOfRange(p.name, *p.value, p.low, p.high)
		}
	}
	limit := 1
	if in.MaxNumberOfMessages != nil {
		limit = *in.MaxNumberOfMessages
	}
	deliveries, err := c.account.receive(ctx, in.QueueURL, receiving{
		limit: limit, wait: in.WaitTimeSeconds, visibility: in.VisibilityTimeout, duplicate: c.duplicate,
	})
	if err != nil {
		return receiveMessageAnswer{}, err
	}
	var out receiveMessageAnswer
	for _, d := range deliveries {
		attributes := selectAttributes(d.Attributes, in.MessageAttributeNames)
		out.Messages = append(out.Messages, receivedMessage{
			MessageID:              d.ID,
			ReceiptHandle:          d.handle,
			MD5OfBody:              bodyMD5(d.Body),
			Body:                   d.Body,
			Attributes:             d.system(append(in.MessageSystemAttributeNames, in.AttributeNames...)),
			MD5OfMessageAttributes: attributesMD5(attributes),
			MessageAttributes:      attributes,
		})
	}
	return out, nil
}

// system gives the system attributes that were asked for. Names that a message
// has no value for are left out. Timestamps are in milliseconds.
func (d delivery) system(asked []string) map[string]string {
	all := map[string]string{
		"SenderId":                         d.SenderID,
		"SentTimestamp":                    strconv.FormatInt(d.SentAt.UnixMilli(), 10),
		"ApproximateReceiveCount":          strconv.Itoa(d.ReceiveCount),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(d.FirstReceivedAt.UnixMilli(), 10),
	}
	optional := map[string]string{"MessageGroupId": d.Group, "DeadLetterQueueSourceArn": d.SourceARN}
	if d.fifo {
		optional["MessageDeduplicationId"] = d.DedupID
		optional["SequenceNumber"] = sequenceNumber(d.Seq)
	}
	if d.TraceHeader != nil {
		optional["AWSTraceHeader"] = *d.TraceHeader.StringValue
	}
	for name, value := range optional {
		if value != "" {
			all[name] = value
		}
	}
	if slices.Contains(asked, "All") {
		return all
	}
	selected := map[string]string{}
	for _, name := range asked {
		if value, ok := all[name]; ok {
			selected[name] = value
		}
	}
	return selected
}
