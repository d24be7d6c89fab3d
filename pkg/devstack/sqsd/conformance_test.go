package sqsd_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

// TestConformance says what the endpoint has of Amazon SQS, as the API
// reference and the Developer Guide describe it, seen through the official SDK.
// What the documents leave open follows AWS's own answers, as LocalStack has
// recorded them in its tests/aws/services/sqs/test_sqs.snapshot.json. The fault
// switches and the state on disk are ours.
//
// Each behaviour has an endpoint of its own, whose clock stands still.
func TestConformance(t *testing.T) {
	count := 0
	for _, chapter := range []struct {
		name       string
		behaviours []behaviour
	}{
		{"queues", queues},
		{"queue attributes", queueAttributes},
		{"sending", sending},
		{"message attributes", messageAttributes},
		{"sizes", sizes},
		{"batches", batches},
		{"receiving", receiving},
		{"polling", polls},
		{"deleting", deleting},
		{"visibility", visibility},
		{"in flight", inFlight},
		{"dead letters", deadLetters},
		{"groups", groups},
		{"deduplication", deduplication},
		{"faults", faults},
		{"stopping", stopping},
		{"restarting", restarting},
	} {
		t.Run(chapter.name, func(t *testing.T) {
			for _, b := range chapter.behaviours {
				count++
				t.Run(b.name, func(t *testing.T) { b.check(t, newEndpoint(t)) })
			}
		})
	}
	t.Logf("%d behaviours", count)
}

type behaviour struct {
	name  string
	check func(*testing.T, endpoint)
}

// refuses is a behaviour whose call fails with the code.
func refuses(code string, call func(endpoint) error) func(*testing.T, endpoint) {
	return func(t *testing.T, e endpoint) { wantCode(t, call(e), code) }
}

const (
	legacy   = "AWS.SimpleQueueService." // begins the codes of the modelled errors
	arnOf    = "arn:aws:sqs:us-east-1:000000000000:"
	mebibyte = 1 << 20
)

