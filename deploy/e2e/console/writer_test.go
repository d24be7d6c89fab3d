//go:build browser

package console

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// writer writes the streams as the services do.
type writer struct {
	*broker.Broker

	t    *testing.T
	plan *[]write // nil: what is to be written is written at once
}

// write is one thing that a service wrote, and when.
type write struct {
	at time.Time
	do func()
}

// inOrder writes what f says in the order of its times, as it came to be.
func (w *writer) inOrder(f func()) {
	var plan []write
	w.plan = &plan
	f()
	w.plan = nil
	slices.SortStableFunc(plan, func(a, b write) int { return a.at.Compare(b.at) })
	for _, p := range plan {
		p.do()
	}
}

func (w *writer) at(at time.Time, do func()) {
	if w.plan == nil {
		do()
		return
	}
	*w.plan = append(*w.plan, write{at, do})
}

func (w *writer) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// writer is a connection that may do everything.
func (s *stack) writer() *writer {
	s.t.Helper()
	b, err := broker.Open(s.t.Context(), broker.Config{URL: s.nats.URL(), Login: broker.Login{NKey: s.seed("test")}, Topology: broker.Create, Role: "test"}, zerolog.Nop())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(b.Close)
	return &writer{Broker: b, t: s.t}
}

// job is a job whose streams are being written.
type job struct {
	w                                     *writer
	id, service, namespace, image, prefix string
	queued                                time.Time // when its queue took the message
	endpoint                              string
	tail                                  broker.Tail
	ledger                                broker.LedgerEntry
}

// job accepts a request, as ingest does.
func (w *writer) job(j job) *job {
	w.t.Helper()
	j.w = w
	if j.queued.IsZero() {
		j.queued = time.Now()
	}
	for field, value := range map[*string]string{&j.service: "billing", &j.namespace: "jobs", &j.image: "busybox", &j.prefix: "job", &j.endpoint: "https://hooks.shop.example"} {
		if *field == "" {
			*field = value
		}
	}
	return w.accept(j, &jobsv1.JobRequested{
		Job:     &jobsv1.Job{PrefixName: j.prefix, Namespace: j.namespace, Image: j.image, Command: []string{"/bin/run", secret}, Env: []*jobsv1.EnvVar{{Name: "TOKEN", Value: secret}}},
		Webhook: &jobsv1.Webhook{Url: j.endpoint + "/" + secret + "?key=" + secret, Statuses: []int32{0, 1, 2, 3, 99}},
	})
}

// secret stands in each part of a request that the console must not know.
const secret = "s3cret-of-a-request"

func (w *writer) accept(j job, r *jobsv1.JobRequested) *job {
	w.t.Helper()
	r.Id, r.Service, r.Hash = j.id, j.service, "00"
	r.QueuedAt, r.AcceptedAt = timestamppb.New(j.queued), timestamppb.New(j.queued.Add(40*time.Millisecond))
	e, err := event.New(j.key(), event.SourceOfQueue("default", "jobs"), j.id, 0, r.GetAcceptedAt().AsTime(), r)
	w.must(err)
	w.at(e.Time, func() { w.must(w.Accept(w.t.Context(), e)) })
	return &j
}

func (j *job) key() string  { return event.Key(j.id) }
func (j *job) page() string { return "/jobs/" + j.key() }

// uid is the Job's, name and pod are those of the Job and its Pod.
func (j *job) uid() string  { return uuid.NewSHA1(uuid.NameSpaceURL, []byte(j.id)).String() }
func (j *job) name() string { return kubejob.Name(j.prefix, j.id) }
func (j *job) pod() string  { return j.name() + "-" + j.key()[:5] }

// append puts the next event on the log, so long after the queue took the message.
func (j *job) append(after time.Duration, data proto.Message) *job {
	j.w.t.Helper()
	j.w.at(j.queued.Add(after), func() { j.w.must(j.tryAppend(j.w.t.Context(), after, data)) })
	return j
}

