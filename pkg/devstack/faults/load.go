package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Load is what a producer sends.
type Load struct {
	Name       string        // begins the ids, so that two loads differ; default "load"
	Messages   int           // with different ids
	Duplicates float64       // sends again of one sent before, for each message: 0 to 1
	Over       time.Duration // from the first to the last
	Ends       []End         // one for each message, by chance; default: success after 1 s
	TTL        time.Duration // of each Job after its end, 60 s at least; default 24 h
	Seed       uint64
}

// End is what becomes of a message, by its image.
type End struct {
	Image    string
	Job      string // more fields of job, such as "activeDeadlineSeconds":5
	Statuses []int  // of its callbacks
	Code     string // of the last; empty for success
	PodsGo   bool   // with the end: status 1 is missing where nobody looked before
	// Cut is the code where the control plane was killed between what it did to end
	// the Job and recording why; empty: there is no such moment.
	Cut string
}

// Success is the end of a Job that runs for a second.
func Success() End { return End{Image: "sim/succeed:1s", Statuses: []int{0, 1, 2}} }

// Sent is what was sent, and when each id was first acknowledged by SQS.
type Sent struct {
	IDs   []string
	At    map[string]time.Time
	Ends  map[string]End
	Sends int // duplicates included; a send whose answer was lost is repeated and counts once
}

// The message's names, as the contract has them.
const (
	namespace    = "default"
	annotationID = "jobrelay.dev/id"
	labelOfJobs  = "jobrelay.dev/installation"
)

func (l Load) message(id, webhook string, end End) string {
	more := ""
	if end.Job != "" {
		more = "," + end.Job
	}
	return fmt.Sprintf(`{"id":%q,"service":"faults","job":{"prefixName":"f","namespace":%q,"image":%q,"command":["/bin/true"],"ttlSecondsAfterFinished":%d%s},"webhook":{"url":%q}}`,
		id, namespace, end.Image, int(l.TTL.Seconds()), more, webhook)
}

func (s *Stack) queue() *sqs.Client {
	return sqs.New(sqs.Options{BaseEndpoint: &s.SQSEndpoint, Region: region, Credentials: credentials.NewStaticCredentialsProvider("x", "x", "")})
}

// Send sends a load as a producer does: each message until SQS has acknowledged
// it, whatever happens to SQS meanwhile.
func (s *Stack) Send(ctx context.Context, l Load) (Sent, error) {
	if l.Name == "" {
		l.Name = "load"
	}
	if l.Ends == nil {
		l.Ends = []End{Success()}
	}
	if l.TTL == 0 {
		l.TTL = 24 * time.Hour
	}
	random := rand.New(rand.NewPCG(l.Seed, 1))
	sent := Sent{At: map[string]time.Time{}, Ends: map[string]End{}}
	client, begin := s.queue(), time.Now()
	for i := range l.Messages {
		select {
		case <-ctx.Done():
			return sent, context.Cause(ctx)
		case <-time.After(time.Until(begin.Add(l.Over * time.Duration(i) / time.Duration(l.Messages)))):
		}
		id := fmt.Sprintf("%s-%d-%d", l.Name, l.Seed, i)
		sent.IDs = append(sent.IDs, id)
		sent.Ends[id] = l.Ends[random.IntN(len(l.Ends))]
		again := []string{id}
		if random.Float64() < l.Duplicates {
			again = append(again, sent.IDs[random.IntN(len(sent.IDs))])
		}
		for _, id := range again {
			if err := send(ctx, client, s.QueueURL, l.message(id, s.Hooks.URL()+"/"+id, sent.Ends[id])); err != nil {
				return sent, err
			}
			sent.Sends++
			if sent.At[id].IsZero() {
				sent.At[id] = time.Now()
			}
		}
	}
	return sent, nil
}

// SendBody sends one message, whatever is in it, as Send does.
func (s *Stack) SendBody(ctx context.Context, body string) error {
	return send(ctx, s.queue(), s.QueueURL, body)
}

func send(ctx context.Context, client *sqs.Client, queue, body string) error {
	for {
		_, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &queue, MessageBody: &body})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("send: %w (%w)", context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// QueueDepth is how many messages SQS holds, in flight or not.
func (s *Stack) QueueDepth(ctx context.Context) (int, error) {
	out, err := s.queue().GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &s.QueueURL, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
	if err != nil {
		return 0, err
	}
	depth := 0
	for _, name := range []types.QueueAttributeName{types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible} {
		var n int
		if _, err := fmt.Sscan(out.Attributes[string(name)], &n); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		depth += n
	}
	return depth, nil
}

// observe keeps which Jobs were ever seen for each id, until ctx ends.
func (s *Stack) observe(ctx context.Context) {
	defer close(s.observed)
	for ctx.Err() == nil {
		_, _ = s.Jobs(ctx) // the API server is down at times: that is the test
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// Jobs are the UIDs of the Jobs that exist now, by the id that they are for.
func (s *Stack) Jobs(ctx context.Context) (map[string][]string, error) {
	list, err := s.Client.BatchV1().Jobs(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelOfJobs})
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range list.Items {
		id, uid := j.Annotations[annotationID], string(j.UID)
		out[id] = append(out[id], uid)
		if s.jobs[id] == nil {
			s.jobs[id] = map[string]bool{}
		}
		s.jobs[id][uid] = true
	}
	return out, nil
}

// Complete are the ids whose Job is complete, as Kubernetes says.
func (s *Stack) Complete(ctx context.Context) (map[string]bool, error) {
	list, err := s.Client.BatchV1().Jobs(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelOfJobs})
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, j := range list.Items {
		out[j.Annotations[annotationID]] = j.Status.CompletionTime != nil
	}
	return out, nil
}