var queues = []behaviour{
	{"CreateQueue gives the URL of the queue", func(t *testing.T, e endpoint) {
		url, err := e.create("q", nil)
		check(t, err)
		wantEqual(t, "URL", url, e.URL()+"/000000000000/q")
		wantEqual(t, "URL of the server", url, e.QueueURL("q"))
	}},
	{"CreateQueue again with the same attributes gives the same URL and keeps the messages", func(t *testing.T, e endpoint) {
		attributes := map[string]string{"VisibilityTimeout": "40", "DelaySeconds": "0"}
		first, err := e.create("q", attributes)
		check(t, err)
		e.send(first, "m")
		again, err := e.create("q", attributes)
		check(t, err)
		wantEqual(t, "URL", again, first)
		wantEqual(t, "counts", e.counts(again), "1 0 0")
	}},
	{"CreateQueue again without attributes, or with their defaults, gives the same URL", func(t *testing.T, e endpoint) {
		first := e.queue("q", nil)
		check(t, e.setAttributes(first, map[string]string{"DelaySeconds": "5"}))
		for _, attributes := range []map[string]string{nil, {"VisibilityTimeout": "30"}, {"SqsManagedSseEnabled": "true"}, {"DelaySeconds": "5"}} {
			again, err := e.create("q", attributes)
			check(t, err)
			wantEqual(t, "URL", again, first)
		}
	}},
	{"CreateQueue again with another attribute is QueueNameExists", func(t *testing.T, e endpoint) {
		e.queue("q", map[string]string{"VisibilityTimeout": "40"})
		_, err := e.create("q", map[string]string{"VisibilityTimeout": "41"})
		wantCode(t, err, "QueueAlreadyExists")
		wantType[*types.QueueNameExists](t, err)
	}},
	{"CreateQueue compares a redrive policy by its content", func(t *testing.T, e endpoint) {
		e.queue("dead", nil)
		url := e.queue("q", map[string]string{"RedrivePolicy": redrive("dead", 3)})
		again, err := e.create("q", map[string]string{"RedrivePolicy": `{ "maxReceiveCount" : "3", "deadLetterTargetArn" : "` + arnOf + `dead" }`})
		check(t, err)
		wantEqual(t, "URL", again, url)
		_, err = e.create("q", map[string]string{"RedrivePolicy": redrive("dead", 4)})
		wantCode(t, err, "QueueAlreadyExists")
	}},
	{"a name has letters, digits, hyphens and underscores, 80 at most", func(t *testing.T, e endpoint) {
		_, err := e.create(strings.Repeat("a", 78)+"-_", nil)
		check(t, err)
		for _, name := range []string{"a b", "a.b", "a/b", strings.Repeat("a", 81)} {
			_, err := e.create(name, nil)
			wantCode(t, err, "InvalidParameterValue")
		}
	}},
	{"a FIFO queue has a name that ends in .fifo, 80 characters at most with it", func(t *testing.T, e endpoint) {
		fifo := map[string]string{"FifoQueue": "true"}
		_, err := e.create(strings.Repeat("a", 75)+".fifo", fifo)
		check(t, err)
		for _, name := range []string{"q", ".fifo", "a.b.fifo", strings.Repeat("a", 76) + ".fifo"} {
			_, err := e.create(name, fifo)
			wantCode(t, err, "InvalidParameterValue")
		}
	}},
	{"a standard queue has no name that ends in .fifo", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.create("q.fifo", nil)
		return err
	})},
	{"a standard queue is made without FifoQueue", refuses("InvalidAttributeName", func(e endpoint) error {
		_, err := e.create("q", map[string]string{"FifoQueue": "false"})
		return err
	})},
	{"a standard queue has no attribute of a FIFO queue", func(t *testing.T, e endpoint) {
		for name, value := range map[string]string{"ContentBasedDeduplication": "true", "DeduplicationScope": "queue", "FifoThroughputLimit": "perQueue"} {
			_, err := e.create("q", map[string]string{name: value})
			wantCode(t, err, "InvalidAttributeName")
		}
	}},
	{"GetQueueUrl finds a queue by its name", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		out, err := e.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("q"), QueueOwnerAWSAccountId: aws.String("000000000000")})
		check(t, err)
		wantEqual(t, "URL", *out.QueueUrl, url)
	}},
	{"GetQueueUrl of no queue, or of another account's, is QueueDoesNotExist", func(t *testing.T, e endpoint) {
		e.queue("q", nil)
		for _, in := range []sqs.GetQueueUrlInput{
			{QueueName: aws.String("none")},
			{QueueName: aws.String("q"), QueueOwnerAWSAccountId: aws.String("123456789012")},
		} {
			_, err := e.GetQueueUrl(t.Context(), &in)
			wantCode(t, err, legacy+"NonExistentQueue")
			wantType[*types.QueueDoesNotExist](t, err)
		}
	}},
	{"an action on a queue that is not there is QueueDoesNotExist", func(t *testing.T, e endpoint) {
		e.queue("q", nil)
		for _, url := range []string{e.QueueURL("none"), e.URL() + "/123456789012/q"} {
			_, err := e.trySend(url, "m")
			wantCode(t, err, legacy+"NonExistentQueue")
			_, err = e.tryReceive(url)
			wantCode(t, err, legacy+"NonExistentQueue")
			wantCode(t, e.delete(url, types.Message{ReceiptHandle: aws.String("any")}), legacy+"NonExistentQueue")
			wantCode(t, e.purge(url), legacy+"NonExistentQueue")
			wantCode(t, e.deleteQueue(url), legacy+"NonExistentQueue")
		}
	}},
	{"a URL that is none of a queue is InvalidAddress", func(t *testing.T, e endpoint) {
		_, err := e.trySend(e.URL()+"/q", "m")
		wantCode(t, err, "InvalidAddress")
		wantType[*types.InvalidAddress](t, err)
	}},
	{"a queue is found by its URL's path, under any host", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send("http://another.example:1/000000000000/q", "m")
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"ListQueues has the queues with a prefix, in order", func(t *testing.T, e endpoint) {
		for _, name := range []string{"b", "a2", "a1"} {
			e.queue(name, nil)
		}
		out, err := e.ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: aws.String("a")})
		check(t, err)
		wantEqual(t, "URLs", strings.Join(out.QueueUrls, " "), e.QueueURL("a1")+" "+e.QueueURL("a2"))
	}},
	{"ListQueues gives pages of MaxResults", func(t *testing.T, e endpoint) {
		for _, name := range []string{"a1", "a2", "a3", "b"} {
			e.queue(name, nil)
		}
		var pages []string
		paginator := sqs.NewListQueuesPaginator(e, &sqs.ListQueuesInput{QueueNamePrefix: aws.String("a"), MaxResults: aws.Int32(2)})
		for paginator.HasMorePages() {
			page, err := paginator.NextPage(t.Context())
			check(t, err)
			pages = append(pages, strings.Join(page.QueueUrls, " "))
		}
		wantEqual(t, "pages", strings.Join(pages, " | "), e.QueueURL("a1")+" "+e.QueueURL("a2")+" | "+e.QueueURL("a3"))
	}},
	{"ListQueues without MaxResults gives 1,000 queues and no token", func(t *testing.T, e endpoint) {
		for i := range 1001 {
			e.queue(fmt.Sprint("q", i), nil)
		}
		out, err := e.ListQueues(t.Context(), &sqs.ListQueuesInput{})
		check(t, err)
		wantEqual(t, "queues", len(out.QueueUrls), 1000)
		if out.NextToken != nil {
			t.Error("a token though no page was asked for")
		}
	}},
	{"ListQueues refuses a page of more than 1,000", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.ListQueues(e.t.Context(), &sqs.ListQueuesInput{MaxResults: aws.Int32(1001)})
		return err
	})},
	{"DeleteQueue takes the queue and its messages away", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		check(t, e.deleteQueue(url))
		_, err := e.tryReceive(url)
		wantCode(t, err, legacy+"NonExistentQueue")
		wantEqual(t, "counts of a new queue of the name", e.counts(e.queue("q", nil)), "0 0 0")
	}},
	{"PurgeQueue removes what is visible, in flight and delayed", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "in flight")
		e.one(url)
		e.send(url, "visible")
		e.send(url, "delayed", delayed(60))
		wantEqual(t, "counts before", e.counts(url), "1 1 1")
		check(t, e.purge(url))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		e.clock.Advance(time.Hour)
		wantEqual(t, "received later", e.bodies(url), "")
	}},
	{"PurgeQueue is PurgeQueueInProgress for 60 seconds", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		check(t, e.purge(url))
		e.clock.Advance(59 * time.Second)
		err := e.purge(url)
		wantCode(t, err, legacy+"PurgeQueueInProgress")
		wantType[*types.PurgeQueueInProgress](t, err)
		e.clock.Advance(time.Second)
		check(t, e.purge(url))
	}},
	{"an action that is not served is InvalidAction", refuses("InvalidAction", func(e endpoint) error {
		_, err := e.ListQueueTags(e.t.Context(), &sqs.ListQueueTagsInput{QueueUrl: aws.String(e.queue("q", nil))})
		return err
	})},
}

