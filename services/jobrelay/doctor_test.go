package jobrelay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	wait "github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// ward is a healthy installation: real parts, and a doctor for each look.
type ward struct {
	t *testing.T

	sqs       *sqsd.Server
	admin     kubernetes.Interface
	config    *rest.Config
	namespace string
	dir       string // of the policy and its files
}

func newWard(t *testing.T) *ward {
	t.Helper()
	shared := kubedtest.Shared(t)
	w := &ward{t: t, namespace: shared.Namespace(t), dir: t.TempDir()}
	var err error
	if w.config, err = cluster.Config(shared.Kubeconfig(), "test", "test"); err != nil {
		t.Fatal(err)
	}
	if w.admin, err = kubernetes.NewForConfig(w.config); err != nil {
		t.Fatal(err)
	}
	if w.sqs, err = sqsd.Start(sqsd.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.sqs.Stop(context.Background()) })
	t.Setenv("AWS_ENDPOINT_URL_SQS", w.sqs.URL())
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	return w
}

// nats is a server of its own, with the topology where it has JetStream.
func (w *ward) nats(o natsserver.Options, change ...func(context.Context, jetstream.JetStream) error) string {
	w.t.Helper()
	o.Host, o.Port, o.NoLog, o.NoSigs, o.StoreDir = "127.0.0.1", natsserver.RANDOM_PORT, true, true, w.t.TempDir()
	if o.MaxPayload == 0 {
		o.MaxPayload = 2 << 20
	}
	s, err := natsserver.NewServer(&o)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Start()
	w.t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		w.t.Fatal("NATS is not ready")
	}
	if !o.JetStream {
		return s.ClientURL()
	}
	url := s.ClientURL()
	if o.Users != nil {
		url = strings.Replace(url, "nats://", "nats://admin:admin@", 1)
	}
	b, err := broker.OpenAdmin(w.t.Context(), broker.Access{URL: url}, zerolog.Nop())
	if err != nil {
		w.t.Fatal(err)
	}
	defer b.Close()
	if _, err := broker.ApplyTopology(w.t.Context(), b.JetStream(), 1); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range change {
		if err := c(w.t.Context(), b.JetStream()); err != nil {
			w.t.Fatal(err)
		}
	}
	return s.ClientURL()
}

// queue makes a queue whose dead-letter queue is another.
func (w *ward) queue(name string, attributes map[string]string) string {
	w.t.Helper()
	all := map[string]string{"VisibilityTimeout": "60", "MessageRetentionPeriod": "1209600"}
	if attributes == nil || attributes["RedrivePolicy"] == "" {
		if _, err := w.sqs.CreateQueue("dead-"+name, map[string]string{"MessageRetentionPeriod": "1209600"}); err != nil {
			w.t.Fatal(err)
		}
		all["RedrivePolicy"] = `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead-` + name + `","maxReceiveCount":"20"}`
	}
	for k, v := range attributes {
		all[k] = v
	}
	if all["RedrivePolicy"] == "none" {
		delete(all, "RedrivePolicy")
	}
	url, err := w.sqs.CreateQueue(name, all)
	if err != nil {
		w.t.Fatal(err)
	}
	return url
}

// account is a kubeconfig of an account with some permissions alone.
func (w *ward) account(name string, may []cluster.Permission) string {
	w.t.Helper()
	ctx := w.t.Context()
	meta := metav1.ObjectMeta{Name: name}
	if _, err := w.admin.CoreV1().ServiceAccounts(w.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	var rules []rbacv1.PolicyRule
	for _, p := range may {
		resource := p.Resource
		if p.Subresource != "" {
			resource += "/" + p.Subresource
		}
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{p.Group}, Resources: []string{resource}, Verbs: []string{p.Verb}})
	}
	if _, err := w.admin.RbacV1().Roles(w.namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.admin.RbacV1().RoleBindings(w.namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: name}},
	}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	token, err := w.admin.CoreV1().ServiceAccounts(w.namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	file := w.kubeconfig(name, w.config.Host, token.Status.Token)
	wait.That(w.t, "the account's rights", func() bool {
		in, err := cluster.Inspect(ctx, file, "test", time.Now, may)
		return err == nil && len(in.Denied) == 0
	})
	return file
}

