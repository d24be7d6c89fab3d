package k8s_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// The roles that are deployed.
var roles = []string{"ingest", "launcher", "watcher", "notifier"}

// root is something that an operator may apply: a folder, or the base with a
// component, in a namespace of its own.
type root struct {
	name      string
	dir       string // of a kustomization
	component string // laid on the base; empty: dir as it is
	namespace string // of the services
}

// roots is every overlay, and every component on the base.
func roots(t *testing.T) []root {
	t.Helper()
	out := []root{{name: "base", dir: "base", namespace: "jobrelay"}}
	for _, dir := range folders(t, "overlays") {
		out = append(out, root{name: dir, dir: dir, namespace: "jobrelay"})
	}
	for _, dir := range folders(t, "components") {
		out = append(out, root{name: dir, component: dir, namespace: "with-" + filepath.Base(dir)})
	}
	return out
}

func folders(t *testing.T, in string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(in)
	if err != nil || len(entries) == 0 {
		t.Fatal("no folders in ", in, err)
	}
	for _, e := range entries {
		out = append(out, filepath.Join(in, e.Name()))
	}
	return out
}

// render is what `kubectl apply -k` would send of a root.
func (r root) render(t *testing.T) objects {
	t.Helper()
	if r.component == "" {
		return render(t, r.dir)
	}
	return overlay(t, "namespace: "+r.namespace+"\nresources: [BASE]\ncomponents: ["+strings.Replace(r.component, "components", "COMPONENTS", 1)+"]\n")
}

// overlay renders a kustomization that nobody keeps; BASE and COMPONENTS stand for
// the folders here.
func overlay(t *testing.T, text string) objects {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	up, err := filepath.Rel(dir, here)
	if err != nil {
		t.Fatal(err)
	}
	text = strings.NewReplacer("BASE", up+"/base", "COMPONENTS", up+"/components").Replace(text)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return render(t, dir)
}

func render(t *testing.T, dir string) objects {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	var out objects
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// objects of one kustomization.
type objects []*unstructured.Unstructured

// of are those of a kind.
func of[T any](t *testing.T, all objects, kind string) (out []T) {
	t.Helper()
	for _, o := range all {
		if o.GetKind() != kind {
			continue
		}
		var typed T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &typed, true); err != nil {
			t.Fatalf("%s %s: %v", kind, o.GetName(), err)
		}
		out = append(out, typed)
	}
	return out
}

// ours are the Deployments of the roles, by role.
func ours(t *testing.T, all objects) map[string]appsv1.Deployment {
	t.Helper()
	out := map[string]appsv1.Deployment{}
	for _, d := range of[appsv1.Deployment](t, all, "Deployment") {
		if role := d.Spec.Template.Labels["app.kubernetes.io/component"]; role != "" {
			out[role] = d
		}
	}
	return out
}

