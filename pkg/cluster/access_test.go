package cluster_test

import (
	"context"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
)

// TestAccessTellsWhatIsMissing asks a real API server as an account without
// rights, which then gets them one by one.
func TestAccessTellsWhatIsMissing(t *testing.T) {
	shared := kubedtest.Shared(t)
	namespace := shared.Namespace(t)
	config, err := cluster.Config(shared.Kubeconfig(), "test", "test")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "launcher"}}
	if _, err := admin.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "launcher", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own := rest.AnonymousClientConfig(config)
	own.BearerToken = token.Status.Token
	client, err := kubernetes.NewForConfig(own)
	if err != nil {
		t.Fatal(err)
	}
	access := cluster.NewAccess(client, zerolog.Nop(),
		cluster.Permission{Verb: "create", Group: "batch", Resource: "jobs", Namespace: namespace},
		cluster.Permission{Verb: "list", Resource: "pods", Namespace: namespace},
		cluster.Permission{Verb: "get", Resource: "pods", Subresource: "log", Namespace: namespace})
	if err := access.Ready(); err == nil || !strings.Contains(err.Error(), "waiting for Kubernetes") {
		t.Errorf("at first: %v", err)
	}
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { access.Watch(watching); close(ended) }()
	says := func(wants ...string) {
		t.Helper()
		await.That(t, strings.Join(wants, ", "), func() bool {
			err := access.Ready()
			if err == nil {
				return len(wants) == 0
			}
			for _, want := range wants {
				if !strings.Contains(err.Error(), want) {
					return false
				}
			}
			return len(wants) > 0
		})
	}
	grant := func(name string, rule rbacv1.PolicyRule) {
		t.Helper()
		if _, err := admin.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "launcher"}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	says("create jobs.batch in namespace "+namespace, "list pods in namespace "+namespace, "get pods/log in namespace "+namespace)
	grant("jobs", rbacv1.PolicyRule{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create"}})
	await.That(t, "one permission less", func() bool {
		err := access.Ready()
		return err != nil && !strings.Contains(err.Error(), "create jobs") && strings.Contains(err.Error(), "list pods")
	})
	grant("pods", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "get"}})
	await.That(t, "the log alone", func() bool {
		err := access.Ready()
		return err != nil && !strings.Contains(err.Error(), "list pods") && strings.Contains(err.Error(), "get pods/log")
	})
	grant("logs", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}})
	says()
	stop()
	<-ended
}

func TestAccessToNobody(t *testing.T) {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	access := cluster.NewAccess(client, zerolog.Nop(), cluster.Permission{Verb: "get", Resource: "pods"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go access.Watch(ctx)
	await.That(t, "the refused connection", func() bool {
		err := access.Ready()
		return err != nil && strings.Contains(err.Error(), "cannot be asked")
	})
}