func (w *ward) kubeconfig(name, host, token string) string {
	w.t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: host, CertificateAuthorityData: w.config.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: w.namespace}
	file.CurrentContext = "x"
	path := filepath.Join(w.t.TempDir(), name+".kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// write puts a file below the ward's folder.
func (w *ward) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// TestDoctor: a healthy installation has nothing wrong; with each fault in it, in real
// parts, the doctor says what is wrong and what to do about it, and nothing else.
func TestDoctor(t *testing.T) {
	w := newWard(t)
	watch := watcher.Config{Namespace: w.namespace, LeaseNamespace: w.namespace}
	all := append(append(launcher.Permissions(w.namespace), watch.Permissions()...), watch.Evidence()...)
	without := func(verb, resource string) (out []cluster.Permission) {
		for _, p := range all {
			if p.Verb != verb || p.Resource != resource {
				out = append(out, p)
			}
		}
		return out
	}
	key := "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	w.write("keys/default", key)
	good := w.write("policy.yaml", "default: {namespaces: ["+w.namespace+"], signingKey: default}\n")
	healthyNATS := w.nats(natsserver.Options{JetStream: true})
	healthyQueue := w.queue("healthy", nil)
	healthyAccount := w.account("healthy", all)
	js := natsserver.Options{JetStream: true}

	// healthy is a doctor without a fault.
	healthy := func(t *testing.T) *doctorCommand {
		t.Helper()
		d := &doctorCommand{Role: "all", Installation: "test", QueueURLs: []string{healthyQueue}, Kubeconfig: healthyAccount,
			LaunchNamespace: w.namespace, WatchNamespace: w.namespace, LeaseNamespace: w.namespace, SigningKeys: filepath.Join(w.dir, "keys")}
		d.Broker.URL, d.Broker.Replicas = healthyNATS, 1
		d.Policy.File, d.Policy.Default = good, "allow"
		return d
	}
	t.Run("nothing", func(t *testing.T) {
		var out bytes.Buffer
		if err := healthy(t).Run(t.Context(), &console{out: &out}); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
		t.Log("\n" + out.String())
	})

	update := func(name string, change func(*jetstream.StreamConfig)) func(context.Context, jetstream.JetStream) error {
		return func(ctx context.Context, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			cfg := s.CachedInfo().Config
			change(&cfg)
			_, err = js.UpdateStream(ctx, cfg)
			return err
		}
	}
	users := func(deny ...string) natsserver.Options {
		o := js
		o.Users = []*natsserver.User{{Username: "admin", Password: "admin"}, {
			Username: "role", Password: "role",
			Permissions: &natsserver.Permissions{Publish: &natsserver.SubjectPermission{Allow: []string{">"}, Deny: deny}},
		}}
		return o
	}
	as := func(url string) string { return strings.Replace(url, "nats://", "nats://role:role@", 1) }

	for _, c := range []struct {
		name                 string
		fault                func(t *testing.T, d *doctorCommand)
		state                string
		check, found, remedy string
	}{
		{"NATS away", func(_ *testing.T, d *doctorCommand) { d.Broker.URL = "nats://127.0.0.1:1" }, stateWrong, "nats", "did not answer", "--nats-url"},
		{"a login that is refused", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = strings.Replace(w.nats(users()), "nats://", "nats://role:wrong@", 1)
		}, stateWrong, "nats", "refused the connection", "login"},
		{"no JetStream", func(_ *testing.T, d *doctorCommand) { d.Broker.URL = w.nats(natsserver.Options{}) }, stateWrong, "nats: JetStream", "not enabled", "jetstream block"},
		{"a small max_payload", func(_ *testing.T, d *doctorCommand) {
			o := js
			o.MaxPayload = 1 << 20
			d.Broker.URL = w.nats(o)
		}, stateWrong, "nats: limits", "max_payload is 1048576", "max_payload: 2MB"},
		{"a stream that is gone", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, func(ctx context.Context, js jetstream.JetStream) error {
				return js.DeleteStream(ctx, broker.StreamRejections)
			})
		}, stateWrong, "nats: streams", "stream REJECTIONS does not exist", "topology apply"},
		{"a stream that drops the oldest", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, update(broker.StreamLedger, func(s *jetstream.StreamConfig) { s.Discard = jetstream.DiscardOld }))
		}, stateWrong, "nats: streams", "LEDGER has discard", "topology apply"},
		{"a log shorter than its request", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, update(broker.StreamEvents, func(s *jetstream.StreamConfig) { s.MaxAge = 24 * time.Hour }))
		}, stateWrong, "nats: streams", "EVENTS keeps 24h0m0s, and must keep 408h0m0s", "nats stream edit EVENTS --max-age=408h"},
		{"a consumer that is gone", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, func(ctx context.Context, js jetstream.JetStream) error {
				return js.DeleteConsumer(ctx, broker.StreamCommands, "watcher")
			})
		}, stateWrong, "nats: streams", "consumer COMMANDS/watcher does not exist", "topology apply"},
		{"a consumer that is paused", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, func(ctx context.Context, js jetstream.JetStream) error {
				_, err := js.PauseConsumer(ctx, broker.StreamEvents, "notifier", time.Now().Add(time.Hour))
				return err
			})
		}, stateWrong, "nats: consumers", "EVENTS/notifier is paused", "resume"},
		{"a full stream", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, func(ctx context.Context, js jetstream.JetStream) error {
				if _, err := js.Publish(ctx, "deadletters.callback.s.k.0", make([]byte, 2000)); err != nil {
					return err
				}
				return update(broker.StreamDeadLetters, func(s *jetstream.StreamConfig) { s.MaxBytes = 1500 })(ctx, js)
			})
		}, stateWrong, "nats: space", "DEADLETTERS is full", "max_bytes"},
		{"messages that nobody takes", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, func(ctx context.Context, js jetstream.JetStream) error {
				_, err := js.Publish(ctx, "commands.cancel.k", nil)
				return err
			})
		}, stateHint, "nats: consumers", "COMMANDS/watcher has 1 messages that nobody takes", "start a replica"},
		{"fewer replicas than asked for", func(_ *testing.T, d *doctorCommand) { d.Broker.Replicas = 3 }, stateWrong, "nats: replicas", "REQUESTS has 1", "nats stream edit REQUESTS"},
		{"a subject that is denied", func(_ *testing.T, d *doctorCommand) { d.Broker.URL = as(w.nats(users("ledger.callback.>"))) },
			stateWrong, "nats: permissions", "may not publish to ledger.callback.doctor", "allow it"},
		{"a stream that may not be looked at", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = as(w.nats(users("$JS.API.STREAM.INFO.EVENTS")))
		}, stateWrong, "nats: permissions", "may not publish to $JS.API.STREAM.INFO.EVENTS", "allow it"},
		{"a role's login that lacks something", func(_ *testing.T, d *doctorCommand) {
			o := users("commands.>")
			o.Users[1].Permissions.Subscribe = &natsserver.SubjectPermission{Allow: []string{"_INBOX_operator.>"}}
			d.Broker.URL = as(w.nats(o))
		}, stateWrong, "nats: permissions", "may not publish to commands.doctor", "allow it"},
		{"a login that is nobody's", func(_ *testing.T, d *doctorCommand) {
			o := users()
			o.Users[1].Permissions.Subscribe = &natsserver.SubjectPermission{Allow: []string{"_INBOX.>"}}
			d.Broker.URL = as(w.nats(o))
		}, stateWrong, "nats: permissions", "no role's inbox", "deploy/nats"},
		{"a consumer of an older version", func(_ *testing.T, d *doctorCommand) {
			d.Broker.URL = w.nats(js, func(ctx context.Context, js jetstream.JetStream) error {
				c, err := js.Consumer(ctx, broker.StreamEvents, "notifier")
				if err != nil {
					return err
				}
				config := c.CachedInfo().Config
				config.MaxAckPending = broker.NotifierEvents.AtLeast
				_, err = js.UpdateConsumer(ctx, broker.StreamEvents, config)
				return err
			})
		}, stateHint, "nats: consumers", "may have 20000 messages out", "nats consumer edit EVENTS notifier --max-pending=65536"},
		{"a clock that is off", func(_ *testing.T, d *doctorCommand) {
			d.now = func() time.Time { return time.Now().Add(time.Minute) }
		}, stateWrong, "nats: clock", "away from this machine's", "NTP"},

		{"a queue that is not there", func(_ *testing.T, d *doctorCommand) { d.QueueURLs = []string{w.sqs.URL() + "/000000000000/nobody"} },
			stateWrong, "sqs", "is the queue's URL right?", "--sqs-queue-url"},
		{"no dead-letter queue", func(_ *testing.T, d *doctorCommand) {
			d.QueueURLs = []string{w.queue("none", map[string]string{"RedrivePolicy": "none"})}
		},
			stateWrong, "sqs: none", "no dead-letter queue", "RedrivePolicy"},
		{"a short visibility timeout", func(_ *testing.T, d *doctorCommand) {
			d.QueueURLs = []string{w.queue("brief", map[string]string{"VisibilityTimeout": "5"})}
		}, stateWrong, "sqs: brief", "visibility timeout is 5s", "60 seconds"},
		{"a short retention", func(_ *testing.T, d *doctorCommand) {
			d.QueueURLs = []string{w.queue("forgetful", map[string]string{"MessageRetentionPeriod": "3600"})}
		}, stateWrong, "sqs: forgetful", "keeps messages for 1h0m0s", "MessageRetentionPeriod"},
		{"few receives", func(_ *testing.T, d *doctorCommand) {
			d.QueueURLs = []string{w.queue("hasty", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead-healthy","maxReceiveCount":"1"}`})}
		}, stateWrong, "sqs: hasty", "after 1 receives", "maxReceiveCount"},

		{"an API server that is away", func(_ *testing.T, d *doctorCommand) { d.Kubeconfig = w.kubeconfig("away", "https://127.0.0.1:1", "x") },
			stateWrong, "kubernetes", "does not answer", "KUBECONFIG"},
		{"a permission that is missing", func(_ *testing.T, d *doctorCommand) { d.Kubeconfig = w.account("no-patch", without("patch", "jobs")) },
			stateWrong, "kubernetes: permissions", "may not patch jobs.batch in namespace " + w.namespace, "grant it"},
		{"evidence that may not be read", func(_ *testing.T, d *doctorCommand) { d.Kubeconfig = w.account("no-events", without("list", "events")) },
			stateHint, "kubernetes: permissions", "may not list events", "adr/0012"},
		{"a namespace without room", func(_ *testing.T, d *doctorCommand) {
			full := w.full(all)
			d.Kubeconfig, d.LaunchNamespace, d.WatchNamespace, d.LeaseNamespace = full.kubeconfig, full.namespace, full.namespace, full.namespace
		}, stateWrong, "kubernetes: Jobs in", "quota", "give it room"},

		{"a policy that is wrong", func(_ *testing.T, d *doctorCommand) {
			d.Policy.File = w.write("bad.yaml", "default: {namespace: [x]}\n")
		},
			stateWrong, "policy", "namespace", "docs/policy.md"},
		{"no policy", func(_ *testing.T, d *doctorCommand) { d.Policy.File, d.SigningKeys = "", "" }, stateHint, "policy", "there is none", "write one"},
		{"a key that is missing", func(_ *testing.T, d *doctorCommand) {
			d.Policy.File = w.write("other.yaml", "default: {signingKey: other}\n")
		},
			stateWrong, "callback files and keys", "other", "docs/callbacks.md"},
		{"a key that is too short", func(_ *testing.T, d *doctorCommand) {
			w.write("short/default", "whsec_AAAA")
			d.SigningKeys = filepath.Join(w.dir, "short")
		}, stateWrong, "callback files and keys", "short/default", "docs/callbacks.md"},
		{"a key that everybody may read", func(t *testing.T, d *doctorCommand) {
			if err := os.Chmod(w.write("open/default", key), 0o644); err != nil {
				t.Fatal(err)
			}
			d.SigningKeys = filepath.Join(w.dir, "open")
		}, stateHint, "callback files and keys", "can be read by every account", "0440"},
		{"a CA that is missing", func(_ *testing.T, d *doctorCommand) {
			d.Policy.File = w.write("ca.yaml", "default: {signingKey: default, callback: {caFile: ca.pem}}\n")
			d.CallbackFiles = w.dir
		}, stateWrong, "callback files and keys", "ca.pem", "docs/callbacks.md"},
		{"a bad value", func(t *testing.T, _ *doctorCommand) { t.Setenv("JOBRELAY_LAUNCH_IN_FLIGHT", "0") },
			stateWrong, "configuration of launcher", "--launch-in-flight takes 1 to 1000", "docs/configuration.md"},
		{"a variable that nobody reads", func(t *testing.T, _ *doctorCommand) { t.Setenv("JOBRELAY_NATS_ULR", "x") },
			stateHint, "configuration", "JOBRELAY_NATS_ULR is set", "correct its name"},
		{"a variable beside those of NATS", func(t *testing.T, _ *doctorCommand) {
			t.Setenv("JOBRELAY_NKEY_INGEST", "x")
			t.Setenv("JOBRELAY_NKEYS", "x")
		}, stateHint, "configuration", "JOBRELAY_NKEYS is set", "correct its name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := healthy(t)
			c.fault(t, d)
			var out bytes.Buffer
			err := d.Run(t.Context(), &console{out: &out, machine: encodings["json"]})
			if errors.Is(err, errFindings) != (c.state == stateWrong) {
				t.Errorf("it ends with %v", err)
			}
			var told []string
			hit := false
			for line := range strings.Lines(out.String()) {
				var f finding
				if err := json.Unmarshal([]byte(line), &f); err != nil {
					t.Fatal(err)
				}
				switch {
				case f.State == c.state && strings.HasPrefix(f.Check, c.check) && strings.Contains(f.Found, c.found) && strings.Contains(f.Remedy, c.remedy):
					hit = true
					t.Logf("%s  %s: %s → %s", f.State, f.Check, f.Found, f.Remedy)
				case f.State == stateWrong:
					told = append(told, fmt.Sprintf("%s: %s", f.Check, f.Found))
				}
			}
			if !hit {
				t.Errorf("it does not say so:\n%s", out.String())
			}
			// The same fault may show in several places (streams, clocks), not in others.
			for _, other := range told {
				if !strings.HasPrefix(other, strings.SplitN(c.check, ":", 2)[0]) && !strings.Contains(other, "clock") {
					t.Errorf("it finds what is not there: %s", other)
				}
			}
		})
	}
}