var queueAttributes = []behaviour{
	{"a standard queue has the defaults of AWS", func(t *testing.T, e endpoint) {
		all := e.attributes(e.queue("q", nil), "All")
		want := map[string]string{
			"ApproximateNumberOfMessages": "0", "ApproximateNumberOfMessagesDelayed": "0", "ApproximateNumberOfMessagesNotVisible": "0",
			"CreatedTimestamp": "1772366400", "LastModifiedTimestamp": "1772366400", "QueueArn": arnOf + "q",
			"DelaySeconds": "0", "MaximumMessageSize": "1048576", "MessageRetentionPeriod": "345600",
			"ReceiveMessageWaitTimeSeconds": "0", "VisibilityTimeout": "30", "SqsManagedSseEnabled": "true",
		}
		wantEqual(t, "attributes", fmt.Sprint(all), fmt.Sprint(want))
	}},
	{"a FIFO queue has the defaults of AWS", func(t *testing.T, e endpoint) {
		all := e.attributes(e.fifo("q.fifo", nil), "All")
		for name, want := range map[string]string{
			"FifoQueue": "true", "ContentBasedDeduplication": "false", "DeduplicationScope": "queue", "FifoThroughputLimit": "perQueue",
		} {
			wantEqual(t, name, all[name], want)
		}
	}},
	{"GetQueueAttributes gives what was asked for", func(t *testing.T, e endpoint) {
		asked := e.attributes(e.queue("q", nil), "QueueArn", "DelaySeconds", "RedrivePolicy")
		wantEqual(t, "attributes", fmt.Sprint(asked), fmt.Sprint(map[string]string{"QueueArn": arnOf + "q", "DelaySeconds": "0"}))
	}},
	{"GetQueueAttributes refuses an unknown name", refuses("InvalidAttributeName", func(e endpoint) error {
		_, err := e.GetQueueAttributes(e.t.Context(), &sqs.GetQueueAttributesInput{
			QueueUrl: aws.String(e.queue("q", nil)), AttributeNames: []types.QueueAttributeName{"Colour"},
		})
		return err
	})},
	{"the three counts are of what is visible, in flight and delayed", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 3 {
			e.send(url, "m")
		}
		e.send(url, "m", delayed(1))
		e.receive(url, atMost(2))
		wantEqual(t, "counts", e.counts(url), "1 2 1")
		e.clock.Advance(time.Second)
		wantEqual(t, "counts after the delay", e.counts(url), "2 2 0")
		e.clock.Advance(29 * time.Second)
		wantEqual(t, "counts after the visibility timeout", e.counts(url), "4 0 0")
	}},
	{"SetQueueAttributes changes what is named and the time of the change", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "40"})
		e.clock.Advance(time.Minute)
		check(t, e.setAttributes(url, map[string]string{"DelaySeconds": "7"}))
		all := e.attributes(url, "All")
		for name, want := range map[string]string{
			"VisibilityTimeout": "40", "DelaySeconds": "7", "CreatedTimestamp": "1772366400", "LastModifiedTimestamp": "1772366460",
		} {
			wantEqual(t, name, all[name], want)
		}
	}},
	{"an empty value takes a policy away", func(t *testing.T, e endpoint) {
		e.queue("dead", nil)
		url := e.queue("q", map[string]string{"RedrivePolicy": redrive("dead", 1), "Policy": "{}", "KmsMasterKeyId": "key"})
		check(t, e.setAttributes(url, map[string]string{"RedrivePolicy": "", "Policy": "", "KmsMasterKeyId": ""}))
		wantEqual(t, "attributes", fmt.Sprint(e.attributes(url, "RedrivePolicy", "Policy", "KmsMasterKeyId")), "map[]")
	}},
	{"an unknown name is InvalidAttributeName", func(t *testing.T, e endpoint) {
		_, err := e.create("q", map[string]string{"Colour": "red"})
		wantCode(t, err, "InvalidAttributeName")
		wantCode(t, e.setAttributes(e.queue("q", nil), map[string]string{"QueueArn": "arn"}), "InvalidAttributeName")
	}},
	{"a number out of its range is InvalidAttributeValue", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for _, a := range [][2]string{
			{"DelaySeconds", "901"}, {"MaximumMessageSize", "1023"}, {"MaximumMessageSize", "1048577"}, {"MessageRetentionPeriod", "59"},
			{"MessageRetentionPeriod", "1209601"}, {"ReceiveMessageWaitTimeSeconds", "21"}, {"VisibilityTimeout", "43201"}, {"VisibilityTimeout", "-1"}, {"VisibilityTimeout", "x"},
		} {
			wantCode(t, e.setAttributes(url, map[string]string{a[0]: a[1]}), "InvalidAttributeValue")
		}
	}},
	{"a queue keeps its kind", func(t *testing.T, e endpoint) {
		standard, fifo := e.queue("q", nil), e.fifo("q.fifo", nil)
		wantCode(t, e.setAttributes(standard, map[string]string{"FifoQueue": "true"}), "InvalidAttributeName")
		wantCode(t, e.setAttributes(standard, map[string]string{"FifoQueue": "false"}), "InvalidAttributeName")
		wantCode(t, e.setAttributes(fifo, map[string]string{"FifoQueue": "false"}), "InvalidAttributeValue")
		check(t, e.setAttributes(fifo, map[string]string{"FifoQueue": "true"}))
	}},
	{"a redrive policy has an existing queue of the same kind and a count from 1 to 1,000", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.queue("dead", nil)
		e.fifo("dead.fifo", nil)
		for _, policy := range []string{
			redrive("none", 1), redrive("dead.fifo", 1), redrive("dead", 0), redrive("dead", 1001),
			`{"deadLetterTargetArn":"` + arnOf + `dead"}`, `{"maxReceiveCount":1}`, `{"deadLetterTargetArn":"` + arnOf + `dead","maxReceiveCount":"x"}`, "x",
		} {
			wantCode(t, e.setAttributes(url, map[string]string{"RedrivePolicy": policy}), "InvalidParameterValue")
		}
		check(t, e.setAttributes(url, map[string]string{"RedrivePolicy": redrive("dead", 1000)}))
	}},
}

var sending = []behaviour{
	{"a message is received with its id, its body and their MD5", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		sent := e.send(url, "msg")
		wantEqual(t, "MD5 that was sent", *sent.MD5OfMessageBody, "6e2baaf3b97dbeef01c0043275f9a0e7") // of AWS
		m := e.one(url)
		wantEqual(t, "id", *m.MessageId, *sent.MessageId)
		wantEqual(t, "body", *m.Body, "msg")
		wantEqual(t, "MD5 that was received", *m.MD5OfBody, *sent.MD5OfMessageBody)
	}},
	{"a body keeps every character that is allowed", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		body := "{\r\n\t\"<&>\": \"\u0020\u00e9\ud7ff\ue000\ufffd\U00010000\U0010ffff\"}"
		e.send(url, body)
		wantEqual(t, "body", *e.one(url).Body, body)
	}},
	{"a body with another character is InvalidMessageContents", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for _, body := range []string{"\x00", "a\x08", "\x1f", "\ufffe", "\uffff"} {
			_, err := e.trySend(url, body)
			wantCode(t, err, "InvalidMessageContents")
			wantType[*types.InvalidMessageContents](t, err)
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
	{"an empty body is a missing parameter", refuses("MissingParameter", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "")
		return err
	})},
	{"DelaySeconds hides a message until then", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m", delayed(900))
		e.clock.Advance(900*time.Second - time.Millisecond)
		wantEqual(t, "before", e.bodies(url), "")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "after", e.bodies(url), "m")
	}},
	{"the queue's delay is for messages without their own", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"DelaySeconds": "5"})
		e.send(url, "queue's")
		e.send(url, "own", delayed(20))
		wantEqual(t, "counts", e.counts(url), "0 0 2")
		e.clock.Advance(5 * time.Second)
		wantEqual(t, "after 5 s", e.bodies(url), "queue's")
		e.clock.Advance(15 * time.Second)
		wantEqual(t, "after 20 s", e.bodies(url), "own")
	}},
	{"a delay over 900 seconds is refused", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "m", delayed(901))
		return err
	})},
	{"a message is gone after the retention period, also from the delay or in flight", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"MessageRetentionPeriod": "60", "VisibilityTimeout": "120"})
		e.send(url, "in flight")
		m := e.one(url)
		e.send(url, "visible")
		e.send(url, "delayed", delayed(900))
		e.clock.Advance(60*time.Second - time.Millisecond)
		wantEqual(t, "counts before", e.counts(url), "1 1 1")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		check(t, e.delete(url, m))
	}},
	{"a standard queue takes a group and gives it back", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 2 {
			e.send(url, "m", inGroup("g", ""))
		}
		got := e.receive(url)
		wantEqual(t, "received at once", len(got), 2)
		wantEqual(t, "MessageGroupId", got[0].Attributes["MessageGroupId"], "g")
	}},
	{"a standard queue takes no deduplication id", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "m", inGroup("g", "d"))
		return err
	})},
	{"a group is of 1 to 128 letters, digits and punctuation", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m", inGroup(strings.Repeat("g", 126)+"!~", ""))
		for _, group := range []string{"", "a b", "é", strings.Repeat("g", 129)} {
			_, err := e.trySend(url, "m", inGroup(group, ""))
			wantCode(t, err, "InvalidParameterValue")
		}
	}},
}

