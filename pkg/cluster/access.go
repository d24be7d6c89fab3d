package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	accessEvery   = 15 * time.Second // between two looks while all is well
	accessRetry   = 2 * time.Second  // and while it is not
	accessTimeout = 5 * time.Second  // of one question
)

// Permission is one thing that a service must be allowed to do.
type Permission struct {
	Verb, Group, Resource string
	Subresource           string // empty: the resource itself
	Namespace             string // empty: in all
}

func (p Permission) String() string {
	resource, where := p.Resource, "in all namespaces"
	if p.Subresource != "" {
		resource += "/" + p.Subresource
	}
	if p.Group != "" {
		resource += "." + p.Group
	}
	if p.Namespace != "" {
		where = "in namespace " + p.Namespace
	}
	return fmt.Sprintf("%s %s %s", p.Verb, resource, where)
}

// Access knows whether the API server can be reached and allows what a service
// needs.
type Access struct {
	client kubernetes.Interface
	needs  []Permission
	log    zerolog.Logger

	mu  sync.Mutex
	now error
}

// NewAccess knows nothing before Watch.
func NewAccess(client kubernetes.Interface, log zerolog.Logger, needs ...Permission) *Access {
	return &Access{client: client, needs: needs, log: log, now: errors.New("waiting for Kubernetes")}
}

// Ready says what stands against the service's work in Kubernetes, or nil, as
// of the last look.
func (a *Access) Ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now
}

// Watch looks again and again until ctx ends, and logs what changes.
func (a *Access) Watch(ctx context.Context) {
	said := ""
	for {
		err := a.look(ctx)
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		a.now = err
		a.mu.Unlock()
		wait := accessEvery
		if err != nil {
			wait = accessRetry
			if err.Error() != said {
				a.log.Warn().Err(err).Msg("waiting for Kubernetes")
			}
			said = err.Error()
		} else if said != "" {
			a.log.Info().Msg("Kubernetes is reachable, with the permissions needed")
			said = ""
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// look asks the API server itself (SelfSubjectAccessReview, which every
// authenticated account may create).
func (a *Access) look(ctx context.Context) error {
	var denied []string
	for _, need := range a.needs {
		allowed, err := a.ask(ctx, need)
		if err != nil {
			return fmt.Errorf("Kubernetes cannot be asked: %w", err)
		}
		if !allowed {
			denied = append(denied, need.String())
		}
	}
	if len(denied) > 0 {
		return fmt.Errorf("Kubernetes does not allow: %s; grant it to the account of KUBECONFIG or of the Pod", strings.Join(denied, ", "))
	}
	return nil
}

func (a *Access) ask(ctx context.Context, p Permission) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, accessTimeout)
	defer cancel()
	answer, err := a.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: p.Namespace, Verb: p.Verb, Group: p.Group, Resource: p.Resource, Subresource: p.Subresource,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}