// TestDoctorLogsInAsARole: with a role's nkey, over TLS, the doctor of that role finds
// nothing denied, whether the roles share an account or have one each; with another
// role's key it finds what is.
func TestDoctorLogsInAsARole(t *testing.T) {
	for name, c := range map[string]struct {
		account func(func(role string) string) string
		api     string
	}{"one account": {broker.Account, ""}, "apart": {broker.Apart, broker.TapAPI}} {
		t.Run(name, func(t *testing.T) {
			w := &ward{t: t, dir: t.TempDir()}
			certificate, private := w.certificate()
			conf := fmt.Sprintf("accounts {\n%s}\ntls { cert_file: %q, key_file: %q }\n", c.account(w.nkey), certificate, private)
			n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir(), File: w.write("server.conf", conf)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(n.Stop)
			login := func(role string) broker.Login {
				return broker.Login{NKey: filepath.Join(w.dir, role+".nk"), CA: certificate, API: c.api}
			}
			operator, err := broker.OpenAdmin(t.Context(), broker.Access{URL: n.URL(), Login: login(broker.RoleOperator)}, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer operator.Close()
			if _, err := broker.ApplyTopology(t.Context(), operator.JetStream(), 1); err != nil {
				t.Fatal(err)
			}
			look := func(role, key string) []finding {
				d := &doctorCommand{Role: role, now: time.Now}
				d.Broker.URL, d.Broker.Replicas, d.Broker.Login = n.URL(), 1, login(key)
				return d.nats(t.Context())
			}
			denied := func(role, key string) (out []string) {
				for _, f := range look(role, key) {
					if f.State == stateWrong {
						out = append(out, f.Check+": "+f.Found)
					}
				}
				return out
			}
			for _, role := range append((&doctorCommand{Role: "all"}).roles(), broker.RoleConsole, broker.RoleActions) {
				if found := denied(role, role); len(found) > 0 {
					t.Errorf("%s: %q", role, found)
				}
			}
			// Without --role each login is judged as what it is, and that is said.
			for _, r := range broker.Roles() {
				said := false
				for _, f := range look("all", r.Name) {
					if f.State == stateWrong {
						t.Errorf("the login of %s, without --role: %s: %s", r.Name, f.Check, f.Found)
					}
					said = said || f.State == stateSkipped && strings.Contains(f.Found, "the login is the "+r.Name+"'s") && strings.Contains(f.Remedy, "--role ingest, launcher")
				}
				if !said {
					t.Errorf("the login of %s, without --role: it does not say whose it is", r.Name)
				}
			}
			api := cmp.Or(c.api, "$JS.API")
			found := strings.Join(denied(broker.RoleNotifier, broker.RoleIngest), "\n")
			if want := "nats: permissions: the login may not listen to the inbox of notifier, but to that of ingest"; !strings.Contains(found, want) || strings.Contains(found, "no answer") {
				t.Errorf("it does not say whose login it is, or asks what cannot be answered:\n%s", found)
			}
			for _, subject := range []string{"ledger.callback.doctor", "status.notifier.doctor", api + ".STREAM.INFO.LEDGER", api + ".CONSUMER.INFO.EVENTS.notifier"} {
				if !strings.Contains(found, "nats: permissions: the login may not publish to "+subject) {
					t.Errorf("%s is not found:\n%s", subject, found)
				}
			}
		})
	}
}

// TestDoctorOfTheConsole: a healthy console has nothing wrong, and nothing that is not its
// own is looked at; with each fault in its settings the doctor says what, and what to do.
func TestDoctorOfTheConsole(t *testing.T) {
	w := &ward{t: t, dir: t.TempDir()}
	url := w.nats(natsserver.Options{JetStream: true})
	users := w.write("users", "ada:x\n")
	t.Setenv("JOBRELAY_LISTEN", ":8090")
	for _, c := range []struct {
		name, role           string
		set                  map[string]string
		state, found, remedy string
	}{
		{"nothing", "console", nil, stateOK, "who has a password in " + users, ""},
		{"with actions", "console-actions", map[string]string{"ALLOW_ACTIONS": "true"}, stateOK, "who has a password", ""},
		{"behind a proxy", "console", map[string]string{"USERS_FILE": "", "USER_HEADER": "X-User", "TRUSTED_PROXIES": "10.0.0.0/8"}, stateOK, "names in X-User", ""},
		{"on a loopback", "console", map[string]string{"USERS_FILE": "", "LISTEN": "127.0.0.1:8090"}, stateOK, "who is on this machine", ""},
		{"nobody is asked", "console", map[string]string{"USERS_FILE": "", "UNAUTHENTICATED": "true"}, stateHint, "everybody who reaches :8090", "--users-file"},
		{"open without saying so", "console", map[string]string{"USERS_FILE": ""}, stateWrong, "lets everybody look", "docs/configuration.md"},
		{"a file that is missing", "console", map[string]string{"USERS_FILE": filepath.Join(w.dir, "none")}, stateWrong, "--users-file: open ", "does not start"},
		{"a key that is missing", "console-actions", map[string]string{"ALLOW_ACTIONS": "true", "CSRF_KEY": filepath.Join(w.dir, "none")}, stateWrong, "--csrf-key: open ", "does not start"},
		{"actions as a user without them", "console", map[string]string{"ALLOW_ACTIONS": "true"}, stateWrong, "NATS's user console-actions", "--role console-actions"},
		{"a user with actions, and no flag", "console-actions", nil, stateWrong, "NATS's user console", "--role console"},
		{"a variable that nobody reads", "console", map[string]string{"USER_FILE": "x"}, stateHint, "JOBRELAY_USER_FILE is set", "correct its name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("JOBRELAY_USERS_FILE", users)
			for name, value := range c.set {
				t.Setenv("JOBRELAY_"+name, value)
				if value == "" {
					os.Unsetenv("JOBRELAY_" + name) // Setenv brings it back
				}
			}
			d := &doctorCommand{Role: c.role}
			d.Broker.URL, d.Broker.Replicas, d.Policy.File = url, 1, "of-others"
			var out bytes.Buffer
			err := d.Run(t.Context(), &console{out: &out, machine: encodings["json"]})
			if errors.Is(err, errFindings) != (c.state == stateWrong) {
				t.Errorf("it ends with %v", err)
			}
			hit := false
			for line := range strings.Lines(out.String()) {
				var f finding
				if err := json.Unmarshal([]byte(line), &f); err != nil {
					t.Fatal(err)
				}
				hit = hit || f.State == c.state && strings.Contains(f.Found, c.found) && strings.Contains(f.Remedy, c.remedy)
				if strings.HasPrefix(f.Check, "kubernetes") || strings.HasPrefix(f.Check, "sqs") || f.Check == "policy" {
					t.Errorf("it looks at what is not the console's: %s", line)
				}
			}
			if !hit {
				t.Errorf("it does not say so:\n%s", out.String())
			}
		})
	}
	t.Run("a file that everybody may read", func(t *testing.T) {
		t.Setenv("JOBRELAY_USERS_FILE", users)
		if err := os.Chmod(users, 0o644); err != nil {
			t.Fatal(err)
		}
		if found := fmt.Sprint((&doctorCommand{Role: "console"}).console()); !strings.Contains(found, "can be read by every account") {
			t.Error(found)
		}
	})
}