var messageAttributes = []behaviour{
	{"text, number and binary attributes come back as they were sent, with their labels", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m", with("text", "String.label", "x"), with("number", "Number.int", "-4.2e1"), with("bytes", "Binary.gif", "\x00\x01\xff"))
		got := e.one(url).MessageAttributes
		wantEqual(t, "text", *got["text"].DataType+" "+*got["text"].StringValue, "String.label x")
		wantEqual(t, "number", *got["number"].DataType+" "+*got["number"].StringValue, "Number.int -4.2e1")
		wantEqual(t, "bytes", *got["bytes"].DataType+" "+string(got["bytes"].BinaryValue), "Binary.gif \x00\x01\xff")
	}},
	{"the MD5 of attributes is that of AWS", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for want, attributes := range map[string][]func(*sqs.SendMessageInput){
			"ae7155c6026991b6d54b11589678bf9c": {with("Foo", "String", "Bar")},                                                                           // of AWS
			"4c360f3fdafd970e05fae2f149d997f5": {with("Help.Me", "String", "Me"), with("Hello", "String", "There"), with("General", "String", "Kenobi")}, // of AWS
			// Reckoned apart with Python's hashlib, by the Developer Guide's algorithm.
			"1c5baba21183f1b365df7051c5b0c8ed": {with("text", "String.label", "x"), with("number", "Number", "42"), with("bytes", "Binary", "\x00\x01\xff")},
		} {
			sent := e.send(url, "m", attributes...)
			wantEqual(t, "MD5 that was sent", *sent.MD5OfMessageAttributes, want)
			wantEqual(t, "MD5 that was received", *e.one(url).MD5OfMessageAttributes, want)
		}
	}},
	{"a message without attributes has no MD5 of them", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		if sent := e.send(url, "m"); sent.MD5OfMessageAttributes != nil || sent.MD5OfMessageSystemAttributes != nil {
			t.Error("an MD5 of nothing was sent")
		}
		if m := e.one(url); m.MD5OfMessageAttributes != nil {
			t.Error("an MD5 of nothing was received")
		}
	}},
	{"attributes come only when asked for, by name, prefix or all, with the MD5 of the chosen", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0"})
		e.send(url, "msg", with("Help.Me", "String", "Me"), with("Hello", "String", "There"), with("General", "String", "Kenobi"))
		const all = "General Hello Help.Me 4c360f3fdafd970e05fae2f149d997f5"
		for _, c := range []struct{ asked, want string }{ // the answers are of AWS
			{"", ""},
			{"All", all}, {"*", all}, {".*", all},
			{"Foo Help", ""},
			{"Hello General", "General Hello fca026605781cb4126a1e9044df24232"},
			{"Foo Hello", "Hello a311262e065454b75da111d535b8dacd"},
			{"Hel.*", "Hello Help.Me 83fee93c1bcd8b9a5a923ffacdc636c7"},
			{"AWS.", ""}, {"..foo", ""},
		} {
			m := e.one(url, func(in *sqs.ReceiveMessageInput) { in.MessageAttributeNames = strings.Fields(c.asked) })
			var got []string
			for name := range m.MessageAttributes {
				got = append(got, name)
			}
			slices.Sort(got)
			if m.MD5OfMessageAttributes != nil {
				got = append(got, *m.MD5OfMessageAttributes)
			}
			wantEqual(t, "asked for "+c.asked, strings.Join(got, " "), c.want)
		}
	}},
	{"a trace header is a system attribute, apart from the others", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		sent := e.send(url, "m", with("Foo", "String", "Bar"), func(in *sqs.SendMessageInput) {
			in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{
				"AWSTraceHeader": {DataType: aws.String("String"), StringValue: aws.String("Root=1-5759e988-bd862e3fe1be46a994272793")},
			}
		})
		wantEqual(t, "MD5 of the attributes", *sent.MD5OfMessageAttributes, "ae7155c6026991b6d54b11589678bf9c")
		wantEqual(t, "MD5 of the system attributes", len(*sent.MD5OfMessageSystemAttributes), 32)
		wantEqual(t, "AWSTraceHeader", e.one(url).Attributes["AWSTraceHeader"], "Root=1-5759e988-bd862e3fe1be46a994272793")
	}},
	{"another system attribute cannot be sent", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "m", func(in *sqs.SendMessageInput) {
			in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{"SenderId": {DataType: aws.String("String"), StringValue: aws.String("x")}}
		})
		return err
	})},
	{"a message has ten attributes at most", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		var attributes []func(*sqs.SendMessageInput)
		for i := range 11 {
			attributes = append(attributes, with(fmt.Sprint("a", i), "String", "v"))
		}
		e.send(url, "m", attributes[:10]...)
		_, err := e.trySend(url, "m", attributes...)
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"an attribute's name, type and value are checked", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for _, a := range [][3]string{
			{"AWS.x", "String", "v"}, {"amazon.x", "String", "v"}, {".x", "String", "v"}, {"x.", "String", "v"}, {"x..y", "String", "v"},
			{"a b", "String", "v"}, {"x?", "String", "v"}, {strings.Repeat("x", 257), "String", "v"},
			{"x", "Text", "v"}, {"x", "string", "v"}, {"x", "Number." + strings.Repeat("x", 256), "1"},
			{"x", "String", ""}, {"x", "Binary", ""}, {"x", "String", "\x08"}, {"x", "Number", "Hello"}, {"x", "Number", "0x1F"},
		} {
			_, err := e.trySend(url, "m", with(a[0], a[1], a[2]))
			wantCode(t, err, "InvalidParameterValue")
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
}

var sizes = []behaviour{
	{"a body has 1 MiB at most", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, strings.Repeat("<", mebibyte)) // which is six times as long in JSON
		_, err := e.trySend(url, strings.Repeat("x", mebibyte+1))
		wantCode(t, err, "InvalidParameterValue")
		wantEqual(t, "size of what is received", len(*e.one(url).Body), mebibyte)
	}},
	{"1 MiB is for the body and the attributes' names, types and values together", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		attributes := []func(*sqs.SendMessageInput){with("name", "String", "0123456789"), with("b", "Binary", "\x00\x01\x02")} // 4+6+10 + 1+6+3 bytes
		e.send(url, strings.Repeat("x", mebibyte-30), attributes...)
		_, err := e.trySend(url, strings.Repeat("x", mebibyte-29), attributes...)
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"a size is counted in bytes of UTF-8", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), strings.Repeat("é", mebibyte/2)+"x")
		return err
	})},
	{"a queue has its own MaximumMessageSize", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"MaximumMessageSize": "1024"})
		e.send(url, strings.Repeat("x", 1024))
		_, err := e.trySend(url, strings.Repeat("x", 1025))
		wantCode(t, err, "InvalidParameterValue")
		out, err := e.sendBatch(url, entry("a", strings.Repeat("x", 1025)), entry("b", "x"))
		check(t, err)
		wantEqual(t, "in a batch", sentIDs(out), "sent b, failed a InvalidParameterValue true")
	}},
	{"a batch has 1 MiB in all, attributes included", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		half := strings.Repeat("x", mebibyte/2)
		out, err := e.sendBatch(url, entry("a", half), entry("b", half))
		check(t, err)
		wantEqual(t, "just 1 MiB", sentIDs(out), "sent a b, failed")
		long := entry("b", half)
		long.MessageAttributes = map[string]types.MessageAttributeValue{"n": {DataType: aws.String("String"), StringValue: aws.String("v")}}
		_, err = e.sendBatch(url, entry("a", half), long)
		wantCode(t, err, legacy+"BatchRequestTooLong")
		wantType[*types.BatchRequestTooLong](t, err)
		wantEqual(t, "counts", e.counts(url), "2 0 0")
	}},
}