func (j *job) tryAppend(ctx context.Context, after time.Duration, data proto.Message) error {
	e, err := event.New(j.key(), event.SourceOfNamespace("default", j.namespace), j.id, j.tail.Next(), j.queued.Add(after), data)
	if err != nil {
		return err
	}
	j.tail, err = j.w.Append(ctx, j.service, j.tail, e)
	return err
}

func (j *job) started(after time.Duration) *job {
	j.w.t.Helper()
	return j.append(after, j.startedData(after))
}

func (j *job) startedData(after time.Duration) *jobsv1.JobStarted {
	return &jobsv1.JobStarted{
		JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, Service: j.service, Image: j.image, QueueMilliseconds: uint32(after.Milliseconds()),
		Resources: &jobsv1.Resources{Limits: &jobsv1.Quantities{Cpu: "2", Memory: "512Mi"}, Requests: &jobsv1.Quantities{Cpu: "500m", Memory: "256Mi"}},
	}
}

func (j *job) podStarted(after time.Duration) *job {
	j.w.t.Helper()
	return j.append(after, &jobsv1.PodStarted{
		JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, PodId: j.uid(), PodName: j.pod(), NodeName: "worker-" + j.key()[:2],
	})
}

// times are those of the end, after the times of the events before it.
func (j *job) times(created, ran, ended time.Duration) *jobsv1.Times {
	at := func(after time.Duration) *timestamppb.Timestamp {
		return timestamppb.New(j.queued.Add(after).Truncate(time.Second))
	}
	return &jobsv1.Times{
		CreatedAt: at(created), StartedAt: at(created), EndedAt: at(ended), ScheduleSeconds: uint32((ran - created).Seconds()), RunSeconds: uint32((ended - ran).Seconds()),
		QueueMilliseconds: new(uint32(created.Milliseconds())),
	}
}

func (j *job) completed(created, ran, ended time.Duration) *job {
	j.w.t.Helper()
	return j.append(ended, &jobsv1.JobCompleted{
		JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, DurationSeconds: uint32((ended - created).Seconds()), Times: j.times(created, ran, ended),
	})
}

func (j *job) failed(created, ran, ended time.Duration, code, message string, evidence *jobsv1.Evidence) *job {
	j.w.t.Helper()
	if evidence != nil {
		evidence.PodId, evidence.PodName, evidence.NodeName = j.uid(), j.pod(), "worker-"+j.key()[:2]
	}
	return j.append(ended, &jobsv1.JobFailed{
		JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, Error: &jobsv1.Error{ErrorCode: code, Message: message}, Times: j.times(created, ran, ended), Evidence: evidence,
	})
}

func (j *job) exception(after time.Duration, code, message string) *job {
	j.w.t.Helper()
	return j.append(after, &jobsv1.JobException{
		JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, Error: &jobsv1.Error{ErrorCode: code, Message: message},
	})
}

// attempt is one POST, so long after the queue took the message; code 0: no answer.
func (j *job) attempt(after time.Duration, code int, took time.Duration) delivery.Attempt {
	class := delivery.Unwell
	if code > 0 {
		class = delivery.ClassOfStatus(code)
	}
	return delivery.Attempt{At: j.queued.Add(after), Class: class, Code: code, Milliseconds: took.Milliseconds()}
}

// delivered records the end of the next callback, as the notifier does.
func (j *job) delivered(attempts ...delivery.Attempt) *job {
	j.w.t.Helper()
	last := attempts[len(attempts)-1]
	return j.advance(delivery.Done{At: last.At.Add(time.Duration(last.Milliseconds) * time.Millisecond), Attempts: attempts, Code: last.Code})
}

func (j *job) advance(d delivery.Done) *job {
	j.w.t.Helper()
	j.w.at(d.At, func() { j.swap(j.ledger.Advanced(j.ledger.Next, d)) })
	return j
}

