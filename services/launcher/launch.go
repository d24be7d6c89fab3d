package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "k8s.io/client-go/kubernetes/typed/batch/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
)

const (
	// decisionAge is how old a reading of the log may be when the create is
	// sent: a process that was frozen in between reads again.
	decisionAge = 10 * time.Second
	// callTimeout bounds one call to the API server.
	callTimeout = 30 * time.Second
	minRetry    = time.Second
	maxRetry    = time.Minute
)

// launcher creates the Job of each request, once.
type launcher struct {
	broker       *broker.Broker
	jobs         batch.JobsGetter
	log          zerolog.Logger
	now          func() time.Time
	installation string
	deadline     time.Duration // from acceptance, where the policy says no other
	policy       func() *request.Policy
	metrics      *metrics
}

// wakeup is the payload of a parked launch.
type wakeup struct {
	Key   string `json:"key"`
	Tries int    `json:"tries"`
}

// requested handles a message of REQUESTS.
func (l *launcher) requested(ctx context.Context, m broker.Message) error {
	e, err := broker.DecodeRequest(m.Header, m.Data)
	if err != nil {
		return broker.Permanent(err)
	}
	return l.launch(ctx, e, 0, m.Delivered > 1)
}

// woken handles a launch that was parked.
func (l *launcher) woken(ctx context.Context, m broker.Message) error {
	var w wakeup
	if err := json.Unmarshal(m.Data, &w); err != nil {
		return broker.Permanent(fmt.Errorf("wake-up: %w", err))
	}
	e, err := l.broker.Request(ctx, w.Key)
	if errors.Is(err, broker.ErrNotFound) {
		return nil // past its retention
	}
	if err != nil {
		return err
	}
	return l.launch(ctx, e, w.Tries, true)
}

// launch brings one request to where its log has an event. again says that it
// may have been tried before: its Job may exist.
func (l *launcher) launch(ctx context.Context, e event.Event, tries int, again bool) error {
	r, ok := e.Data.(*jobsv1.JobRequested)
	if !ok {
		return broker.Permanent(fmt.Errorf("%s is no request", e.Type))
	}
	read := l.now()
	tail, err := l.broker.Tail(ctx, r.GetService(), e.LogKey)
	if err != nil {
		return err
	}
	if !tail.Empty() {
		l.metrics.launches.WithLabelValues("known").Inc()
		return nil
	}
	var job *batchv1.Job
	if again {
		if job, err = l.find(ctx, r); err != nil {
			return l.failed(ctx, e, r, tail, tries, fmt.Errorf("%w: %w", errLook, err))
		}
	}
	adopted := job != nil
	if job == nil {
		if l.expired(r) && (tries == 0 || l.late(r)) {
			return l.exception(ctx, e, r, tail, jobstatus.LaunchExpired, "the launch deadline of "+l.deadlineOf(r).String()+" passed before its Job could be tried; send it again under another id")
		}
		// Ingest allowed it; the policy may have changed while it waited.
		if denied := l.policy().Check(r); len(denied) > 0 {
			return l.exception(ctx, e, r, tail, jobstatus.PolicyDenied, "The policy changed after the request was accepted: "+request.Sentence(denied))
		}
		if l.now().Sub(read) > decisionAge {
			return l.failed(ctx, e, r, tail, tries, errStale)
		}
		if job, adopted, err = l.create(ctx, r); err != nil {
			return l.failed(ctx, e, r, tail, tries, err)
		}
	}
	return l.started(ctx, e, r, tail, job, adopted)
}

// Causes of a failed launch that are not the create's own answer.
var (
	errNameTaken = errors.New("both of its names belong to Jobs of other ids")
	errLook      = errors.New("the Job that may be there cannot be looked at") // says nothing about the create
	errStale     = fmt.Errorf("the log was read more than %s ago", decisionAge)
	errBuild     = errors.New("the Job cannot be built")
)

// create sends the Job under its short name, or under its long one where
// another id has that. A Job of this very request is adopted.
func (l *launcher) create(ctx context.Context, r *jobsv1.JobRequested) (*batchv1.Job, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	jobs := l.jobs.Jobs(r.GetJob().GetNamespace())
	for _, name := range names(r) {
		job, err := kubejob.Build(r, l.installation, name)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", errBuild, err)
		}
		kubejob.Lay(job, l.policy().Rules(r.GetService()).JobTemplate)
		created, err := jobs.Create(ctx, job, metav1.CreateOptions{})
		if err == nil {
			return created, false, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, false, err
		}
		have, err := jobs.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", errLook, err)
		}
		if kubejob.Matches(have, r, l.installation) {
			return have, true, nil
		}
	}
	return nil, false, errNameTaken
}