var batches = []behaviour{
	{"SendMessageBatch sends each entry, and says by id which failed and why", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		late := entry("d", "m")
		late.DelaySeconds = 901
		out, err := e.sendBatch(url, entry("a", "one"), entry("b", "\x01"), entry("c", "two"), late, entry("e", ""))
		check(t, err)
		wantEqual(t, "answer", sentIDs(out), "sent a c, failed b InvalidMessageContents true d InvalidParameterValue true e MissingParameter true")
		wantEqual(t, "MD5", *out.Successful[0].MD5OfMessageBody, "f97c5d29941bfb1b2fdab0874906ab82")
		got := e.receive(url)
		wantEqual(t, "received", *got[0].Body+" "+*got[1].Body, "one two")
		wantEqual(t, "id", *got[0].MessageId, *out.Successful[0].MessageId)
	}},
	{"SendMessageBatch has each entry's delay and attributes", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		late, labelled := entry("a", "late"), entry("b", "labelled")
		late.DelaySeconds = 5
		labelled.MessageAttributes = map[string]types.MessageAttributeValue{"Foo": {DataType: aws.String("String"), StringValue: aws.String("Bar")}}
		out, err := e.sendBatch(url, late, labelled)
		check(t, err)
		wantEqual(t, "MD5 of the attributes", *out.Successful[1].MD5OfMessageAttributes, "ae7155c6026991b6d54b11589678bf9c")
		wantEqual(t, "at once", e.bodies(url), "labelled")
		e.clock.Advance(5 * time.Second)
		wantEqual(t, "after the delay", e.bodies(url), "late")
	}},
	{"SendMessageBatch to a FIFO queue fails as a whole without a group or a deduplication id", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		good, noGroup, noID := entry("a", "m"), entry("b", "m"), entry("c", "m")
		good.MessageGroupId, good.MessageDeduplicationId = aws.String("g"), aws.String("d")
		noGroup.MessageDeduplicationId, noID.MessageGroupId = aws.String("e"), aws.String("g")
		for _, bad := range []types.SendMessageBatchRequestEntry{noGroup, noID} {
			_, err := e.sendBatch(url, good, bad)
			wantCode(t, err, "InvalidParameterValue")
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		out, err := e.sendBatch(url, good)
		check(t, err)
		wantEqual(t, "SequenceNumber", len(*out.Successful[0].SequenceNumber), 20)
	}},
	{"DeleteMessageBatch deletes each entry, and says by id which failed and why", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		e.send(url, "n")
		out, err := e.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{
			{Id: aws.String("a"), ReceiptHandle: e.one(url).ReceiptHandle},
			{Id: aws.String("b"), ReceiptHandle: aws.String("nonsense")},
		}})
		check(t, err)
		wantEqual(t, "deleted", *out.Successful[0].Id, "a")
		wantEqual(t, "failed", failures(out.Failed), " b ReceiptHandleIsInvalid true")
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"ChangeMessageVisibilityBatch changes each entry, and says by id which failed and why", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 3 {
			e.send(url, "m")
		}
		got := e.receive(url)
		check(t, e.changeVisibility(url, got[2], 0))
		change := func(id string, handle *string, seconds int32) types.ChangeMessageVisibilityBatchRequestEntry {
			return types.ChangeMessageVisibilityBatchRequestEntry{Id: &id, ReceiptHandle: handle, VisibilityTimeout: seconds}
		}
		out, err := e.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{
			change("keep", got[0].ReceiptHandle, 100), change("back", got[1].ReceiptHandle, 0),
			change("bad", aws.String("nonsense"), 1), change("long", got[0].ReceiptHandle, 43201), change("late", got[2].ReceiptHandle, 1),
		}})
		check(t, err)
		wantEqual(t, "changed", *out.Successful[0].Id+" "+*out.Successful[1].Id, "keep back")
		wantEqual(t, "failed", failures(out.Failed), " bad ReceiptHandleIsInvalid true long InvalidParameterValue true late "+legacy+"MessageNotInflight true")
		wantEqual(t, "counts", e.counts(url), "2 1 0")
	}},
	{"an empty batch is EmptyBatchRequest", func(t *testing.T, e endpoint) {
		for _, err := range e.batchesOf() {
			wantCode(t, err, legacy+"EmptyBatchRequest")
			wantType[*types.EmptyBatchRequest](t, err)
		}
	}},
	{"a batch of eleven is TooManyEntriesInBatchRequest", func(t *testing.T, e endpoint) {
		for _, err := range e.batchesOf(strings.Split("abcdefghijk", "")...) {
			wantCode(t, err, legacy+"TooManyEntriesInBatchRequest")
			wantType[*types.TooManyEntriesInBatchRequest](t, err)
		}
	}},
	{"a batch with an id twice is BatchEntryIdsNotDistinct", func(t *testing.T, e endpoint) {
		for _, err := range e.batchesOf("a", "b", "a") {
			wantCode(t, err, legacy+"BatchEntryIdsNotDistinct")
			wantType[*types.BatchEntryIdsNotDistinct](t, err)
		}
	}},
	{"a batch with a wrong id is InvalidBatchEntryId", func(t *testing.T, e endpoint) {
		for _, id := range []string{"", "a b", "a:b", strings.Repeat("a", 81)} {
			for _, err := range e.batchesOf(id) {
				wantCode(t, err, legacy+"InvalidBatchEntryId")
				wantType[*types.InvalidBatchEntryId](t, err)
			}
		}
	}},
}

