package jobrelay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/replica"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	pages "github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// doctorCommand looks at what the services work with, as they would find it: its
// flags and variables are theirs. It changes nothing.
type doctorCommand struct {
	Role   string               `name:"role" env:"-" enum:"all,ingest,launcher,watcher,notifier,console,console-actions" default:"all" help:"The service whose place, login and account it is run with: ingest, launcher, watcher, notifier, or all of these; console, or console-actions where it has --allow-actions."`
	Broker broker.Config        `embed:""`
	Policy replica.PolicyConfig `embed:""`

	Installation    string   `name:"installation" default:"default" help:"Name of this installation."`
	QueueURLs       []string `name:"sqs-queue-url" sep:"," placeholder:"URL" help:"Queues of ingest, several with commas; the AWS SDK's own endpoint and credentials hold."`
	Kubeconfig      string   `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach Kubernetes; default: the account of the Pod it runs in."`
	LaunchNamespace string   `name:"launch-namespace" placeholder:"NAME" help:"The one namespace that Jobs may be created in; default: all."`
	WatchNamespace  string   `name:"watch-namespace" placeholder:"NAME" help:"The one namespace to watch; default: all."`
	LeaseNamespace  string   `name:"lease-namespace" placeholder:"NAME" help:"Where the Lease of the watchers' leader is; default: the namespace of the kubeconfig's context or of the Pod."`
	LogTail         int      `name:"log-tail" default:"0" help:"As the watcher's: whether logs are read."`
	SigningKeys     string   `name:"signing-keys" placeholder:"DIR" help:"Folder of the key files that the policy's signingKey names."`
	CallbackFiles   string   `name:"callback-files" placeholder:"DIR" help:"Folder of the CA and header files that the policy's callback names."`

	now func() time.Time // tests set it; default time.Now
}

// AfterApply is kong's.
func (d *doctorCommand) AfterApply() error { return findNATS(&d.Broker.URL) }

// Validate is kong's.
func (d *doctorCommand) Validate() error { return d.Broker.Validate() }

// errFindings is the end of a look that found something wrong.
var errFindings = errors.New("something is wrong")

