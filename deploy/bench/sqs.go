package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/devstack/child"
)

const (
	queueName = "bench"
	perCall   = 10 // messages a call, SQS's own limit
)

// endpoint is a running SQS endpoint with one queue.
type endpoint struct{ url, queueURL string }

// sqs starts one that answers each request after the latency.
func (s *stage) sqs(ctx context.Context, latency time.Duration) (endpoint, error) {
	address, err := s.address()
	if err != nil {
		return endpoint{}, err
	}
	p, err := s.product("jobrelay", nil, "sqs", "--listen", address, "--queue", queueName, "--latency", latency.String())
	if err != nil {
		return endpoint{}, err
	}
	p.Name = "sqs"
	e := endpoint{url: "http://" + address}
	e.queueURL = e.url + "/000000000000/" + queueName
	return e, s.answers(ctx, p, e.url+"/healthz")
}

// env leads the SDK of a process to the endpoint.
func (e endpoint) env() []string {
	return []string{"AWS_ENDPOINT_URL_SQS=" + e.url, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench"}
}

// fill puts n messages on the queue, 10 a call.
func (e endpoint) fill(ctx context.Context, s *stage, n int) error {
	defer s.during("sending %d messages", n)()
	client := sqs.New(sqs.Options{BaseEndpoint: &e.url, Region: "us-east-1", Credentials: aws.AnonymousCredentials{}, HTTPClient: wholeBodies{awshttp.NewBuildableClient()}})
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for from := 0; from < n; from += perCall {
		group.Go(func() error {
			var entries []types.SendMessageBatchRequestEntry
			for i := from; i < min(from+perCall, n); i++ {
				body, err := messageOf(i, "default")
				if err != nil {
					return err
				}
				entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(body))})
			}
			out, err := client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &e.queueURL, Entries: entries})
			if err == nil && len(out.Failed) > 0 {
				err = fmt.Errorf("%d messages were not taken", len(out.Failed))
			}
			return err
		})
	}
	return group.Wait()
}

// counts are what the endpoint tells of itself; asking is no request of SQS.
func (e endpoint) counts(ctx context.Context) (out samples, err error) {
	err = get(ctx, e.url+"/metrics", func(r io.Reader) error {
		out, err = readSamples(r)
		return err
	})
	return out, err
}

// left is how many messages are on the queue, in flight or not.
func (s samples) left() int { return int(s.sum("sqsd_messages", "queue", queueName)) }

// wholeBodies is the SDK's HTTP client without a fault that loses an answer now
// and then: pkg/sqsqueue has the same for ingest, and says why.
type wholeBodies struct{ sqs.HTTPClient }

func (c wholeBodies) Do(r *http.Request) (*http.Response, error) {
	own := r.WithContext(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		own.Body = struct{ io.ReadCloser }{r.Body}
	}
	return c.HTTPClient.Do(own)
}

// sdkClient is a client as any program makes one, out of the environment.
func sdkClient(ctx context.Context) (*sqs.Client, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	return sqs.NewFromConfig(cfg, func(o *sqs.Options) { o.HTTPClient = wholeBodies{o.HTTPClient} }), nil
}

// receiving starts the side of a row that receives: ingest, or the bare loop.
func (s *stage) receiving(which side, e endpoint, n natsServer, receivers int) (*child.Process, error) {
	if which == bare {
		return s.asSelf(bareIntake, e.env(), "--queue-url", e.queueURL, "--receivers", strconv.Itoa(receivers))
	}
	metrics, err := s.address()
	if err != nil {
		return nil, err
	}
	return s.measured("ingest", append(e.env(), "JOBRELAY_SQS_QUEUE_URL="+e.queueURL, "JOBRELAY_INGEST_RECEIVERS="+strconv.Itoa(receivers),
		"JOBRELAY_NATS_URL="+n.url, "JOBRELAY_METRICS_ADDR="+metrics))
}