var receiving = []behaviour{
	{"a receive gives one message unless asked for more", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "1")
		e.send(url, "2")
		out, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
		check(t, err)
		wantEqual(t, "messages", len(out.Messages), 1)
	}},
	{"a receive gives ten messages at most", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 12 {
			e.send(url, "m")
		}
		wantEqual(t, "messages", len(e.receive(url)), 10)
		wantEqual(t, "the rest", len(e.receive(url)), 2)
		_, err := e.tryReceive(url, atMost(11))
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"a receive of an empty queue is empty", func(t *testing.T, e endpoint) {
		wantEqual(t, "messages", len(e.receive(e.queue("q", nil))), 0)
	}},
	{"a message has its sender, its times and its count of receives", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "1"})
		e.send(url, "m")
		for _, count := range []string{"1", "2", "3"} {
			e.clock.Advance(time.Second)
			got := e.one(url).Attributes
			wantEqual(t, "SentTimestamp", got["SentTimestamp"], "1772366400000")
			wantEqual(t, "ApproximateFirstReceiveTimestamp", got["ApproximateFirstReceiveTimestamp"], "1772366401000")
			wantEqual(t, "ApproximateReceiveCount", got["ApproximateReceiveCount"], count)
			if got["SenderId"] == "" {
				t.Error("no SenderId")
			}
		}
	}},
	{"system attributes come only when asked for, by their newer or older name", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0"})
		e.send(url, "m")
		ask := func(newer []types.MessageSystemAttributeName, older []types.QueueAttributeName) string {
			m := e.one(url, func(in *sqs.ReceiveMessageInput) {
				in.MessageSystemAttributeNames, in.AttributeNames = newer, older //nolint:staticcheck // older clients send it
			})
			var names []string
			for name := range m.Attributes {
				names = append(names, name)
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		all := "ApproximateFirstReceiveTimestamp ApproximateReceiveCount SenderId SentTimestamp"
		wantEqual(t, "nothing", ask(nil, nil), "")
		wantEqual(t, "all", ask([]types.MessageSystemAttributeName{"All"}, nil), all)
		wantEqual(t, "all, of old", ask(nil, []types.QueueAttributeName{"All"}), all)
		wantEqual(t, "one that it has and one that it has not", ask([]types.MessageSystemAttributeName{"SenderId", "SequenceNumber"}, nil), "SenderId")
		wantEqual(t, "one by either name", ask([]types.MessageSystemAttributeName{"SenderId"}, []types.QueueAttributeName{"SentTimestamp"}), "SenderId SentTimestamp")
	}},
	{"a receive's own VisibilityTimeout goes before the queue's", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "40"})
		e.send(url, "m")
		e.receive(url, visibleAfter(3))
		e.clock.Advance(3*time.Second - time.Millisecond)
		wantEqual(t, "counts before", e.counts(url), "0 1 0")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "counts", e.counts(url), "1 0 0")
		_, err := e.tryReceive(url, visibleAfter(43201))
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"a wait over 20 seconds is refused", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.tryReceive(e.queue("q", nil), func(in *sqs.ReceiveMessageInput) { in.WaitTimeSeconds = 21 })
		return err
	})},
}