// TestEveryDeployment: what holds for each role in each root, whatever an overlay does.
func TestEveryDeployment(t *testing.T) {
	for _, r := range roots(t) {
		t.Run(r.name, func(t *testing.T) {
			all := r.render(t)
			deployments := ours(t, all)
			budgets := of[policyv1.PodDisruptionBudget](t, all, "PodDisruptionBudget")
			accounts := of[corev1.ServiceAccount](t, all, "ServiceAccount")
			for _, role := range roles {
				d, ok := deployments[role]
				if !ok {
					t.Errorf("%s is not deployed", role)
					continue
				}
				check := func(ok bool, want string) {
					t.Helper()
					if !ok {
						t.Errorf("%s: want %s", role, want)
					}
				}
				pod := d.Spec.Template.Spec
				c := pod.Containers[0]
				autoscaled := slices.ContainsFunc(all, func(o *unstructured.Unstructured) bool {
					name, _, _ := unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name")
					return name == d.Name
				})
				check(d.Spec.Replicas == nil == autoscaled, "replicas, except where an autoscaler has them")
				check(autoscaled || *d.Spec.Replicas >= 2 || r.name == "overlays/dev", "two replicas")
				check(len(pod.Containers) == 1 && len(c.Command) == 1 && c.Command[0] == "/"+role, "its binary")

				grace := seconds(*pod.TerminationGracePeriodSeconds)
				check(c.Lifecycle.PreStop.Sleep != nil && grace >= seconds(c.Lifecycle.PreStop.Sleep.Seconds+2)+process.StopTimeout, "a grace of preStop, the services' own stop, and 2 s")
				check(c.LivenessProbe.HTTPGet.Path == "/healthz" && c.ReadinessProbe.HTTPGet.Path == "/readyz", "the probes")
				check(len(pod.TopologySpreadConstraints) == 2, "a spread over nodes and zones")
				check(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero() && !c.Resources.Limits.Memory().IsZero() && c.Resources.Limits.Cpu().IsZero(), "requests, a memory limit, and no CPU limit")

				s := c.SecurityContext
				check(*s.ReadOnlyRootFilesystem && !*s.AllowPrivilegeEscalation && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), "a container without privileges and with a read-only root")
				check(*pod.SecurityContext.RunAsNonRoot && pod.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "a Pod that is not root")

				token := role == "launcher" || role == "watcher"
				check(pod.AutomountServiceAccountToken != nil && *pod.AutomountServiceAccountToken == token, "a token for launcher and watcher alone")
				own := slices.IndexFunc(accounts, func(a corev1.ServiceAccount) bool { return a.Name == pod.ServiceAccountName })
				check(own >= 0 && *accounts[own].AutomountServiceAccountToken == false, "an account of its own, which gives no token by itself")
				for other, d := range deployments {
					check(other == role || d.Spec.Template.Spec.ServiceAccountName != pod.ServiceAccountName, "an account that no other role has")
				}

				check(slices.ContainsFunc(budgets, func(b policyv1.PodDisruptionBudget) bool {
					s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
					return err == nil && s.Matches(labels.Set(d.Spec.Template.Labels)) && b.Spec.MaxUnavailable.IntValue() == 1
				}), "a disruption budget of one")
			}
		})
	}
}

