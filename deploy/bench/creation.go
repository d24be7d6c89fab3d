package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
)

const (
	creationJobs     = 1500
	creationInFlight = 32
	installation     = "bench"
	writesPerJob     = "write calls/job"
)

// creation is B2: how fast the launcher turns requests that wait for it into
// Jobs. A quota forbids Pods, so that the API server does little else.
var creation = row{
	ID: "B2", Title: "Job creation", Unit: "jobs/s",
	Ours: "launcher", Bare: "bare client-go create",
	Goals: []goal{{"", atLeast, 0.95}, {writesPerJob, exactly, 1}},
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return runCreation(ctx, s, which, (*kube).forbidPods)
	},
}

// creationWithPods is B2 in a cluster whose controllers start every Job.
var creationWithPods = row{
	ID: "B2pods", Title: "Job creation, Pods follow", Unit: "jobs/s",
	Ours: "launcher", Bare: "bare client-go create",
	Goals: []goal{{"", atLeast, 0.95}, {writesPerJob, exactly, 1}},
	Slow:  true,
	Run: func(ctx context.Context, s *stage, which side) (result, error) {
		return runCreation(ctx, s, which, func(*kube, context.Context) error { return nil })
	},
}

func runCreation(ctx context.Context, s *stage, which side, prepare func(*kube, context.Context) error) (result, error) {
	k, err := s.kubernetes(ctx)
	if err != nil {
		return result{}, err
	}
	if err := prepare(k, ctx); err != nil {
		return result{}, err
	}
	nats, err := s.nats(ctx) // idle where the bare loop runs
	if err != nil {
		return result{}, err
	}
	n := s.size(creationJobs)
	if which == ours {
		if err := accept(ctx, s, nats, n, k.namespace); err != nil {
			return result{}, err
		}
	}
	before, err := k.counts(ctx)
	if err != nil {
		return result{}, err
	}
	p, err := s.creating(which, k, nats, n)
	if err != nil {
		return result{}, err
	}
	work, err := s.until(ctx, n, "job", p, k.jobs)
	if err != nil {
		return result{}, err
	}
	after, err := k.counts(ctx)
	// A request is counted once its answer is out, when its Job is listed already.
	for counted := time.Now(); err == nil && after.writes()-before.writes() < float64(n) && time.Since(counted) < slow; {
		if err = process.Sleep(ctx, look); err == nil {
			after, err = k.counts(ctx)
		}
	}
	if err != nil {
		return result{}, err
	}
	out := result{Rate: work.rate, Counters: work.counters}
	out.Counters[writesPerJob] = (after.writes() - before.writes()) / float64(n)
	out.Counters["CPU µs/job, kubernetes"] = (after.sum("process_cpu_seconds_total") - before.sum("process_cpu_seconds_total")) * 1e6 / float64(n)
	if which == ours {
		out.JetStream, err = nats.setting(ctx, broker.StreamRequests)
	}
	return out, err
}

// creating starts the side of the row: the launcher, or the bare loop.
func (s *stage) creating(which side, k *kube, nats natsServer, n int) (*child.Process, error) {
	if which == bare {
		return s.asSelf(bareCreation, []string{"KUBECONFIG=" + k.kubeconfig},
			"--namespace", k.namespace, "--jobs", strconv.Itoa(n), "--in-flight", strconv.Itoa(creationInFlight))
	}
	metrics, err := s.address()
	if err != nil {
		return nil, err
	}
	return s.measured("launcher", []string{
		"KUBECONFIG=" + k.kubeconfig, "JOBRELAY_NATS_URL=" + nats.url, "JOBRELAY_METRICS_ADDR=" + metrics,
		"JOBRELAY_INSTALLATION=" + installation, "JOBRELAY_LAUNCH_IN_FLIGHT=" + strconv.Itoa(creationInFlight),
	})
}

// requestOf is message i as ingest accepts it.
func requestOf(i int, namespace string) (*jobsv1.JobRequested, error) {
	body, err := messageOf(i, namespace)
	if err != nil {
		return nil, err
	}
	parsed := request.Parse(body, request.Options{})
	if parsed.Request == nil {
		return nil, fmt.Errorf("the sample is not accepted: %s", request.Sentence(parsed.Problems))
	}
	parsed.Request.AcceptedAt = timestamppb.Now()
	return parsed.Request, nil
}

// accept stores n requests, as ingest would have.
func accept(ctx context.Context, s *stage, nats natsServer, n int, namespace string) error {
	defer s.during("accepting %d requests", n)()
	b, err := broker.Open(ctx, broker.Config{URL: nats.url, Role: "bench", Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		return err
	}
	defer b.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range n {
		group.Go(func() error {
			r, err := requestOf(i, namespace)
			if err != nil {
				return err
			}
			e, err := event.New(event.Key(r.GetId()), event.SourceOfQueue(installation, queueName), r.GetId(), 0, r.GetAcceptedAt().AsTime(), r)
			if err != nil {
				return err
			}
			return b.Accept(ctx, e)
		})
	}
	return group.Wait()
}

// bareCreation is the role of the bare loop.
const bareCreation = "bare-creation"

func bareCreationMain() int {
	var cfg struct {
		Kubeconfig string `env:"KUBECONFIG"`
		Namespace  string `required:""`
		Jobs       int    `required:""`
		InFlight   int    `default:"1"`
	}
	return process.Main(bareCreation, "Creates Jobs, and does nothing else.", time.Second, &cfg, nil, func(ctx context.Context, _ *kong.Context) error {
		client, err := cluster.Client(cfg.Kubeconfig, bareCreation, process.Version())
		if err != nil {
			return err
		}
		jobs := make([]*batchv1.Job, cfg.Jobs)
		for i := range jobs {
			r, err := requestOf(i, cfg.Namespace)
			if err != nil {
				return err
			}
			if jobs[i], err = kubejob.Build(r, installation, kubejob.Name(r.GetJob().GetPrefixName(), r.GetId())); err != nil {
				return err
			}
		}
		group, inGroup := errgroup.WithContext(ctx)
		group.SetLimit(cfg.InFlight)
		for _, j := range jobs {
			group.Go(func() error {
				_, err := client.BatchV1().Jobs(cfg.Namespace).Create(inGroup, j, metav1.CreateOptions{})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		<-ctx.Done() // what it has done is looked at while it is there
		return nil
	})
}