var polls = []behaviour{
	{"a long poll wakes when a message arrives", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		poll := e.poll(t.Context(), url)
		e.send(url, "sent")
		wantBody(t, poll, "sent")
	}},
	{"a message wakes one of the polls that wait", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		one, other := e.poll(t.Context(), url), e.poll(t.Context(), url)
		e.send(url, "sent")
		var messages []types.Message
		select {
		case p := <-one:
			messages, one = p.messages, other
		case p := <-other:
			messages = p.messages
		}
		wantEqual(t, "messages of the first", len(messages), 1)
		e.clock.Advance(20 * time.Second)
		wantBody(t, one, "")
	}},
	{"a long poll wakes when a delay is over", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"DelaySeconds": "5"})
		poll := e.poll(t.Context(), url)
		e.send(url, "delayed")
		<-e.clock.waits // it looked, and waits for the delay now
		e.clock.Advance(5 * time.Second)
		wantBody(t, poll, "delayed")
	}},
	{"a long poll wakes when a visibility timeout is over", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "5"})
		e.send(url, "again")
		e.one(url)
		poll := e.poll(t.Context(), url)
		e.clock.Advance(5 * time.Second)
		wantBody(t, poll, "again")
	}},
	{"a long poll wakes when a message is given back", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "given back")
		m := e.one(url)
		poll := e.poll(t.Context(), url)
		check(t, e.changeVisibility(url, m, 0))
		wantBody(t, poll, "given back")
	}},
	{"a long poll wakes when a group goes on", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		e.send(url, "1", inGroup("g", "1"))
		e.send(url, "2", inGroup("g", "2"))
		m := e.one(url)
		poll := e.poll(t.Context(), url)
		check(t, e.delete(url, m))
		wantBody(t, poll, "2")
	}},
	{"a long poll of a queue that stays empty is empty after its wait", func(t *testing.T, e endpoint) {
		poll := e.poll(t.Context(), e.queue("q", nil))
		e.clock.Advance(20 * time.Second)
		wantBody(t, poll, "")
	}},
	{"a queue's own wait is for receives without one", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"ReceiveMessageWaitTimeSeconds": "7"})
		done := make(chan error, 1)
		go func() {
			_, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
			done <- err
		}()
		wantEqual(t, "waits until", <-e.clock.waits, e.clock.Now().Add(7*time.Second))
		e.clock.Advance(7 * time.Second)
		check(t, <-done)
	}},
	{"a long poll ends when its queue is deleted", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		poll := e.poll(t.Context(), url)
		check(t, e.deleteQueue(url))
		wantCode(t, (<-poll).err, legacy+"NonExistentQueue")
	}},
	{"a long poll whose caller is gone takes nothing", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		ctx, cancel := context.WithCancel(t.Context())
		poll := e.poll(ctx, url)
		cancel()
		if p := <-poll; p.err == nil {
			t.Fatal("the poll was answered")
		}
		<-e.clock.ends // the endpoint has noticed
		next := e.poll(t.Context(), url)
		e.send(url, "m")
		wantBody(t, next, "m")
	}},
}

var deleting = []behaviour{
	{"DeleteMessage removes a message, and once more is no error", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		check(t, e.delete(url, m))
		check(t, e.delete(url, m))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
	{"a handle that is none, or of another queue, is ReceiptHandleIsInvalid", func(t *testing.T, e endpoint) {
		url, other := e.queue("q", nil), e.queue("other", nil)
		e.send(url, "m")
		for _, err := range []error{e.delete(url, types.Message{ReceiptHandle: aws.String("nonsense")}), e.delete(other, e.one(url))} {
			wantCode(t, err, "ReceiptHandleIsInvalid")
			wantType[*types.ReceiptHandleIsInvalid](t, err)
		}
	}},
	{"no handle is a missing parameter", refuses("MissingParameter", func(e endpoint) error {
		return e.delete(e.queue("q", nil), types.Message{ReceiptHandle: aws.String("")})
	})},
	{"a standard queue accepts an old handle and keeps the message that was received since", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		old := e.one(url)
		e.clock.Advance(10 * time.Second)
		newest := e.one(url)
		check(t, e.delete(url, old))
		wantEqual(t, "counts after the old handle", e.counts(url), "0 1 0")
		check(t, e.delete(url, newest))
		wantEqual(t, "counts after the newest", e.counts(url), "0 0 0")
	}},
	{"a standard queue deletes by the newest handle also after the visibility timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(11 * time.Second)
		check(t, e.delete(url, m))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
	{"a FIFO queue refuses a handle after the visibility timeout, received since or not", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m", inGroup("g", "d"))
		m := e.one(url)
		e.clock.Advance(11 * time.Second)
		wantCode(t, e.delete(url, m), "InvalidParameterValue")
		newest := e.one(url)
		wantCode(t, e.delete(url, m), "InvalidParameterValue")
		check(t, e.delete(url, newest))
		check(t, e.delete(url, newest)) // of a message that is gone
	}},
	{"a FIFO queue deletes by a handle whose timeout was extended", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m", inGroup("g", "d"))
		m := e.one(url)
		check(t, e.changeVisibility(url, m, 20))
		e.clock.Advance(15 * time.Second)
		check(t, e.delete(url, m))
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
}

var visibility = []behaviour{
	{"a received message is hidden for the queue's visibility timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		e.one(url)
		e.clock.Advance(10*time.Second - time.Millisecond)
		wantEqual(t, "before", e.bodies(url), "")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "after", e.bodies(url), "m")
	}},
	{"a visibility timeout of no seconds hides nothing", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0"})
		e.send(url, "m")
		wantEqual(t, "received", e.bodies(url), "m") // once in one answer
		wantEqual(t, "received again", e.bodies(url), "m")
	}},
	{"ChangeMessageVisibility counts from now", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(5 * time.Second)
		check(t, e.changeVisibility(url, m, 60))
		e.clock.Advance(60*time.Second - time.Millisecond)
		wantEqual(t, "extended", e.bodies(url), "")
		check(t, e.changeVisibility(url, m, 1))
		e.clock.Advance(time.Second)
		wantEqual(t, "shortened", e.bodies(url), "m")
	}},
	{"ChangeMessageVisibility to 0 gives a message back, and the next receive has the queue's timeout", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		check(t, e.changeVisibility(url, e.one(url), 0))
		wantEqual(t, "counts", e.counts(url), "1 0 0")
		wantEqual(t, "received", e.bodies(url), "m")
		wantEqual(t, "hidden again", e.bodies(url), "")
	}},
	{"ChangeMessageVisibility of a message that is not in flight is MessageNotInflight", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(10 * time.Second)
		err := e.changeVisibility(url, m, 5)
		wantCode(t, err, legacy+"MessageNotInflight")
		wantType[*types.MessageNotInflight](t, err)
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"ChangeMessageVisibility by an old handle is refused", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "10"})
		e.send(url, "m")
		old := e.one(url)
		e.clock.Advance(10 * time.Second)
		e.one(url)
		wantCode(t, e.changeVisibility(url, old, 0), "InvalidParameterValue")
		wantEqual(t, "counts", e.counts(url), "0 1 0")
	}},
	{"ChangeMessageVisibility of a deleted message is refused", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		check(t, e.delete(url, m))
		wantCode(t, e.changeVisibility(url, m, 1), "InvalidParameterValue")
	}},
	{"ChangeMessageVisibility by a handle that is none is ReceiptHandleIsInvalid", refuses("ReceiptHandleIsInvalid", func(e endpoint) error {
		return e.changeVisibility(e.queue("q", nil), types.Message{ReceiptHandle: aws.String("INVALID")}, 60)
	})},
	{"a message is hidden for twelve hours in all since its receive", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		m := e.one(url)
		e.clock.Advance(10 * time.Second)
		check(t, e.changeVisibility(url, m, 43190))
		for _, seconds := range []int32{43191, 43201, -1} {
			wantCode(t, e.changeVisibility(url, m, seconds), "InvalidParameterValue")
		}
		e.clock.Advance(43190 * time.Second)
		wantEqual(t, "counts after twelve hours", e.counts(url), "1 0 0")
	}},
	{"twelve hours begin anew with each receive", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		e.one(url, visibleAfter(43200))
		e.clock.Advance(12 * time.Hour)
		check(t, e.changeVisibility(url, e.one(url), 43200))
	}},
}

