package sqsd_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const mebibyte = 1 << 20

func TestErrorsHaveTheCodesOfAWS(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	fifo := e.fifo("q.fifo", nil)
	e.send(url, "m")
	received := e.receive(url)[0]
	ctx := t.Context()

	send := func(queueURL string, change func(*sqs.SendMessageInput)) func() error {
		return func() error {
			in := &sqs.SendMessageInput{QueueUrl: &queueURL, MessageBody: aws.String("m")}
			change(in)
			_, err := e.SendMessage(ctx, in)
			return err
		}
	}
	receive := func(change func(*sqs.ReceiveMessageInput)) func() error {
		return func() error {
			in := &sqs.ReceiveMessageInput{QueueUrl: &url}
			change(in)
			_, err := e.ReceiveMessage(ctx, in)
			return err
		}
	}
	deletes := func(queueURL, handle string) func() error {
		return func() error {
			_, err := e.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: &handle})
			return err
		}
	}
	deleteBatch := func(ids ...string) func() error {
		return func() error {
			in := &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{}}
			for _, id := range ids {
				in.Entries = append(in.Entries, types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: received.ReceiptHandle})
			}
			_, err := e.DeleteMessageBatch(ctx, in)
			return err
		}
	}
	create := func(name string, attributes map[string]string) func() error {
		return func() error {
			_, err := e.Client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
			return err
		}
	}
	withAttribute := func(name, dataType string) func(*sqs.SendMessageInput) {
		return func(in *sqs.SendMessageInput) {
			in.MessageAttributes = map[string]types.MessageAttributeValue{name: {DataType: &dataType, StringValue: aws.String("v")}}
		}
	}
	body := func(s string) func(*sqs.SendMessageInput) {
		return func(in *sqs.SendMessageInput) { in.MessageBody = &s }
	}
	const batch = "AWS.SimpleQueueService."
	for name, c := range map[string]struct {
		do   func() error
		code string
	}{
		"no such queue":                   {send(e.QueueURL("none"), func(*sqs.SendMessageInput) {}), batch + "NonExistentQueue"},
		"a URL of another account":        {send(strings.Replace(url, "000000000000", "123456789012", 1), func(*sqs.SendMessageInput) {}), batch + "NonExistentQueue"},
		"empty body":                      {send(url, body("")), "MissingParameter"},
		"body with a control character":   {send(url, body("a\x01")), "InvalidMessageContents"},
		"body over 1 MiB":                 {send(url, body(strings.Repeat("x", mebibyte+1))), "InvalidParameterValue"},
		"delay over 900 s":                {send(url, func(in *sqs.SendMessageInput) { in.DelaySeconds = 901 }), "InvalidParameterValue"},
		"deduplication in a standard one": {send(url, func(in *sqs.SendMessageInput) { in.MessageDeduplicationId = aws.String("d") }), "InvalidParameterValue"},
		"attribute name of AWS":           {send(url, withAttribute("AWS.x", "String")), "InvalidParameterValue"},
		"attribute of an unknown type":    {send(url, withAttribute("x", "Text")), "InvalidParameterValue"},
		"FIFO without a group":            {send(fifo, func(*sqs.SendMessageInput) {}), "MissingParameter"},
		"FIFO without deduplication":      {send(fifo, inGroup("g", "")), "InvalidParameterValue"},
		"FIFO with a delay":               {send(fifo, func(in *sqs.SendMessageInput) { inGroup("g", "d")(in); in.DelaySeconds = 1 }), "InvalidParameterValue"},
		"eleven messages":                 {receive(func(in *sqs.ReceiveMessageInput) { in.MaxNumberOfMessages = 11 }), "InvalidParameterValue"},
		"wait over 20 s":                  {receive(func(in *sqs.ReceiveMessageInput) { in.WaitTimeSeconds = 21 }), "InvalidParameterValue"},
		"visibility over 12 h":            {receive(func(in *sqs.ReceiveMessageInput) { in.VisibilityTimeout = 43201 }), "InvalidParameterValue"},
		"handle that is none":             {deletes(url, "nonsense"), "ReceiptHandleIsInvalid"},
		"handle of another queue":         {deletes(fifo, *received.ReceiptHandle), "ReceiptHandleIsInvalid"},
		"no handle":                       {deletes(url, ""), "MissingParameter"},
		"empty batch":                     {deleteBatch(), batch + "EmptyBatchRequest"},
		"batch of eleven":                 {deleteBatch(strings.Split("abcdefghijk", "")...), batch + "TooManyEntriesInBatchRequest"},
		"batch with an id twice":          {deleteBatch("a", "b", "a"), batch + "BatchEntryIdsNotDistinct"},
		"batch with a wrong id":           {deleteBatch("a b"), batch + "InvalidBatchEntryId"},
		"queue name":                      {create("a b", nil), "InvalidParameterValue"},
		"FIFO name":                       {create("q", map[string]string{"FifoQueue": "true"}), "InvalidParameterValue"},
		"FIFO false":                      {create("r", map[string]string{"FifoQueue": "false"}), "InvalidAttributeName"},
		"FIFO attribute of a standard":    {create("r", map[string]string{"ContentBasedDeduplication": "true"}), "InvalidAttributeName"},
		"unknown attribute":               {create("r", map[string]string{"Colour": "red"}), "InvalidAttributeName"},
		"attribute out of range":          {create("r", map[string]string{"VisibilityTimeout": "43201"}), "InvalidAttributeValue"},
		"dead letters to nowhere":         {create("r", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:none","maxReceiveCount":1}`}), "InvalidParameterValue"},
		"dead letters to another kind":    {create("r", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:q.fifo","maxReceiveCount":1}`}), "InvalidParameterValue"},
		"redrive without a count":         {create("r", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:q"}`}), "InvalidParameterValue"},
		"asking for an unknown attribute": {func() error {
			_, err := e.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{"Colour"}})
			return err
		}, "InvalidAttributeName"},
		"changing the kind of a queue": {func() error {
			_, err := e.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"FifoQueue": "true"}})
			return err
		}, "InvalidAttributeValue"},
		"an action that is not served": {func() error {
			_, err := e.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: &url})
			return err
		}, "InvalidAction"},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, c.do(), c.code) })
	}
}

