package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	intakeMessages  = 20000
	nearMessages    = 5000
	nearLatency     = 10 * time.Millisecond
	intakeReceivers = 2
	sqsRequests     = "SQS requests/message"
)

// intake is B1: how fast ingest empties a queue, from the first receive that
// arrives at the endpoint to its answer to the last delete. The endpoint answers
// at once, so all of it is CPU time: the endpoint, NATS and our side share the
// machine's cores.
var intake = row{
	ID: "B1", Title: "intake, SQS answers at once", Unit: "messages/s",
	Ours: "ingest", Bare: "bare receive + batch delete",
	Goals: []goal{{"", atLeast, 0.90}, {sqsRequests, atMost, 0.21}},
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return runIntake(ctx, s, which, intakeMessages, 0)
	},
}

// intakeNear is B1 where SQS answers after nearLatency: as long as a call within
// a region takes, about.
var intakeNear = row{
	ID: "B1near", Title: "intake, SQS answers after " + nearLatency.String(), Unit: "messages/s",
	Ours: "ingest", Bare: "bare receive + batch delete",
	Goals: []goal{{"", atLeast, 0.90}, {sqsRequests, atMost, 0.21}},
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return runIntake(ctx, s, which, nearMessages, nearLatency)
	},
}

func runIntake(ctx context.Context, s *stage, which side, own int, latency time.Duration) (result, error) {
	n := s.size(own)
	queue, err := s.sqs(ctx, latency)
	if err != nil {
		return result{}, err
	}
	nats, err := s.nats(ctx) // idle where the bare loop runs
	if err != nil {
		return result{}, err
	}
	if err := queue.fill(ctx, s, n); err != nil {
		return result{}, err
	}
	before, err := queue.counts(ctx)
	if err != nil {
		return result{}, err
	}
	p, err := s.receiving(which, queue, nats, intakeReceivers)
	if err != nil {
		return result{}, err
	}
	var now samples
	polls := 0.0
	work, err := s.until(ctx, n, "message", p, func(ctx context.Context) (int, error) {
		if now, err = queue.counts(ctx); err != nil {
			return 0, err
		}
		polls = max(polls, now.sum("sqsd_requests_in_progress", "action", "ReceiveMessage"))
		return n - now.left(), nil
	})
	if err != nil {
		return result{}, err
	}
	deleted := max(now.sum("sqsd_last_answer_timestamp_seconds", "action", "DeleteMessageBatch"), now.sum("sqsd_last_answer_timestamp_seconds", "action", "DeleteMessage"))
	took := deleted - now.sum("sqsd_first_request_timestamp_seconds", "action", "ReceiveMessage")
	out := result{Rate: float64(n) / took, Counters: work.counters}
	for _, action := range []string{"ReceiveMessage", "DeleteMessageBatch"} {
		out.Counters[action+"/message"] = (now.sum("sqsd_requests_total", "action", action) - before.sum("sqsd_requests_total", "action", action)) / float64(n)
	}
	out.Counters[sqsRequests] = (now.sum("sqsd_requests_total") - before.sum("sqsd_requests_total")) / float64(n)
	out.Counters["receives at once"] = polls
	if which == ours {
		out.JetStream, err = nats.setting(ctx, broker.StreamRequests)
	}
	return out, err
}

// bareIntake is the role of the bare loop.
const bareIntake = "bare-intake"

func bareIntakeMain() int {
	var cfg struct {
		QueueURL  string `required:""`
		Receivers int    `default:"1"`
	}
	return process.Main(bareIntake, "Receives and deletes, and does nothing else.", time.Second, &cfg, nil, func(ctx context.Context, _ *kong.Context) error {
		client, err := sdkClient(ctx)
		if err != nil {
			return err
		}
		group, ctx := errgroup.WithContext(ctx)
		for range cfg.Receivers {
			group.Go(func() error { return receiveAndDelete(ctx, client, cfg.QueueURL) })
		}
		return group.Wait()
	})
}

// receiveAndDelete asks for what ingest asks for, and deletes each batch with
// one call.
func receiveAndDelete(ctx context.Context, client *sqs.Client, queueURL string) error {
	for {
		out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl: &queueURL, MaxNumberOfMessages: perCall, WaitTimeSeconds: 20,
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{
				types.MessageSystemAttributeNameSentTimestamp, types.MessageSystemAttributeNameApproximateReceiveCount, types.MessageSystemAttributeNameMessageGroupId,
			},
			MessageAttributeNames: []string{"traceparent"},
		})
		if err != nil {
			return err
		}
		if len(out.Messages) == 0 {
			continue
		}
		entries := make([]types.DeleteMessageBatchRequestEntry, len(out.Messages))
		for i, m := range out.Messages {
			entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle}
		}
		deleted, err := client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &queueURL, Entries: entries})
		if err != nil {
			return err
		}
		if len(deleted.Failed) > 0 {
			return fmt.Errorf("%d messages were not deleted", len(deleted.Failed))
		}
	}
}
