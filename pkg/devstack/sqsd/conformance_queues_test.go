package sqsd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
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