// nkey writes the seed of a role's user into the ward's folder; it returns the public
// key.
func (w *ward) nkey(role string) string {
	w.t.Helper()
	seed, public, err := broker.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(role+".nk", string(seed))
	return public
}

// certificate writes a server's certificate, which is its own CA, and its key: those of
// httptest.
func (w *ward) certificate() (certificate, private string) {
	w.t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		w.t.Fatal(err)
	}
	encoded := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return w.write("cert.pem", encoded("CERTIFICATE", s.Certificate().Raw)), w.write("key.pem", encoded("PRIVATE KEY", key))
}

// TestDoctorLeavesNothing: what it tries is stored nowhere.
func TestDoctorLeavesNothing(t *testing.T) {
	w := newWard(t)
	url := w.nats(natsserver.Options{JetStream: true})
	d := &doctorCommand{Role: "all", Installation: "test", QueueURLs: []string{w.queue("q", nil)}, Kubeconfig: w.account("admin", nil), LaunchNamespace: w.namespace}
	d.Broker.URL, d.Broker.Replicas, d.Policy.Default = url, 1, "allow"
	d.examine(t.Context())
	b, err := broker.OpenAdmin(t.Context(), broker.Access{URL: url}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, r := range broker.Roles() { // console and operator are not among all
		b, err := d.dial(t.Context(), r.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Inspect(t.Context(), time.Now, r.Name); err != nil {
			t.Error(err)
		}
		b.Close()
	}
	for _, s := range broker.Topology(1) {
		stream, err := b.JetStream().Stream(t.Context(), s.Name)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n > 0 || stream.CachedInfo().State.LastSeq > 0 {
			t.Errorf("%s has %d messages", s.Name, n)
		}
	}
	jobs, err := w.admin.BatchV1().Jobs(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(jobs.Items) > 0 {
		t.Errorf("%d Jobs, %v", len(jobs.Items), err)
	}
}

type full struct{ namespace, kubeconfig string }

// full is a namespace whose quota has no room for a Job, and an account in it.
func (w *ward) full(all []cluster.Permission) full {
	w.t.Helper()
	other := *w
	other.namespace = kubedtest.Shared(w.t).Namespace(w.t)
	quotas := w.admin.CoreV1().ResourceQuotas(other.namespace)
	if _, err := quotas.Create(w.t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	wait.That(w.t, "the quota", func() bool {
		q, err := quotas.Get(w.t.Context(), "none", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0
	})
	var there []cluster.Permission
	for _, p := range all {
		p.Namespace = other.namespace
		there = append(there, p)
	}
	return full{other.namespace, other.account("full", there)}
}