// find is the Job that an earlier try made, under either name, or nil.
func (l *launcher) find(ctx context.Context, r *jobsv1.JobRequested) (*batchv1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, name := range names(r) {
		have, err := l.jobs.Jobs(r.GetJob().GetNamespace()).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if kubejob.Matches(have, r, l.installation) {
			return have, nil
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

func names(r *jobsv1.JobRequested) []string {
	prefix, id := r.GetJob().GetPrefixName(), r.GetId()
	return []string{kubejob.Name(prefix, id), kubejob.LongName(prefix, id)}
}

// started records the Job. A log that has moved on names either this Job
// (nothing is left to do) or shows that this one is surplus: the watcher
// removes it.
func (l *launcher) started(ctx context.Context, e event.Event, r *jobsv1.JobRequested, tail broker.Tail, job *batchv1.Job, adopted bool) error {
	outcome := "created"
	if adopted {
		outcome = "adopted"
	}
	next, err := l.event(e, r, jobstatus.Started(job, r))
	if err != nil {
		return err
	}
	_, err = l.broker.Append(ctx, r.GetService(), tail, next)
	if errors.Is(err, broker.ErrConflict) {
		now, err := l.broker.Tail(ctx, r.GetService(), e.LogKey)
		if err != nil {
			return err
		}
		if !about(now.Last, string(job.UID)) {
			outcome = "surplus"
		}
	} else if err != nil {
		return err
	}
	l.metrics.launches.WithLabelValues(outcome).Inc()
	l.log.Info().Str("id", r.GetId()).Str("key", e.LogKey).Str("service", r.GetService()).
		Str("namespace", job.Namespace).Str("job", job.Name).Str("outcome", outcome).Msg("job started")
	return nil
}

// about reports whether the event is about the Job with the UID.
func about(e event.Event, uid string) bool {
	d, ok := e.Data.(interface{ GetJobId() string })
	return ok && d.GetJobId() == uid
}

// failed parks the launch where another try may help, and ends the request
// with an exception where none will, or where its time is up.
func (l *launcher) failed(ctx context.Context, e event.Event, r *jobsv1.JobRequested, tail broker.Tail, tries int, cause error) error {
	v := l.verdict(cause)
	if v.Retry && !l.expired(r) {
		payload, err := json.Marshal(wakeup{Key: e.LogKey, Tries: tries + 1})
		if err != nil {
			return err
		}
		l.metrics.launches.WithLabelValues("parked").Inc()
		if tries == 0 {
			l.log.Warn().Str("id", r.GetId()).Str("key", e.LogKey).Str("service", r.GetService()).
				Str("code", string(v.Code)).Str("cause", v.Message).Msg("launch is parked and tried again")
		}
		return broker.RetryAfter(max(retryWait(tries), min(v.RetryAfter, maxRetry)),
			broker.Wakeup{Purpose: broker.PurposeLaunch, Token: e.LogKey, Payload: payload}, cause)
	}
	return l.exception(ctx, e, r, tail, v.Code, v.Message)
}

// deadlineOf is how long the request may wait, from its acceptance.
func (l *launcher) deadlineOf(r *jobsv1.JobRequested) time.Duration {
	if d := l.policy().Rules(r.GetService()).LaunchDeadline; d != nil {
		return d.Duration
	}
	return l.deadline
}

func (l *launcher) expired(r *jobsv1.JobRequested) bool {
	return l.now().After(r.GetAcceptedAt().AsTime().Add(l.deadlineOf(r)))
}

// late is past the deadline by more than a parked launch wakes up after it.
func (l *launcher) late(r *jobsv1.JobRequested) bool {
	return l.now().After(r.GetAcceptedAt().AsTime().Add(l.deadlineOf(r) + 2*maxRetry))
}

// exception ends a request that gets no Job.
func (l *launcher) exception(ctx context.Context, e event.Event, r *jobsv1.JobRequested, tail broker.Tail, code jobstatus.Code, message string) error {
	next, err := l.event(e, r, &jobsv1.JobException{
		JobName: kubejob.Name(r.GetJob().GetPrefixName(), r.GetId()), Namespace: r.GetJob().GetNamespace(),
		Error: &jobsv1.Error{ErrorCode: string(code), Message: message},
	})
	if err != nil {
		return err
	}
	if _, err := l.broker.Append(ctx, r.GetService(), tail, next); err != nil {
		return err // a conflict is decided again on redelivery
	}
	l.metrics.launches.WithLabelValues("exception").Inc()
	l.log.Warn().Str("id", r.GetId()).Str("key", e.LogKey).Str("service", r.GetService()).
		Str("code", string(code)).Str("cause", message).Msg("job not created")
	return nil
}

func (l *launcher) verdict(cause error) cluster.Verdict {
	switch {
	case errors.Is(cause, errLook), errors.Is(cause, errStale):
		return cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, Message: "The API server was not available until the launch deadline."}
	case errors.Is(cause, errBuild): // what was accepted can be built
		return cluster.Verdict{Code: jobstatus.InternalError, Message: "The accepted request could not be made into a Job; this is a defect of jobrelay."}
	case errors.Is(cause, errNameTaken):
		return cluster.Verdict{Code: jobstatus.NameConflict, Message: errNameTaken.Error() + "; send the request with another id or prefixName"}
	}
	return cluster.Classify(cause)
}

func (l *launcher) event(e event.Event, r *jobsv1.JobRequested, data proto.Message) (event.Event, error) {
	next, err := event.New(e.LogKey, event.SourceOfNamespace(l.installation, r.GetJob().GetNamespace()), r.GetId(), 0, l.now(), data)
	next.Trace = e.Trace
	return next, err
}

// retryWait doubles from a second to a minute, varied by a fifth.
func retryWait(tries int) time.Duration {
	d := minRetry << min(tries, 6)
	return time.Duration(float64(min(d, maxRetry)) * (0.8 + 0.4*rand.Float64()))
}