// Run prints what was found, the worst first.
func (d *doctorCommand) Run(ctx context.Context, c *console) error {
	found := d.examine(ctx)
	if err := ctx.Err(); err != nil {
		return errInterrupted
	}
	slices.SortStableFunc(found, func(a, b finding) int { return severity(b.State) - severity(a.State) })
	if err := show(c, found); err != nil {
		return err
	}
	wrong := 0
	for _, f := range found {
		if f.State == stateWrong {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%w: %d of %d checks", errFindings, wrong, len(found))
	}
	return nil
}

// show prints a line of each for machines; for people a table, with what to do below
// what was found.
func show(c *console, found []finding) error {
	if c.machine != nil {
		return list(c, found, "", "", nil)
	}
	colors := map[string]string{stateWrong: red, stateHint: yellow, stateOK: green, stateSkipped: plain}
	none := c.paint(plain, "") // so that columns stay in line
	rows := []string{c.paint(plain, "STATE") + "\tCHECK\tFOUND"}
	for _, f := range found {
		rows = append(rows, c.paint(colors[f.State], f.State)+"\t"+f.Check+"\t"+f.Found)
		if f.Remedy != "" {
			rows = append(rows, none+"\t\t→ "+f.Remedy)
		}
	}
	return c.print(nil, columns("", rows...))
}

// of reports whether one of the roles is looked at.
func (d *doctorCommand) of(roles ...string) bool {
	return slices.ContainsFunc(d.roles(), func(r string) bool { return slices.Contains(roles, r) })
}

// roles are those that are looked at. The console need not be there: it is looked at by
// name alone.
func (d *doctorCommand) roles() []string {
	if d.Role == "all" {
		return []string{"ingest", "launcher", "watcher", "notifier"}
	}
	return []string{d.Role}
}

// isConsole reports whether the console is looked at, with its actions or without.
func (d *doctorCommand) isConsole() bool { return d.of(broker.RoleConsole, broker.RoleActions) }

func (d *doctorCommand) examine(ctx context.Context) []finding {
	if d.now == nil {
		d.now = time.Now
	}
	found := d.configuration()
	var policy *request.Policy
	if d.isConsole() {
		found = append(found, d.console()...)
	} else {
		var about []finding
		policy, about = d.policy()
		found = append(found, about...)
	}
	if d.of("notifier") {
		found = append(found, d.files(policy)...)
	}
	found = append(found, d.nats(ctx)...)
	if d.of("ingest") {
		found = append(found, d.sqs(ctx)...)
	}
	if d.of("launcher", "watcher") {
		found = append(found, d.kubernetes(ctx, policy)...)
	}
	return found
}

// configuration reads the services' variables, as they do at their start.
func (d *doctorCommand) configuration() (found []finding) {
	known := map[string]bool{"JOBRELAY_KUBE_BIN": true, "JOBRELAY_FAILPOINT": true}
	services := map[string]struct {
		cfg  any
		vars map[string]string
	}{
		"ingest": {&ingest.Config{}, nil}, "launcher": {&launcher.Config{}, nil},
		"watcher": {&watcher.Config{}, nil}, "notifier": {&notifier.Config{}, notifier.Vars()},
		"console": {&pages.Config{}, nil},
	}
	for role, s := range services {
		names, err := process.Variables(s.cfg, s.vars)
		if err != nil {
			return []finding{wrong("configuration", err.Error(), "report it: it is a mistake in jobrelay")}
		}
		for _, n := range names {
			known[n] = true
		}
		var args []string
		if role == "ingest" && len(d.QueueURLs) > 0 {
			args = []string{"--sqs-queue-url=" + strings.Join(d.QueueURLs, ",")}
		}
		if !d.of(role) || role == "ingest" && args == nil || role == "console" {
			continue // without a queue, sqs says so; console looks itself
		}
		if err := process.Parse(s.cfg, s.vars, args...); err != nil {
			found = append(found, wrong("configuration of "+role, err.Error(), "set the flag, or its variable, to what docs/configuration.md says; "+role+" does not start with it"))
		}
	}
	own, err := process.Variables(&cli{}, vars())
	if err != nil {
		return []finding{wrong("configuration", err.Error(), "report it: it is a mistake in jobrelay")}
	}
	for _, n := range own {
		known[n] = true
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, process.EnvPrefix+"_") && !known[name] && !strings.HasPrefix(name, broker.KeyVariable("")) {
			found = append(found, hint("configuration", name+" is set, and nothing reads it", "correct its name (docs/configuration.md), or take it away"))
		}
	}
	if len(found) == 0 {
		found = append(found, ok("configuration", "every variable is known, and every value good"))
	}
	return found
}

// console reads its variables, as it does at its start, and looks at who may look.
func (d *doctorCommand) console() (found []finding) {
	const check = "console: who may look"
	var cfg pages.Config
	if err := process.Parse(&cfg, nil); err != nil {
		return []finding{wrong("configuration of console", err.Error(), "set the flag, or its variable, to what docs/configuration.md says; console does not start with it")}
	}
	if cfg.AllowActions != (d.Role == broker.RoleActions) {
		other := map[bool]string{true: broker.RoleActions, false: broker.RoleConsole}[cfg.AllowActions]
		found = append(found, wrong("configuration of console", fmt.Sprintf("it has --allow-actions=%v, and so is NATS's user %s", cfg.AllowActions, other), "ask with --role "+other+", or change its flag and its login (docs/console)"))
	}
	for _, file := range []struct{ flag, name string }{{"--users-file", cfg.UsersFile}, {"--csrf-key", cfg.CSRFKey}} {
		if file.name == "" {
			continue
		}
		if _, err := process.ReadFile(file.name); err != nil {
			found = append(found, wrong(check, file.flag+": "+err.Error(), "put the file there, as docs/console says; the console does not start without it"))
		} else if info, err := os.Stat(file.name); err == nil && info.Mode().Perm()&0o004 != 0 {
			found = append(found, hint(check, file.name+" can be read by every account of this machine", "chmod o-r; of a mounted Secret, defaultMode: 0440"))
		}
	}
	switch {
	case cfg.Unauthenticated:
		found = append(found, hint(check, "everybody who reaches "+cfg.Listen, "see that a tunnel or a network policy lets nobody else in, or take --users-file or --user-header (docs/console)"))
	case cfg.UsersFile != "":
		found = append(found, ok(check, "who has a password in "+cfg.UsersFile))
	case cfg.UserHeader != "":
		found = append(found, ok(check, fmt.Sprintf("whom a proxy at %s names in %s", cfg.TrustedProxies, cfg.UserHeader)))
	default:
		found = append(found, ok(check, "who is on this machine, at "+cfg.Listen))
	}
	return found
}