var inFlight = []behaviour{
	{"a short poll of a standard queue past its limit in flight is OverLimit", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 2}, newClock())
		url := e.queue("q", nil)
		for _, body := range []string{"1", "2", "3"} {
			e.send(url, body)
		}
		got := e.receive(url)
		wantEqual(t, "received up to the limit", len(got), 2)
		_, err := e.tryReceive(url)
		wantCode(t, err, "OverLimit")
		wantType[*types.OverLimit](t, err)
		check(t, e.delete(url, got[0]))
		wantEqual(t, "after a delete", e.bodies(url), "3")
	}},
	{"a long poll past the limit waits, and wakes when a message is deleted", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 1}, newClock())
		url := e.queue("q", map[string]string{"VisibilityTimeout": "60"})
		e.send(url, "1")
		e.send(url, "2")
		m := e.one(url)
		poll := e.poll(t.Context(), url)
		e.clock.Advance(20 * time.Second)
		wantBody(t, poll, "")
		poll = e.poll(t.Context(), url)
		check(t, e.delete(url, m))
		wantBody(t, poll, "2")
	}},
	{"a FIFO queue past its limit is as if it were empty", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 1}, newClock())
		url := e.fifo("q.fifo", nil)
		e.send(url, "1", inGroup("g", "1"))
		e.send(url, "2", inGroup("h", "2"))
		m := e.one(url)
		wantEqual(t, "received", e.bodies(url), "")
		check(t, e.delete(url, m))
		wantEqual(t, "after a delete", e.bodies(url), "2")
	}},
	{"each queue has its own limit, and a message that is visible again does not count", func(t *testing.T, _ endpoint) {
		e := start(t, sqsd.Config{MaxInFlight: 1}, newClock())
		url, other := e.queue("q", map[string]string{"VisibilityTimeout": "1"}), e.queue("other", nil)
		e.send(url, "m")
		e.send(other, "o")
		e.one(url)
		wantEqual(t, "of another queue", e.bodies(other), "o")
		e.clock.Advance(time.Second)
		wantEqual(t, "received again", e.bodies(url), "m")
	}},
}

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
		var entries []types.SendMessageBatchRequestEntry
		for _, id := range []string{"a", "b"} {
			entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(id), MessageBody: aws.String("m")})
		}
		out, err := e.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: entries})
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

// wantType wants the SDK's own type of an error, which errors.As finds.
func wantType[E error](t *testing.T, err error) {
	t.Helper()
	if want := *new(E); !errors.As(err, &want) {
		t.Errorf("error %v, want a %T", err, want)
	}
}

// redrive is a policy with a queue of the endpoint.
func redrive(deadLetters string, maxReceiveCount int) string {
	return fmt.Sprintf(`{"deadLetterTargetArn":"%s%s","maxReceiveCount":%d}`, arnOf, deadLetters, maxReceiveCount)
}

// letters makes a FIFO queue with a visibility timeout of 30 s and sends the
// bodies, each to the group of its first letter.
func (e endpoint) letters(name, bodies string) string {
	e.t.Helper()
	url := e.fifo(name, map[string]string{"ContentBasedDeduplication": "true"})
	for _, body := range strings.Fields(bodies) {
		e.send(url, body, inGroup(body[:1], ""))
	}
	return url
}

func entry(id, body string) types.SendMessageBatchRequestEntry {
	return types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body}
}

func (e endpoint) sendBatch(url string, entries ...types.SendMessageBatchRequestEntry) (*sqs.SendMessageBatchOutput, error) {
	return e.SendMessageBatch(e.t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: entries})
}

// batchesOf are the errors of the three batch actions with entries of the ids.
func (e endpoint) batchesOf(ids ...string) []error {
	e.t.Helper()
	url := e.queue("q", nil)
	sends := &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: []types.SendMessageBatchRequestEntry{}}
	deletes := &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{}}
	changes := &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{}}
	for _, id := range ids {
		sends.Entries = append(sends.Entries, entry(id, "m"))
		deletes.Entries = append(deletes.Entries, types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: aws.String("any")})
		changes.Entries = append(changes.Entries, types.ChangeMessageVisibilityBatchRequestEntry{Id: &id, ReceiptHandle: aws.String("any")})
	}
	_, sendErr := e.SendMessageBatch(e.t.Context(), sends)
	_, deleteErr := e.DeleteMessageBatch(e.t.Context(), deletes)
	_, changeErr := e.ChangeMessageVisibilityBatch(e.t.Context(), changes)
	return []error{sendErr, deleteErr, changeErr}
}

// sentIDs is the answer of a batch in short.
func sentIDs(out *sqs.SendMessageBatchOutput) string {
	sent := "sent"
	for _, s := range out.Successful {
		sent += " " + *s.Id
	}
	return sent + ", failed" + failures(out.Failed)
}

// failures has of each the id, the code and whether it is the sender's fault.
func failures(failed []types.BatchResultErrorEntry) string {
	all := ""
	for _, f := range failed {
		all += fmt.Sprint(" ", *f.Id, " ", *f.Code, " ", f.SenderFault)
	}
	return all
}

// retrying is a client that tries three times, with no pause.
func retrying(o *sqs.Options) {
	o.RetryMaxAttempts = 0
	o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
		o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
	})
}