func TestOneMebibyteIsForBodyAndAttributesTogether(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	attribute := func(in *sqs.SendMessageInput) { // 4+6+10 bytes
		in.MessageAttributes = map[string]types.MessageAttributeValue{"name": {DataType: aws.String("String"), StringValue: aws.String("0123456789")}}
	}
	e.send(url, strings.Repeat("<", mebibyte-20), attribute)
	in := &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String(strings.Repeat("<", mebibyte-19))}
	attribute(in)
	_, err := e.SendMessage(t.Context(), in)
	wantCode(t, err, "InvalidParameterValue")
	wantEqual(t, "size of what is received", len(*e.receive(url)[0].Body), mebibyte-20)

	small := e.queue("small", map[string]string{"MaximumMessageSize": "1024"})
	_, err = e.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &small, MessageBody: aws.String(strings.Repeat("x", 1025))})
	wantCode(t, err, "InvalidParameterValue")
}

func TestBatches(t *testing.T) {
	e := newEndpoint(t)
	ctx := t.Context()
	url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})

	entry := func(id, body string) types.SendMessageBatchRequestEntry {
		return types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body}
	}
	half := strings.Repeat("x", mebibyte/2)
	_, err := e.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: []types.SendMessageBatchRequestEntry{entry("a", half), entry("b", half+"x")}})
	wantCode(t, err, "AWS.SimpleQueueService.BatchRequestTooLong")

	sent, err := e.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: []types.SendMessageBatchRequestEntry{entry("a", "one"), entry("b", "\x01"), entry("c", "two")}})
	check(t, err)
	if len(sent.Successful) != 2 || len(sent.Failed) != 1 {
		t.Fatalf("%d sent, %d failed", len(sent.Successful), len(sent.Failed))
	}
	failed := sent.Failed[0]
	wantEqual(t, "failed", fmt.Sprint(*failed.Id, " ", *failed.Code, " ", failed.SenderFault), "b InvalidMessageContents true")

	got := e.receive(url)
	changed, err := e.ChangeMessageVisibilityBatch(ctx, &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{
		{Id: aws.String("keep"), ReceiptHandle: got[0].ReceiptHandle, VisibilityTimeout: 100},
		{Id: aws.String("back"), ReceiptHandle: got[1].ReceiptHandle, VisibilityTimeout: 0},
		{Id: aws.String("bad"), ReceiptHandle: aws.String("nonsense"), VisibilityTimeout: 1},
		{Id: aws.String("long"), ReceiptHandle: got[0].ReceiptHandle, VisibilityTimeout: 43201},
	}})
	check(t, err)
	wantEqual(t, "changed", len(changed.Successful), 2)
	wantEqual(t, "not changed", *changed.Failed[0].Code+" "+*changed.Failed[1].Code, "ReceiptHandleIsInvalid InvalidParameterValue")
	wantEqual(t, "counts", e.counts(url), "1 1 0")

	deleted, err := e.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: got[0].ReceiptHandle},
		{Id: aws.String("b"), ReceiptHandle: aws.String("nonsense")},
	}})
	check(t, err)
	wantEqual(t, "deleted", *deleted.Successful[0].Id, "a")
	wantEqual(t, "not deleted", *deleted.Failed[0].Id+" "+*deleted.Failed[0].Code, "b ReceiptHandleIsInvalid")
	wantEqual(t, "left", e.counts(url), "1 0 0")
}