func (d *doctorCommand) policy() (*request.Policy, []finding) {
	opened, err := d.Policy.Open(zerolog.Nop())
	switch {
	case err != nil:
		return nil, []finding{wrong("policy", err.Error(), "correct the file (docs/policy.md; `jobrelay validate --policy-file` tries it); no service starts with it")}
	case d.Policy.File == "" && d.Policy.Default == "deny":
		return opened.Get(), []finding{wrong("policy", "there is no policy file, and without an entry a service may do nothing", "name a file with --policy-file, or set --policy-default=allow")}
	case d.Policy.File == "":
		return opened.Get(), []finding{hint("policy", "there is none: every service may do everything that the contract allows", "write one (docs/policy.md) and name it with --policy-file")}
	}
	return opened.Get(), []finding{ok("policy", d.Policy.File+" is good")}
}

// files are the notifier's, which the policy names.
func (d *doctorCommand) files(policy *request.Policy) (found []finding) {
	if policy == nil {
		return []finding{skipped("signing keys", "which files the policy names is not known", "correct the policy first")}
	}
	if err := notifier.CheckFiles(d.SigningKeys, d.CallbackFiles, policy); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			found = append(found, wrong("callback files and keys", line, "put the file in its folder, as docs/callbacks.md says; the notifier does not start without it"))
		}
	}
	for _, folder := range []string{d.SigningKeys, d.CallbackFiles} {
		if folder == "" {
			continue
		}
		for _, name := range readableByAll(folder) {
			found = append(found, hint("callback files and keys", name+" can be read by every account of this machine", "chmod o-r; of a mounted Secret, defaultMode: 0440"))
		}
	}
	switch {
	case len(found) > 0:
	case d.SigningKeys == "":
		found = append(found, hint("signing keys", "callbacks are not signed", "give the policy a signingKey and the notifier --signing-keys (docs/callbacks.md)"))
	default:
		found = append(found, ok("callback files and keys", fmt.Sprintf("each that the policy names is good; keys: %s", strings.Join(policy.SigningKeys(), ", "))))
	}
	return found
}

// readableByAll are the files right below a folder that others may read, through
// links as a mounted Secret has them.
func readableByAll(folder string) (out []string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil // told already
	}
	for _, e := range entries {
		name := filepath.Join(folder, e.Name())
		info, err := os.Stat(name)
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&fs.FileMode(0o004) != 0 {
			out = append(out, name)
		}
	}
	return out
}

func (d *doctorCommand) nats(ctx context.Context) []finding {
	inbox, tried, found := d.login(ctx)
	if inbox == "" {
		return found
	}
	b, err := d.dial(ctx, inbox)
	if err != nil {
		return []finding{noNATS(err)}
	}
	defer b.Close()
	in, err := b.Inspect(ctx, d.now, tried...)
	if err != nil {
		return []finding{wrong("nats", err.Error(), "try again")}
	}
	return append(found, judgeNATS(in, d.Broker.Replicas)...)
}

func (d *doctorCommand) dial(ctx context.Context, role string) (*broker.Broker, error) {
	cfg := d.Broker
	cfg.Role, cfg.Instance = role, "doctor"
	return broker.Dial(ctx, cfg, zerolog.Nop())
}

func noNATS(err error) finding {
	return wrong("nats", err.Error(), "start it, open the way to it, or correct --nats-url and its login")
}

