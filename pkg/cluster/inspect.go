package cluster

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Inspection is what an API server looks like to one account.
type Inspection struct {
	Version string
	Account string        // empty: it does not say
	Skew    time.Duration // the API server's clock less ours, in whole seconds
	Denied  []Permission  // of those that were asked for
}

// inspectTimeout bounds an inspection.
const inspectTimeout = 15 * time.Second

// Inspect asks the API server of a kubeconfig for permissions, and for who asks. now
// is our clock.
func Inspect(ctx context.Context, kubeconfig, version string, now func() time.Time, needs []Permission) (Inspection, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	var in Inspection
	clock := &clock{now: now}
	client, err := Client(kubeconfig, "doctor", version, clock.wrap)
	if err != nil {
		return in, err
	}
	server, err := client.Discovery().ServerVersion()
	if err != nil {
		return in, fmt.Errorf("the API server does not answer: %w", err)
	}
	in.Version = server.GitVersion
	access := NewAccess(client, zerolog.Nop())
	for _, need := range needs {
		allowed, err := access.ask(ctx, need)
		if err != nil {
			return in, fmt.Errorf("the API server cannot be asked for permissions: %w", err)
		}
		if !allowed {
			in.Denied = append(in.Denied, need)
		}
	}
	// Kubernetes 1.28 or later; who asks is for people alone.
	if who, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err == nil {
		in.Account = who.Status.UserInfo.Username
	}
	in.Skew = clock.skew()
	return in, nil
}

// TryJob asks the API server whether it would take a small Job of an installation in
// a namespace, and creates none (dry run): quotas, Pod Security and admission
// policies have their say. Its error is one sentence.
func TryJob(ctx context.Context, kubeconfig, version, installation, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	client, err := Client(kubeconfig, "doctor", version)
	if err != nil {
		return err
	}
	return tryJob(ctx, client, installation, namespace)
}

func tryJob(ctx context.Context, client kubernetes.Interface, installation, namespace string) error {
	const id = "jobrelay doctor"
	job, err := kubejob.Build(&jobsv1.JobRequested{
		Id: id, Service: "doctor", Hash: "doctor",
		Job: &jobsv1.Job{
			PrefixName: "doctor", Namespace: namespace, Image: "doctor", Command: []string{"doctor"}, ServiceAccount: "default",
			TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 60,
		},
	}, installation, kubejob.Name("doctor", id))
	if err != nil {
		return err
	}
	_, err = client.BatchV1().Jobs(namespace).Create(ctx, job, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil {
		return nil
	}
	v := Classify(err)
	return fmt.Errorf("%s: %s", v.Code, v.Message)
}

// clock notes what the answers' Date says.
type clock struct {
	now  func() time.Time
	mu   sync.Mutex
	last time.Duration
}

func (c *clock) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *clock) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		asked := c.now()
		res, err := next.RoundTrip(r)
		if err != nil {
			return res, err
		}
		if at, parseErr := http.ParseTime(res.Header.Get("Date")); parseErr == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.last = at.Sub(asked.Add(c.now().Sub(asked) / 2)).Truncate(time.Second)
		}
		return res, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
