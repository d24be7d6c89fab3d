package sqsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
)

// Inspection is what a queue looks like to ingest's credentials.
type Inspection struct {
	Name                         string
	Visibility, Retention, Delay time.Duration
	Waiting, InFlight            int           // about
	Skew                         time.Duration // the endpoint's clock less ours, in whole seconds
	Denied                       []string      // actions that the credentials may not do

	DeadLetters         string // the queue's name; empty: there is none
	MaxReceives         int    // before a message goes there
	DeadLetterRetention time.Duration
	DeadLetterErr       error // why that queue could not be looked at
}

// Inspect looks at a queue and takes no message. now is our clock.
func (q *Queue) Inspect(ctx context.Context, now func() time.Time) (Inspection, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := Inspection{Name: q.name}
	asked := now()
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
	if err != nil {
		return in, fmt.Errorf("queue %s: %w%s", q.name, err, advice(err))
	}
	if at, ok := awsmiddleware.GetServerTime(out.ResultMetadata); ok {
		in.Skew = at.Sub(asked.Add(now().Sub(asked) / 2)).Truncate(time.Second)
	}
	seconds := func(attributes map[string]string, name types.QueueAttributeName) time.Duration {
		n, _ := strconv.Atoi(attributes[string(name)]) // 0 where it is not said
		return time.Duration(n) * time.Second
	}
	in.Visibility = seconds(out.Attributes, types.QueueAttributeNameVisibilityTimeout)
	in.Retention = seconds(out.Attributes, types.QueueAttributeNameMessageRetentionPeriod)
	in.Delay = seconds(out.Attributes, types.QueueAttributeNameDelaySeconds)
	in.Waiting, _ = strconv.Atoi(out.Attributes[string(types.QueueAttributeNameApproximateNumberOfMessages)])
	in.InFlight, _ = strconv.Atoi(out.Attributes[string(types.QueueAttributeNameApproximateNumberOfMessagesNotVisible)])
	in.Denied = q.denied(ctx)

	var redrive struct {
		Target      string      `json:"deadLetterTargetArn"`
		MaxReceives json.Number `json:"maxReceiveCount"` // AWS takes it as a string, too
	}
	if text := out.Attributes[string(types.QueueAttributeNameRedrivePolicy)]; text != "" {
		if err := json.Unmarshal([]byte(text), &redrive); err != nil {
			return in, fmt.Errorf("queue %s: its redrive policy cannot be read: %w", q.name, err)
		}
		n, _ := redrive.MaxReceives.Int64()
		in.MaxReceives = int(n)
		in.DeadLetters = redrive.Target[strings.LastIndex(redrive.Target, ":")+1:]
		address := q.sibling(redrive.Target)
		out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: &address, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameMessageRetentionPeriod},
		})
		if err != nil {
			in.DeadLetterErr = err
			return in, nil
		}
		in.DeadLetterRetention = seconds(out.Attributes, types.QueueAttributeNameMessageRetentionPeriod)
	}
	return in, nil
}

// sibling is the URL of the queue of an ARN, arn:aws:sqs:<region>:<account>:<name>,
// at this queue's endpoint.
func (q *Queue) sibling(arn string) string {
	parts := strings.Split(arn, ":")
	u, err := url.Parse(q.url)
	if err != nil || len(parts) < 2 {
		return q.url
	}
	u.Path = "/" + strings.Join(parts[len(parts)-2:], "/")
	return u.String()
}

// denied tries what ingest does with messages on one that does not exist.
// Receiving is not tried: it would take a message.
func (q *Queue) denied(ctx context.Context) (out []string) {
	nobody := aws.String("doctor")
	for action, try := range map[string]func() error{
		"sqs:DeleteMessage": func() error {
			_, err := q.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &q.url, ReceiptHandle: nobody})
			return err
		},
		"sqs:ChangeMessageVisibility": func() error {
			_, err := q.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{QueueUrl: &q.url, ReceiptHandle: nobody})
			return err
		},
	} {
		var answer smithy.APIError
		if errors.As(try(), &answer) && strings.Contains(answer.ErrorCode(), "AccessDenied") {
			out = append(out, action)
		}
	}
	return out
}