// login is the role whose inbox the login may listen to, and the roles that it is tried
// on: a login that is one role's may not do what another's does, and that is right.
// Without an inbox, what was found is all there is to say.
func (d *doctorCommand) login(ctx context.Context) (inbox string, tried []string, found []finding) {
	b, err := d.dial(ctx, broker.RoleOperator)
	if err != nil {
		return "", nil, []finding{noNATS(err)}
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	fits, err := b.Fits(ctx)
	const check = "nats: permissions"
	switch {
	case err != nil:
		return "", nil, []finding{noNATS(err)}
	case len(fits) == 0:
		return "", nil, []finding{wrong(check, "the login may listen to no role's inbox: no answer reaches it", "log in as one of the users of deploy/nats, or allow the role's inbox to this one, as _INBOX_ingest.>")}
	case d.Role != "all" && !slices.Contains(fits, d.Role):
		return fits[0], d.roles(), []finding{wrong(check, "the login may not listen to the inbox of "+d.Role+", but to that of "+strings.Join(fits, ", "), "log in as "+d.Role+": --nats-nkey, or JOBRELAY_NATS_NKEY")}
	case d.Role != "all":
		return d.Role, d.roles(), nil
	case len(fits) == 1:
		return fits[0], fits, []finding{skipped(check, "the login is the "+fits[0]+"'s: it was tried on what that role does, and on nothing else", "run it with --role "+strings.Join(d.roles(), ", ")+", and the login of each")}
	}
	return fits[0], d.roles(), nil
}

// loginTimeout bounds the question whose login it is.
const loginTimeout = 5 * time.Second

func (d *doctorCommand) sqs(ctx context.Context) (found []finding) {
	if len(d.QueueURLs) == 0 {
		return []finding{skipped("sqs", "no queue is named", "name ingest's with --sqs-queue-url or JOBRELAY_SQS_QUEUE_URL")}
	}
	for _, text := range d.QueueURLs {
		address, _, _ := strings.Cut(text, ";") // its options are the configuration's
		q, err := sqsqueue.Open(ctx, sqsqueue.Config{QueueURL: address})
		if err == nil {
			var in sqsqueue.Inspection
			if in, err = q.Inspect(ctx, d.now); err == nil {
				found = append(found, judgeQueue(in)...)
				continue
			}
		}
		found = append(found, wrong("sqs", err.Error(), "correct --sqs-queue-url, the AWS_ variables or the IAM policy (docs/install.md)"))
	}
	return found
}

func (d *doctorCommand) kubernetes(ctx context.Context, policy *request.Policy) []finding {
	watch := watcher.Config{Namespace: d.WatchNamespace, LeaseNamespace: d.LeaseNamespace, LogTail: d.LogTail}
	if watch.LeaseNamespace == "" {
		watch.LeaseNamespace = cluster.Namespace(d.Kubeconfig)
	}
	var needs, wishes []cluster.Permission
	if d.of("launcher") {
		needs = append(needs, launcher.Permissions(d.LaunchNamespace)...)
	}
	if d.of("watcher") {
		needs, wishes = append(needs, watch.Permissions()...), watch.Evidence()
	}
	excess := excesses(d.Role)
	in, err := cluster.Inspect(ctx, d.Kubeconfig, process.Version(), d.now, slices.Concat(needs, wishes, excess))
	if err != nil {
		return []finding{wrong("kubernetes", err.Error(), "set KUBECONFIG to a kubeconfig file that works, or run it in the Pod")}
	}
	found := judgeCluster(in, needs, wishes, excess)
	if d.of("launcher") {
		for _, namespace := range d.namespaces(policy) {
			if err := cluster.TryJob(ctx, d.Kubeconfig, process.Version(), d.Installation, namespace); err != nil {
				found = append(found, wrong("kubernetes: Jobs in "+namespace, err.Error(), "make the namespace, give it room and its label, as deploy/k8s/job-namespace does, or take it out of the policy"))
			} else {
				found = append(found, ok("kubernetes: Jobs in "+namespace, "a Job would be taken (tried, not created)"))
			}
		}
	}
	return found
}

// mostNamespaces bounds those that a Job is tried in.
const mostNamespaces = 20

// namespaces are those that a Job is tried in: the one of the launcher, else those
// that the policy names outright.
func (d *doctorCommand) namespaces(policy *request.Policy) []string {
	if d.LaunchNamespace != "" {
		return []string{d.LaunchNamespace}
	}
	if policy == nil {
		return nil
	}
	all := map[string]bool{}
	for _, rules := range append(slices.Collect(maps.Values(policy.Services)), policy.Default) {
		if rules.Namespaces == nil {
			continue
		}
		for _, n := range *rules.Namespaces {
			if !strings.HasSuffix(n, "*") {
				all[n] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(all))
	return names[:min(len(names), mostNamespaces)]
}
