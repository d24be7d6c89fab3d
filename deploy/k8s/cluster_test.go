// Package k8s_test applies what is in this folder to a real API server, and tries
// what each role's token can do there. What needs no API server is in render_test.go
// and network_test.go.
package k8s_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
)

// The control plane of these tests is their own: cluster roles and admission
// policies are not in a namespace.
var control struct {
	sync.Mutex
	*kubed.Cluster

	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if control.Cluster != nil {
		if err := control.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.RemoveAll(control.dir)
	}
	os.Exit(code)
}

var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// plane is the control plane, as its administrator sees it.
type plane struct {
	config  *rest.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	control.Lock()
	defer control.Unlock()
	if control.Cluster == nil {
		dir, err := os.MkdirTemp("", "jobrelay-deploy-")
		if err != nil {
			t.Fatal(err)
		}
		control.dir = dir
		if control.Cluster, err = kubed.Start(context.Background(), kubed.Config{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	config, err := cluster.Config(control.Kubeconfig(), "test", "test")
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{config: config, client: kubernetes.NewForConfigOrDie(config)}
	p.dynamic = dynamic.NewForConfigOrDie(config)
	p.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(p.client.Discovery()))
	return p
}

// apply is `kubectl apply --server-side --validate=strict` of the objects: a field that
// the API server does not know, or refuses, ends the test. Namespaces go first.
func (p *plane) apply(t *testing.T, all objects) {
	t.Helper()
	first := func(o *unstructured.Unstructured) int {
		return slices.Index([]string{"CustomResourceDefinition", "Namespace"}, o.GetKind())
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b *unstructured.Unstructured) int { return first(b) - first(a) })
	for _, o := range all {
		mapping, err := p.mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		if err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		body, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		force := true
		_, err = p.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace()).Patch(t.Context(), o.GetName(), types.ApplyPatchType, body,
			metav1.PatchOptions{FieldManager: "test", FieldValidation: metav1.FieldValidationStrict, Force: &force})
		if err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// applyCRDs installs the published schemas of the kinds that are not Kubernetes' own.
func (p *plane) applyCRDs(t *testing.T) {
	t.Helper()
	p.apply(t, render(t, "testdata/crds"))
	for _, kind := range []string{"servicemonitors.monitoring.coreos.com", "scaledobjects.keda.sh", "triggerauthentications.keda.sh"} {
		await.That(t, kind, func() bool {
			crd, err := p.dynamic.Resource(crds).Get(t.Context(), kind, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
			return slices.ContainsFunc(conditions, func(c any) bool {
				condition := c.(map[string]any)
				return condition["type"] == "Established" && condition["status"] == "True"
			})
		})
	}
	p.mapper.Reset()
}

// install applies the production overlay with the console, and a namespace for Jobs, and
// waits until both roles' rights and the admission policies are in force.
func (p *plane) install(t *testing.T) {
	t.Helper()
	p.applyCRDs(t)
	p.apply(t, running(withConsole.render(t)))
	p.apply(t, render(t, "job-namespace"))
	p.awaitPolicies(t)
}

func (p *plane) awaitPolicies(t *testing.T) {
	t.Helper()
	launcher, watcher := p.as(t, "launcher"), p.as(t, "watcher")
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	await.That(t, "the launcher's rights and its policy", func() bool {
		_, good := launcher.BatchV1().Jobs("jobs").Create(t.Context(), job("jobs", "await"), dry)
		bad := job("jobs", "await")
		bad.Name = "another"
		_, err := launcher.BatchV1().Jobs("jobs").Create(t.Context(), bad, dry)
		_, elsewhere := launcher.BatchV1().Jobs("kube-system").Get(t.Context(), "nobody", metav1.GetOptions{})
		return good == nil && err != nil && apierrors.IsNotFound(elsewhere)
	})
	foreign := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{GenerateName: "foreign-", Labels: map[string]string{"app": "other"}}, Spec: job("jobs", "await").Spec}
	foreign, err := p.client.BatchV1().Jobs("jobs").Create(t.Context(), foreign, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await.That(t, "the watcher's rights and its policy", func() bool {
		_, seen := watcher.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{Limit: 1})
		return seen == nil && watcher.BatchV1().Jobs("jobs").Delete(t.Context(), foreign.Name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}) != nil
	})
}

// tokenOf is a token of an account, as a Pod gets it.
func (p *plane) tokenOf(t *testing.T, namespace, account string) string {
	t.Helper()
	token, err := p.client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// configOf speaks to the API server with nothing but an account's token.
func (p *plane) configOf(t *testing.T, namespace, account string) *rest.Config {
	t.Helper()
	own := rest.AnonymousClientConfig(p.config)
	own.BearerToken, own.QPS = p.tokenOf(t, namespace, account), -1
	return own
}

// as is a role of the installation in the namespace jobrelay.
func (p *plane) as(t *testing.T, role string) kubernetes.Interface {
	t.Helper()
	return kubernetes.NewForConfigOrDie(p.configOf(t, "jobrelay", "jobrelay-"+role))
}

// kubeconfigOf is a file with nothing but a role's token.
func (p *plane) kubeconfigOf(t *testing.T, role string) string {
	t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: p.config.Host, CertificateAuthorityData: p.config.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: p.tokenOf(t, "jobrelay", "jobrelay-"+role)}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: "jobrelay"}
	file.CurrentContext = "x"
	name := filepath.Join(t.TempDir(), role+".kubeconfig")
	if err := clientcmd.WriteToFile(*file, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// running has the services' containers run on a simulated node until they are deleted.
func running(all objects) objects {
	var out objects
	for _, o := range all {
		o = o.DeepCopy()
		if containers, ok, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers"); ok {
			for _, c := range containers {
				c.(map[string]any)["image"] = "sim/hang"
			}
			_ = unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers")
		}
		out = append(out, o)
	}
	return out
}

// TestEveryRootIsAccepted applies each overlay, and each component on the base, for
// real: the API server takes every object with strict validation, Pod Security takes the
// Pods, and they run (of a production that wants a node for each replica, one:
// the other simulated node is tainted). ServiceMonitor, ScaledObject and TriggerAuthentication
// are checked against the schemas that their projects publish.
func TestEveryRootIsAccepted(t *testing.T) {
	p := newPlane(t)
	p.applyCRDs(t)
	p.apply(t, render(t, "job-namespace"))
	for _, r := range roots(t) {
		t.Run(r.name, func(t *testing.T) {
			all := running(r.render(t))
			p.apply(t, all)
			t.Cleanup(func() {
				if r.namespace != "jobrelay" {
					_ = p.client.CoreV1().Namespaces().Delete(context.Background(), r.namespace, metav1.DeleteOptions{})
				}
			})
			want := ours(t, all)
			for role, d := range want {
				await.That(t, role+" runs", func() bool {
					now, err := p.client.AppsV1().Deployments(r.namespace).Get(t.Context(), d.Name, metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					return now.Status.ObservedGeneration == now.Generation && now.Status.UpdatedReplicas == *now.Spec.Replicas && now.Status.ReadyReplicas >= 1
				})
			}
			pods, err := p.client.CoreV1().Pods(r.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component"})
			if err != nil {
				t.Fatal(err)
			}
			for _, pod := range pods.Items {
				role := pod.Labels["app.kubernetes.io/component"]
				token := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
					return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil })
				})
				if token != (role == "launcher" || role == "watcher") {
					t.Errorf("%s: a token is mounted: %v", pod.Name, token)
				}
			}
			t.Logf("%d objects accepted, %d Pods of %d roles admitted by Pod Security", len(all), len(pods.Items), len(want))
		})
	}
}

// TestPodSecurity: what is less strict than our own Pods has no place beside them.
func TestPodSecurity(t *testing.T) {
	p := newPlane(t)
	p.install(t)
	yes := true
	for name, change := range map[string]func(*corev1.PodSpec){
		"as root":           func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.RunAsNonRoot = nil },
		"privileged":        func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.Privileged = &yes },
		"with privileges":   func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.AllowPrivilegeEscalation = &yes },
		"with capabilities": func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.Capabilities = nil },
		"without seccomp":   func(s *corev1.PodSpec) { s.Containers[0].SecurityContext.SeccompProfile = nil },
		"on the host's net": func(s *corev1.PodSpec) { s.HostNetwork = true },
		"with the host's root": func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		},
		"": func(*corev1.PodSpec) {},
	} {
		no := false
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "sim/hang", SecurityContext: &corev1.SecurityContext{
				RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		}}}}
		change(&pod.Spec)
		_, err := p.client.CoreV1().Pods("jobrelay").Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if (err == nil) != (name == "") {
			t.Errorf("a Pod %s: %v", name, err)
		}
	}
}