func (j *job) swap(l delivery.Ledger) {
	var err error
	j.ledger, err = j.w.SwapLedger(j.w.t.Context(), j.key(), j.ledger, l)
	j.w.must(err)
}

// parked schedules the next try of the next callback.
func (j *job) parked(due time.Time, attempts ...delivery.Attempt) *job {
	j.w.t.Helper()
	j.w.at(attempts[len(attempts)-1].At, func() {
		w := delivery.Wakeup{Key: j.key(), Sequence: j.tail.Sequence, N: j.ledger.Next, First: attempts[0].At, Attempts: attempts, Endpoint: j.endpoint}
		j.w.schedule(broker.PurposeCallback, w.Token(), w, due)
	})
	return j
}

func (w *writer) schedule(purpose, token string, payload any, due time.Time) {
	w.t.Helper()
	data, err := json.Marshal(payload)
	w.must(err)
	w.must(w.Schedule(w.t.Context(), broker.Wakeup{Purpose: purpose, Token: token, Payload: data}, due))
}

// letters gives up the callbacks of the events in types from the next one on, for the
// reason.
func (j *job) letters(reason string, at time.Time, types []event.Type, attempts ...delivery.Attempt) *job {
	j.w.t.Helper()
	for i, typ := range types {
		d := delivery.Done{At: at, Reason: reason}
		if i == 0 {
			d.Attempts, d.Code = attempts, attempts[len(attempts)-1].Code
		}
		j.w.at(at, func() {
			j.w.must(j.w.PutLetter(j.w.t.Context(), j.letter(j.ledger.Next, typ, d)))
			j.swap(j.ledger.Abandoned(j.ledger.Next, d))
		})
	}
	return j
}

func (j *job) letter(n int, typ event.Type, d delivery.Done) delivery.Letter {
	body, err := json.Marshal(map[string]any{"id": j.id, "status": typ.Status()})
	j.w.must(err)
	return delivery.Letter{
		LogKey: j.key(), N: n, ID: j.id, Service: j.service, Type: string(typ), Status: typ.Status(),
		URL: j.endpoint + "/" + secret, Endpoint: j.endpoint, WebhookID: callback.ID(j.key(), n), Body: body, Reason: d.Reason, At: d.At, Attempts: d.Attempts,
	}
}

// refuse records a rejected message, as ingest does, and returns its log key.
func (w *writer) refuse(at time.Time, id, service, code, message, body string, problems ...*jobsv1.Problem) string {
	w.t.Helper()
	logKey := event.RejectedLogKey(id, []byte(body))
	w.at(at, func() {
		w.must(w.Refuse(w.t.Context(), broker.Refusal{
			Rejection: broker.Rejection{LogKey: logKey, Body: []byte(body), ID: id, Service: service, Problems: problems},
			Code:      code, Message: message, Source: event.SourceOfQueue("default", "jobs"), At: at,
		}))
	})
	return logKey
}

// reports repeats what replicas say of themselves until the test ends: STATUS keeps
// it for a minute.
func (w *writer) reports(statuses ...broker.Status) {
	w.t.Helper()
	report := func(ctx context.Context) (err error) {
		for _, s := range statuses {
			s.At = time.Now().UTC()
			err = errors.Join(err, w.Report(ctx, s))
		}
		return err
	}
	w.must(report(w.t.Context()))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = report(ctx) // NATS may be stopped by the test
			}
		}
	}()
	w.t.Cleanup(func() { stop(); <-done })
}

// replica is what a healthy one says.
func replica(role, instance string, checks ...string) broker.Status {
	s := broker.Status{Role: role, Instance: instance, Version: "v0.9.0", Started: time.Now().Add(-26 * time.Hour), Ready: true, Checks: map[string]string{"nats": "ok"}}
	for c := range slices.Chunk(checks, 2) {
		s.Checks[c[0]] = c[1]
	}
	return s
}
