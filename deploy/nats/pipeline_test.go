package nats_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/pkg/webhook"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// TestThePipelineRunsWithThesePermissions runs the four services, each with its own
// nkey, verifying what the operator applied, on a server with this folder's files as
// they are: jobs that wait for each other, a rejection, a pause and a cancellation. The
// console shows them, with either of its users.
func TestThePipelineRunsWithThesePermissions(t *testing.T) {
	t.Run("in one account", func(t *testing.T) { services(t, &secured{t: t, keys: t.TempDir()}, "jobrelay.conf") })
	t.Run("apart", func(t *testing.T) { services(t, &secured{t: t, keys: t.TempDir(), api: broker.TapAPI}, "apart.conf") })
}

func services(t *testing.T, s *secured, accounts string) {
	s.nats = s.run(s.configuration("server.conf", accounts))
	must[[]broker.Change](t, "topology")(broker.ApplyTopology(t.Context(), s.open(broker.RoleOperator).JetStream(), 1))
	allServices(t, s, nil)
	for _, user := range []string{broker.RoleConsole, broker.RoleActions} {
		pages(t, s, user, whatHappened())
	}
}

// allServices runs them; meanwhile, where it is given, is done to NATS at the same time.
func allServices(t *testing.T, s *secured, meanwhile func()) {
	operator := s.open(broker.RoleOperator)
	shared := kubedtest.Shared(t)
	namespace := shared.Namespace(t)
	sqs := must[*sqsd.Server](t, "SQS")(sqsd.Start(sqsd.Config{}))
	t.Cleanup(func() { _ = sqs.Stop(context.Background()) })
	url := must[string](t, "queue")(sqs.CreateQueue("jobs", nil))
	hooks := must[*hookd.Server](t, "webhooks")(hookd.Start(hookd.Config{}))
	t.Cleanup(func() { _ = hooks.Stop(context.Background()) })

	policy := filepath.Join(t.TempDir(), "policy.yaml")
	mustDo(t, "policy", os.WriteFile(policy, []byte("default: {maxActive: 1}\n"), 0o600))
	said := &await.Text{}
	log := zerolog.New(said)
	var in ingest.Config
	var la launcher.Config
	var wa watcher.Config
	var no notifier.Config
	flags := func(role string, more ...string) []string {
		return append(more, "--nats-url="+s.nats.URL(), "--nats-nkey="+s.seed(role), "--nats-api-prefix="+s.api, "--nats-ca="+s.ca, "--topology=verify", "--metrics-addr=127.0.0.1:0", "--installation="+namespace, "--instance=one", "--policy-file="+policy)
	}
	mustDo(t, "flags", errors.Join(
		process.Parse(&in, nil, flags(broker.RoleIngest, "--sqs-queue-url="+url)...),
		process.Parse(&la, nil, flags(broker.RoleLauncher, "--kubeconfig="+shared.Kubeconfig())...),
		process.Parse(&wa, nil, flags(broker.RoleWatcher, "--kubeconfig="+shared.Kubeconfig(), "--lease-namespace="+namespace)...),
		process.Parse(&no, notifier.Vars(), flags(broker.RoleNotifier, "--webhook-allow="+webhook.Loopback, "--retry-schedule=0s,1s,1s")...),
	))
	in.Endpoint, in.Region = sqs.URL(), "us-east-1"
	ctx, cancel := context.WithCancel(context.Background())
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return ingest.Run(ctx, in, log) })
	running.Go(func() error { return launcher.Run(ctx, la, log) })
	running.Go(func() error { return watcher.Run(ctx, wa, log) })
	running.Go(func() error { return notifier.Run(ctx, no, log) })
	t.Cleanup(func() {
		cancel()
		sqs.EndPolls()
		if err := running.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		refusal := `(?i).*permissions violation.*`
		if meanwhile == nil {
			refusal = `(?i).*(permissions violation|no acknowledgement in).*`
		}
		if lines := regexp.MustCompile(refusal).FindAllString(said.String(), -1); lines != nil {
			t.Errorf("NATS refused a service something:\n%s", strings.Join(lines, "\n"))
		}
	})

	mustDo(t, "pause", operator.SetPause(t.Context(), broker.Pause{Service: "paused", Paused: true, At: time.Now()}))
	if meanwhile != nil {
		var faults sync.WaitGroup
		faults.Go(meanwhile)
		defer faults.Wait()
	}
	queue := must[*sqsqueue.Queue](t, "queue")(sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: url, Endpoint: sqs.URL(), Region: "us-east-1"}))
	bodies := [][]byte{[]byte(`{"id":"refused","service":"s","webhook":{"url":"` + hooks.URL() + `/refused"}}`)}
	for id, service := range map[string]string{"one": "s", "two": "s", "cancelled": "paused"} {
		bodies = append(bodies, fmt.Appendf(nil, `{"id":%q,"service":%q,"job":{"prefixName":"p","namespace":%q,"image":"busybox","command":["true"]},"webhook":{"url":%q}}`, id, service, namespace, hooks.URL()+"/"+id))
	}
	mustDo(t, "send", queue.SendAll(t.Context(), func(yield func(sqsqueue.Outgoing) bool) {
		for _, b := range bodies {
			if !yield(sqsqueue.Outgoing{Body: b}) {
				return
			}
		}
	}, func(s sqsqueue.Sent) { mustDo(t, "send", s.Err) }))
	await.That(t, "the paused request is accepted", func() bool {
		_, err := operator.Request(t.Context(), event.Key("cancelled"))
		return err == nil
	})
	await.That(t, "the command is stored", func() bool {
		return operator.Cancel(t.Context(), broker.Cancel{ID: "cancelled", At: time.Now()}) == nil
	})

	want := map[string][]int{"/refused": {99}, "/one": {0, 1, 2}, "/two": {0, 1, 2}, "/cancelled": {99}}
	wait, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	got := map[string][]int{}
	if err := hooks.Wait(wait, func(calls []hookd.Call) bool {
		clear(got)
		n := 0
		for _, c := range calls {
			var body struct{ Status int }
			if json.Unmarshal(c.Body, &body) == nil && !slices.Contains(got[c.Path], body.Status) {
				got[c.Path] = append(got[c.Path], body.Status)
				n++
			}
		}
		return n >= 8
	}); err != nil {
		t.Errorf("%v: %v\n%s", err, got, said)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("callbacks %v, not %v", got, want)
	}
	await.That(t, "the operator reads a log", func() bool {
		tail, err := operator.Tail(t.Context(), "s", event.Key("one"))
		return err == nil && tail.Last.Type == event.TypeJobCompleted
	})
}
