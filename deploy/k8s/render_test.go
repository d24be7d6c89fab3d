package k8s_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
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
	"github.com/jobrelay/jobrelay/services/console"
)

// The roles that are deployed everywhere, and the one that need not be.
var (
	roles    = []string{"ingest", "launcher", "watcher", "notifier"}
	allRoles = append(slices.Clone(roles), "console")
)

// root is something that an operator may apply: a folder, or the base with
// components, in a namespace of its own.
type root struct {
	name       string
	dir        string   // of a kustomization; empty: the base
	components []string // laid on it
	namespace  string   // of the services
}

// before is the component that another is laid on.
var before = map[string]string{"components/console-oidc": "components/console"}

// roots is every overlay, production with a console too, and every component on the base.
func roots(t *testing.T) []root {
	t.Helper()
	out := []root{{name: "base", dir: "base", namespace: "jobrelay"}}
	for _, dir := range folders(t, "overlays") {
		out = append(out, root{name: dir, dir: dir, namespace: "jobrelay"})
	}
	out = append(out, withConsole, withActions)
	for _, dir := range folders(t, "components") {
		r := root{name: dir, components: []string{dir}, namespace: "with-" + filepath.Base(dir)}
		if first := before[dir]; first != "" {
			r.components = []string{first, dir}
		}
		out = append(out, r)
	}
	return out
}

// Production with the line of the console taken out of its comment, and in its place
// what else may stand there.
var (
	withConsole = root{
		name: "overlays/production and console", dir: "overlays/production", namespace: "jobrelay",
		components: []string{"components/console"},
	}
	withActions = root{
		name: "overlays/production, console-actions and console-oidc", dir: "overlays/production", namespace: "jobrelay",
		components: []string{"components/console-actions", "components/console-oidc"},
	}
)

