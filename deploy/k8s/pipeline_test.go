package k8s_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// TestThePipelineRunsWithTheseAccounts: from SQS to the webhook, launcher and watcher with
// nothing but the tokens of their accounts, under the admission policies and in a
// namespace for Jobs; a Job that completes and one that fails. With their rights in all
// namespaces, and in one alone. The console, with what its component sets, shows them to
// who has a password.
func TestThePipelineRunsWithTheseAccounts(t *testing.T) {
	for name, components := range map[string][]string{"all namespaces": nil, "one namespace": {"COMPONENTS/one-namespace"}} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t)
			p.install(t)
			all := overlay(t, "resources: [BASE]\ncomponents: ["+strings.Join(append(components, "COMPONENTS/console"), ", ")+"]\n")
			if components != nil {
				p.apply(t, running(all))
				for _, name := range []string{"jobrelay-launcher", "jobrelay-watcher"} { // as apply --prune does
					if err := p.client.RbacV1().ClusterRoleBindings().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			// What the ConfigMap says, but for where the parts are.
			for _, m := range of[corev1.ConfigMap](t, all, "ConfigMap") {
				for name, value := range m.Data {
					if strings.HasPrefix(name, "JOBRELAY_") {
						t.Setenv(name, value)
					}
				}
			}
			for _, e := range ours(t, all)["console"].Spec.Template.Spec.Containers[0].Env {
				t.Setenv(e.Name, e.Value)
			}
			s := newStack(t, p)
			for _, image := range []string{"sim/succeed:100ms", "sim/exit:3"} {
				s.send(t, image)
			}
			want := map[string]string{"/sim/succeed:100ms": "0 1 2", "/sim/exit:3": "0 1 3"}
			await.That(t, fmt.Sprint(want), func() bool {
				got := s.statuses(t)
				for path, statuses := range want {
					if got[path] != statuses {
						return false
					}
				}
				return true
			})
			await.That(t, "the Jobs are let go", func() bool {
				jobs, err := p.client.BatchV1().Jobs("jobs").List(t.Context(), metav1.ListOptions{LabelSelector: "jobrelay.dev/key"})
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range jobs.Items {
					if j.Labels["app"] == s.service && len(j.Finalizers) > 0 {
						return false
					}
				}
				return true
			})
			t.Log(s.statuses(t))
			s.looks(t)
		})
	}
}

// stack is the services and the console in this process, and real parts around them.
type stack struct {
	service string
	hooks   *hookd.Server
	queue   *sqsqueue.Queue
	pages   string // address of the console
}

func newStack(t *testing.T, p *plane) *stack {
	t.Helper()
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	q, err := sqsd.Start(sqsd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Stop(context.Background()) })
	address, err := q.CreateQueue("jobs", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{service: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(filepath.Base(t.Name())))}
	if s.hooks, err = hookd.Start(hookd.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.hooks.Stop(context.Background()) })
	if s.queue, err = sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: address, Endpoint: q.URL(), Region: "us-east-1"}); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	text, err := os.ReadFile("base/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(policy, text, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--nats-url=" + n.URL(), "--topology=create", "--metrics-addr=127.0.0.1:0"}
	rules := "--policy-file=" + policy
	parse := func(cfg any, vars map[string]string, more ...string) {
		t.Helper()
		if err := process.Parse(cfg, vars, append(more, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	var in ingest.Config
	var la launcher.Config
	var wa watcher.Config
	var no notifier.Config
	var co console.Config
	parse(&in, nil, rules, "--sqs-queue-url="+address)
	in.Endpoint, in.Region = q.URL(), "us-east-1"
	parse(&la, nil, rules, "--kubeconfig="+p.kubeconfigOf(t, "launcher"))
	parse(&wa, nil, rules, "--kubeconfig="+p.kubeconfigOf(t, "watcher"))
	parse(&no, notifier.Vars(), rules, "--webhook-allow=127.0.0.0/8")
	parse(&co, nil, "--listen=127.0.0.1:0", "--users-file="+usersFile(t))
	pages := make(chan string, 1)
	co.OnListen = func(address string) { pages <- address }
	// The console makes no streams, and ends where there are none.
	b, err := broker.Open(t.Context(), broker.Config{URL: n.URL(), Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()

	ctx, cancel := context.WithCancel(context.Background())
	var services sync.WaitGroup
	run := func(role string, service func(zerolog.Logger) error) {
		services.Go(func() {
			if err := service(zerolog.New(os.Stderr).Level(zerolog.WarnLevel).With().Str("role", role).Logger()); err != nil {
				t.Errorf("%s: %v", role, err)
			}
		})
	}
	run("ingest", func(l zerolog.Logger) error { return ingest.Run(ctx, in, l) })
	run("launcher", func(l zerolog.Logger) error { return launcher.Run(ctx, la, l) })
	run("watcher", func(l zerolog.Logger) error { return watcher.Run(ctx, wa, l) })
	run("notifier", func(l zerolog.Logger) error { return notifier.Run(ctx, no, l) })
	run("console", func(l zerolog.Logger) error { return console.Run(ctx, co, l) })
	t.Cleanup(func() {
		cancel()
		q.EndPolls()
		services.Wait()
	})
	select {
	case address := <-pages:
		s.pages = "http://" + address
	case <-t.Context().Done():
		t.Fatal("the console does not listen")
	}
	return s
}

const password = "correct horse"

// usersFile is the Secret of the console, with ada in it.
func usersFile(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), 8)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(name, append([]byte("ada:"), hash...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// looks reads the console's pages: with a password the Jobs are there, without one
// nothing is.
func (s *stack) looks(t *testing.T) {
	t.Helper()
	get := func(path string, login bool) (status int, body string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.pages+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if login {
			req.SetBasicAuth("ada", password)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	job := "/jobs/" + event.Key(t.Name()+" sim/exit:3")
	for path, want := range map[string]string{"/": `data-count="failed"`, "/jobs": s.service, job: "sim/exit:3"} {
		await.That(t, path+" shows "+want, func() bool {
			status, body := get(path, true)
			return status == http.StatusOK && strings.Contains(body, want)
		})
		if status, body := get(path, false); status != http.StatusUnauthorized || strings.Contains(body, want) {
			t.Errorf("%s without a password: %d\n%s", path, status, body)
		}
	}
}

// send asks for a Job of an image, whose callbacks go to a path of its name.
func (s *stack) send(t *testing.T, image string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"id": t.Name() + " " + image, "service": s.service,
		"job":     map[string]any{"prefixName": "deployed", "namespace": "jobs", "image": image, "command": []string{"run"}},
		"webhook": map[string]any{"url": s.hooks.URL() + "/" + image},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.queue.Send(t.Context(), body); err != nil {
		t.Fatal(err)
	}
}

// statuses are those of the callbacks that came, in their order, by their path.
func (s *stack) statuses(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, c := range s.hooks.Calls() {
		var body struct{ Status int }
		if err := json.Unmarshal(c.Body, &body); err != nil {
			t.Fatal(err)
		}
		out[c.Path] = strings.TrimSpace(fmt.Sprint(out[c.Path], " ", body.Status))
	}
	return out
}