// TestNATSLogin: in production each role has its own Secret with its nkey and no other's,
// and makes no stream; KEDA asks about the account that these keys are in.
func TestNATSLogin(t *testing.T) {
	production := render(t, "overlays/production")
	shared := of[corev1.ConfigMap](t, production, "ConfigMap")
	if !slices.ContainsFunc(shared, func(m corev1.ConfigMap) bool { return m.Data["JOBRELAY_TOPOLOGY"] == string(broker.Verify) }) {
		t.Error("a service may make streams")
	}
	deployments := ours(t, production)
	for _, role := range roles {
		if !slices.ContainsFunc(broker.Roles(), func(r broker.Role) bool { return r.Name == role }) {
			t.Errorf("NATS knows no %s", role)
		}
		pod := deployments[role].Spec.Template.Spec
		dir := ""
		for _, v := range pod.Volumes {
			if v.Secret == nil || !strings.HasPrefix(v.Secret.SecretName, "jobrelay-nats-") {
				continue
			}
			if v.Secret.SecretName != "jobrelay-nats-"+role || *v.Secret.DefaultMode != 0o440 {
				t.Errorf("%s has %v", role, v.Secret)
			}
			for _, m := range pod.Containers[0].VolumeMounts {
				if m.Name == v.Name && m.ReadOnly {
					dir = m.MountPath
				}
			}
		}
		for name, file := range map[string]string{"JOBRELAY_NATS_NKEY": "nkey", "JOBRELAY_NATS_CA": "ca.pem"} {
			if !slices.Contains(pod.Containers[0].Env, corev1.EnvVar{Name: name, Value: dir + "/" + file}) {
				t.Errorf("%s: %s is not %s in %q: %v", role, name, file, dir, pod.Containers[0].Env)
			}
		}
	}
	asked := 0
	for _, o := range (root{component: "components/autoscaling-keda", namespace: "jobrelay"}).render(t) {
		triggers, _, _ := unstructured.NestedSlice(o.Object, "spec", "triggers")
		for _, trigger := range triggers {
			metadata, _, _ := unstructured.NestedStringMap(trigger.(map[string]any), "metadata")
			if metadata["stream"] == "" {
				continue
			}
			asked++
			if metadata["account"] != broker.AccountName {
				t.Errorf("KEDA asks about account %q", metadata["account"])
			}
		}
	}
	if asked != 2 {
		t.Errorf("KEDA asks about %d consumers", asked)
	}
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// TestEveryVariableIsAFlag: what a ConfigMap or a Deployment sets is in
// docs/configuration.md, which is made of the flags.
func TestEveryVariableIsAFlag(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	known := regexp.MustCompile("`(JOBRELAY_[A-Z_]+)`").FindAllStringSubmatch(string(page), -1)
	flags := map[string]bool{}
	for _, m := range known {
		flags[m[1]] = true
	}
	seen := 0
	for _, r := range roots(t) {
		all := r.render(t)
		var names []string
		for _, m := range of[corev1.ConfigMap](t, all, "ConfigMap") {
			for name := range m.Data {
				names = append(names, name)
			}
		}
		for _, d := range ours(t, all) {
			for _, e := range d.Spec.Template.Spec.Containers[0].Env {
				names = append(names, e.Name)
			}
		}
		for _, name := range names {
			if strings.HasPrefix(name, "JOBRELAY_") {
				seen++
				if !flags[name] {
					t.Errorf("%s sets %s, which no service knows", r.name, name)
				}
			}
		}
	}
	if seen < 50 {
		t.Errorf("%d variables were looked at", seen)
	}
}

// TestNamesFollow: in another namespace and under another name, what refers to an
// object still does.
func TestNamesFollow(t *testing.T) {
	for _, prefix := range []string{"", "b-"} {
		var all objects
		for _, dir := range folders(t, "components") {
			all = append(all, overlay(t, "namespace: second\nnamePrefix: \""+prefix+"\"\nresources: [BASE]\ncomponents: ["+strings.Replace(dir, "components", "COMPONENTS", 1)+"]\n")...)
		}
		has := func(kind, namespace, name string) {
			t.Helper()
			if !strings.HasPrefix(name, prefix) || !slices.ContainsFunc(all, func(o *unstructured.Unstructured) bool {
				return o.GetKind() == kind && o.GetName() == name && o.GetNamespace() == namespace
			}) {
				t.Errorf("no %s %s in namespace %q", kind, name, namespace)
			}
		}
		seen := 0
		for _, o := range all {
			text := func(path ...string) string {
				out, _, _ := unstructured.NestedString(o.Object, path...)
				return out
			}
			switch o.GetKind() {
			case "ClusterRoleBinding", "RoleBinding":
				role := text("roleRef", "kind")
				has(role, map[string]string{"Role": "second"}[role], text("roleRef", "name"))
				subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
				for _, s := range subjects {
					subject := s.(map[string]any)
					namespace, _ := subject["namespace"].(string)
					has("ServiceAccount", namespace, subject["name"].(string))
					seen++
				}
			case "ValidatingAdmissionPolicyBinding":
				has("ValidatingAdmissionPolicy", "", text("spec", "policyName"))
				seen++
			case "HorizontalPodAutoscaler", "ScaledObject":
				has("Deployment", "second", text("spec", "scaleTargetRef", "name"))
				seen++
			}
			if namespace := o.GetNamespace(); namespace != "" && namespace != "second" {
				t.Errorf("%s %s is in namespace %s", o.GetKind(), o.GetName(), namespace)
			}
		}
		if seen < 30 {
			t.Errorf("%d references were looked at", seen)
		}
	}
}
