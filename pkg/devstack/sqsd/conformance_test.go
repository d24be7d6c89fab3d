package sqsd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
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