// roles are those that the root deploys.
func (r root) roles() []string {
	if r.dir == "overlays/dev" || slices.ContainsFunc(r.components, func(c string) bool { return strings.HasPrefix(c, "components/console") }) {
		return allRoles
	}
	return roles
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
	switch {
	case r.components == nil:
		return render(t, r.dir)
	case r.dir == "":
		return overlay(t, "namespace: "+r.namespace+"\nresources: [BASE]\n"+componentsOf(r.components))
	}
	text, err := os.ReadFile(filepath.Join(r.dir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	lines := ""
	for _, c := range r.components {
		lines += "\n  - ../../" + c
	}
	const comment = "\n  # - ../../components/console "
	if strings.Count(string(text), comment) != 1 {
		t.Fatalf("%s has no line %q", r.dir, comment)
	}
	out := strings.Replace(string(text), comment, lines+" ", 1)
	out = strings.NewReplacer("../../base", "BASE", "../../components", "COMPONENTS").Replace(out)
	return overlay(t, out, filepath.Join(r.dir, "policy.yaml"))
}

// componentsOf is the line of a kustomization that names components.
func componentsOf(all []string) string {
	return "components: [" + strings.ReplaceAll(strings.Join(all, ", "), "components", "COMPONENTS") + "]\n"
}

// overlay renders a kustomization that nobody keeps, with copies of files beside it; BASE
// and COMPONENTS stand for the folders here.
func overlay(t *testing.T, text string, files ...string) objects {
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
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), content, 0o600); err != nil {
			t.Fatal(err)
		}
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
			if len(deployments) != len(r.roles()) {
				t.Errorf("%d roles are deployed, not %v", len(deployments), r.roles())
			}
			for _, role := range r.roles() {
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
				proxied := role == "console" && slices.Contains(r.components, "components/console-oidc")
				check(len(pod.Containers) == map[bool]int{false: 1, true: 2}[proxied] && len(c.Command) == 1 && c.Command[0] == "/"+role, "its binary, and beside it at most the proxy of console-oidc")
				check(c.LivenessProbe.HTTPGet.Path == "/healthz" && c.ReadinessProbe.HTTPGet.Path == "/readyz", "the probes")
				check(len(pod.TopologySpreadConstraints) == 2, "a spread over nodes and zones")
				for _, c := range pod.Containers {
					grace := seconds(*pod.TerminationGracePeriodSeconds)
					check(c.Lifecycle.PreStop.Sleep != nil && grace >= seconds(c.Lifecycle.PreStop.Sleep.Seconds+2)+process.StopTimeout, "a grace of preStop, the services' own stop, and 2 s")
					check(c.LivenessProbe != nil && c.ReadinessProbe != nil, "probes")
					check(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero() && !c.Resources.Limits.Memory().IsZero() && c.Resources.Limits.Cpu().IsZero(), "requests, a memory limit, and no CPU limit")
					s := c.SecurityContext
					check(*s.ReadOnlyRootFilesystem && !*s.AllowPrivilegeEscalation && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), "a container without privileges and with a read-only root")
				}
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
// and makes no stream; the console has that of the user whose rights its flags need. KEDA
// asks about the account that these keys are in.
func TestNATSLogin(t *testing.T) {
	for _, r := range []root{withConsole, withActions} {
		production := r.render(t)
		shared := of[corev1.ConfigMap](t, production, "ConfigMap")
		if !slices.ContainsFunc(shared, func(m corev1.ConfigMap) bool { return m.Data["JOBRELAY_TOPOLOGY"] == string(broker.Verify) }) {
			t.Error("a service may make streams")
		}
		deployments := ours(t, production)
		for _, role := range allRoles {
			pod := deployments[role].Spec.Template.Spec
			user := role
			if slices.Contains(pod.Containers[0].Env, corev1.EnvVar{Name: "JOBRELAY_ALLOW_ACTIONS", Value: "true"}) {
				user = broker.RoleActions
			}
			if role == "console" && (user == broker.RoleActions) != slices.Contains(r.components, "components/console-actions") {
				t.Errorf("%s: the console is %s", r.name, user)
			}
			if !slices.ContainsFunc(broker.Roles(), func(r broker.Role) bool { return r.Name == user }) {
				t.Errorf("NATS knows no %s", user)
			}
			dir := ""
			for _, v := range pod.Volumes {
				if v.Secret == nil || !strings.HasPrefix(v.Secret.SecretName, "jobrelay-nats-") {
					continue
				}
				if v.Secret.SecretName != "jobrelay-nats-"+user || *v.Secret.DefaultMode != 0o440 {
					t.Errorf("%s, %s has %v", r.name, role, v.Secret)
				}
				for _, m := range pod.Containers[0].VolumeMounts {
					if m.Name == v.Name && m.ReadOnly {
						dir = m.MountPath
					}
				}
				for _, other := range pod.Containers[1:] {
					if slices.ContainsFunc(other.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
						t.Errorf("%s, %s has the key of %s", r.name, other.Name, user)
					}
				}
			}
			for name, file := range map[string]string{"JOBRELAY_NATS_NKEY": "nkey", "JOBRELAY_NATS_CA": "ca.pem"} {
				if dir == "" || !slices.Contains(pod.Containers[0].Env, corev1.EnvVar{Name: name, Value: dir + "/" + file}) {
					t.Errorf("%s: %s is not %s in %q: %v", role, name, file, dir, pod.Containers[0].Env)
				}
			}
		}
	}
	asked := 0
	for _, o := range (root{components: []string{"components/autoscaling-keda"}, namespace: "jobrelay"}).render(t) {
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

// TestTheConsoleAsksWhoIsThere: wherever it is deployed, its flags are taken, and whoever
// reaches its port is asked for a password or comes through the proxy in its Pod; else it
// is on its Pod's loopback. It never listens to everybody.
func TestTheConsoleAsksWhoIsThere(t *testing.T) {
	seen := 0
	for _, r := range roots(t) {
		all := r.render(t)
		d, ok := ours(t, all)["console"]
		if !ok {
			continue
		}
		seen++
		t.Run(r.name, func(t *testing.T) {
			for _, e := range d.Spec.Template.Spec.Containers[0].Env {
				t.Setenv(e.Name, e.Value)
			}
			var cfg console.Config
			if err := process.Parse(&cfg, nil); err != nil {
				t.Fatal(err)
			}
			host, port, _ := strings.Cut(cfg.Listen, ":")
			proxied := slices.Contains(r.components, "components/console-oidc")
			switch {
			case cfg.Unauthenticated:
				t.Error("it asks nobody")
			case proxied:
				if host != "127.0.0.1" || port == "8090" || cfg.UserHeader == "" || fmt.Sprint(cfg.TrustedProxies) != "[127.0.0.1/32]" || cfg.UsersFile != "" {
					t.Errorf("it believes more than the proxy: %+v", cfg)
				}
				proxy := d.Spec.Template.Spec.Containers[1]
				if !slices.Contains(proxy.Args, "--upstream=http://"+cfg.Listen+"/") || !slices.Contains(proxy.Args, "--http-address=:8090") {
					t.Errorf("the proxy leads elsewhere: %v", proxy.Args)
				}
			case r.dir == "overlays/dev":
				if host != "127.0.0.1" || cfg.AllowActions {
					t.Errorf("%+v", cfg)
				}
			case cfg.UsersFile == "" || port != "8090":
				t.Errorf("it asks for no password: %+v", cfg)
			}
			if cfg.AllowActions != (cfg.CSRFKey != "") {
				t.Error("its replicas do not take each other's forms")
			}
			for _, file := range []string{cfg.UsersFile, cfg.CSRFKey} {
				if file != "" && !isMounted(d.Spec.Template.Spec, filepath.Dir(file)) {
					t.Errorf("%s is in no Secret", file)
				}
			}
			for _, s := range of[corev1.Service](t, all, "Service") {
				if selector := labels.SelectorFromSet(s.Spec.Selector); s.Name == "jobrelay-console" &&
					(s.Spec.Type != "" || !selector.Matches(labels.Set(d.Spec.Template.Labels)) || s.Spec.Ports[0].TargetPort.IntValue() != 8090) {
					t.Errorf("%+v", s.Spec)
				}
			}
		})
	}
	if seen < 6 {
		t.Errorf("%d consoles were looked at", seen)
	}
}

// TestTheIngressOfTheDocs: what docs/install.md gives leads to the console's Service.
func TestTheIngressOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```yaml\n")
	text, _, ok := strings.Cut(text, "```")
	var ingress networkingv1.Ingress
	if err := yaml.UnmarshalStrict([]byte(text), &ingress); err != nil || !ok || len(ingress.Spec.TLS) != 1 {
		t.Fatalf("%v\n%s", err, text)
	}
	backend := ingress.Spec.Rules[0].HTTP.Paths[0].Backend.Service
	if !slices.ContainsFunc(of[corev1.Service](t, withConsole.render(t), "Service"), func(s corev1.Service) bool {
		return s.Name == backend.Name && s.Namespace == ingress.Namespace && s.Spec.Ports[0].Port == backend.Port.Number
	}) {
		t.Errorf("%+v is no Service", backend)
	}
}

// isMounted reports whether a Secret that only our group reads is mounted at a folder.
func isMounted(pod corev1.PodSpec, dir string) bool {
	return slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.MountPath == dir && m.ReadOnly && slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name && v.Secret != nil && *v.Secret.DefaultMode == 0o440
		})
	})
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
		for _, r := range roots(t) {
			if r.dir == "" {
				all = append(all, overlay(t, "namespace: second\nnamePrefix: \""+prefix+"\"\nresources: [BASE]\n"+componentsOf(r.components))...)
			}
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
