package jobrelay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	nats "github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	awaiting "github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// secrets makes words that are nowhere else, and knows where each was put.
type secrets struct {
	where []string
}

// word is a secret; it is fit for any field.
func (s *secrets) word(where string) string {
	s.where = append(s.where, where)
	return fmt.Sprintf("zq%03dsecret", len(s.where)-1)
}

var aWord = regexp.MustCompile(`zq(\d{3})secret`)

// told is all that anybody is told, by where it stood.
type told struct {
	mu    sync.Mutex
	texts map[string][]byte
}

func (o *told) add(where string, text []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.texts[where] = append(append(o.texts[where], '\n'), text...)
}

// writer collects what a process says.
func (o *told) writer(where string) io.Writer { return tellWriter{o, where} }

type tellWriter struct {
	*told

	where string
}

func (w tellWriter) Write(p []byte) (int, error) {
	w.add(w.where, p)
	return len(p), nil
}

// TestNothingSecretIsTold sends secrets in every field of a message that can hold
// one, well-formed or not, through four processes that are given secrets themselves;
// and looks for them in all that anybody but the job, its receiver and the operator
// of the streams may read: logs, errors, events, the ledger, status, metrics,
// readiness, profiles, spans and the bodies of callbacks.
func TestNothingSecretIsTold(t *testing.T) {
	var s secrets
	p := newPipeline(t, &s)

	// What becomes a Job, and what does not.
	p.send("delivered", p.message("delivered", p.namespace, p.hooks.URL()+"/"+s.word("the path of the webhook")+"?token="+s.word("the query of the webhook"), &s))
	p.send("broken", p.message("broken", p.namespace, p.broken+"/"+s.word("the path of a broken webhook")+"?token="+s.word("its query"), &s))
	p.send("not dialled", p.message("not dialled", p.namespace, "http://10.255.255.1/"+s.word("the path of an address that is not dialled")+"?token="+s.word("its query"), &s))
	p.send("no namespace", p.message("no namespace", "there-is-none", p.hooks.URL()+"/"+s.word("the path of a webhook without a job"), &s))
	rejected := p.wrong(&s)
	for id, body := range rejected {
		p.send(id, body)
	}
	p.settled(len(rejected))
	p.badStarts(&s)
	p.collect()

	for name, text := range p.told.texts {
		for _, found := range aWord.FindAllSubmatch(text, -1) {
			var n int
			if _, err := fmt.Sscan(strings.TrimLeft(string(found[1]), "0")+" ", &n); err != nil {
				n = 0
			}
			at := bytes.Index(text, found[0])
			t.Errorf("%s tells %s: …%s…", name, s.where[n], text[max(0, at-160):min(len(text), at+60)])
		}
	}
	size := 0
	for name, text := range p.told.texts {
		size += len(text)
		for what, literal := range p.literals {
			if bytes.Contains(text, []byte(literal)) {
				t.Errorf("%s tells %s", name, what)
			}
		}
	}
	// The words did go through: the streams that hold messages have those of all.
	for i, where := range s.where {
		if p.sent(i) && !bytes.Contains(p.kept, fmt.Appendf(nil, "zq%03dsecret", i)) {
			t.Errorf("%s was never sent: the test looks for nothing", where)
		}
	}
	p.linesOf(t, "delivered")
	t.Logf("%d secrets, looked for in %d kB of %d places", len(s.where), size>>10, len(p.told.texts))
}

// pipeline is four processes, each with a login of its own, between real parts.
type pipeline struct {
	t         *testing.T
	namespace string
	hooks     *hookd.Server
	broken    string // a receiver that answers secrets
	queue     string
	client    *sqs.Client
	login     string // the address of NATS, with the password
	log       *broker.Broker
	spans     *spans
	addresses map[string]string
	messages  int // secrets with a lower number stand in messages
	first     int // and those from this on
	told      *told
	kept      []byte // what may hold secrets
	literals  map[string]string
	published struct { // all that anybody publishes
		conn *natsgo.Conn
		sub  *natsgo.Subscription
	}
}

func newPipeline(t *testing.T, s *secrets) *pipeline {
	t.Helper()
	p := &pipeline{t: t, addresses: map[string]string{}, told: &told{texts: map[string][]byte{}}}
	shared := kubedtest.Shared(t)
	p.namespace = shared.Namespace(t)

	password := s.word("the password of NATS")
	server, err := nats.NewServer(&nats.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 2 << 20, Username: "us", Password: password, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	if !server.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS does not start")
	}
	p.login = "nats://us:" + password + "@" + server.Addr().String()
	if p.log, err = broker.Open(t.Context(), broker.Config{URL: p.login, Role: "test"}, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.log.Close)
	p.published.conn = p.log.JetStream().Conn()
	if p.published.sub, err = p.published.conn.SubscribeSync(">"); err != nil {
		t.Fatal(err)
	}
	if err := p.published.sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}

	q, err := sqsd.Start(sqsd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Stop(context.Background()) })
	if p.queue, err = q.CreateQueue(devQueue, nil); err != nil {
		t.Fatal(err)
	}
	p.client = sqs.New(sqs.Options{BaseEndpoint: aws.String(q.URL()), Region: devRegion, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")})

	if p.hooks, err = hookd.Start(hookd.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.hooks.Stop(context.Background()) })
	answer, header := s.word("a receiver's answer"), s.word("a header of a receiver's answer")
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Token", header)
		w.Header().Set("Location", "http://127.0.0.1/"+header)
		http.Error(w, answer+" "+r.URL.String()+" "+r.Header.Get("Authorization"), http.StatusInternalServerError)
	}))
	t.Cleanup(broken.Close)
	p.broken = broken.URL

	var collector string
	p.spans, collector = newSpans(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("files/token", "Authorization: Bearer "+s.word("a header of the operator's"))
	const signing = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	write("keys/example", "whsec_"+signing)
	kubeconfig, err := os.ReadFile(shared.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	p.literals = map[string]string{"the signing key": signing}
	for _, login := range regexp.MustCompile(`(?:token|client-key-data|password): *"?([^"\s]+)`).FindAllSubmatch(kubeconfig, -1) {
		p.literals["the login of Kubernetes"] = string(login[1])
	}
	if len(p.literals) != 2 {
		t.Fatal("the kubeconfig has no login")
	}
	policy := write("policy.yaml", "services: {example: {webhookHosts: [127.0.0.1, 10.255.255.1], signingKey: example, callback: {headersFile: token}, jobTemplate: {spec: {template: {spec: {containers: [{env: [{name: TOKEN, value: "+s.word("the environment of a Job template")+"}]}]}}}}}}")
	common := []string{
		"--nats-url=" + p.login, "--installation=" + p.namespace, "--log-level=debug", "--log-format=json", "--pprof", "--traces", "--policy-file=" + policy,
	}
	env := append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT="+collector, "OTEL_BSP_SCHEDULE_DELAY=50",
		"OTEL_EXPORTER_OTLP_HEADERS=authorization="+s.word("the collector's login"),
		"AWS_ENDPOINT_URL_SQS="+q.URL(), "AWS_REGION="+devRegion, "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY="+s.word("the key of SQS"))
	kube := []string{"--kubeconfig=" + shared.Kubeconfig()}
	p.first = len(s.where)
	for role, own := range map[string][]string{
		"ingest":   {"--sqs-queue-url=" + p.queue},
		"launcher": append(kube, "--launch-namespace="+p.namespace),
		"watcher":  append(kube, "--watch-namespace="+p.namespace, "--lease-namespace="+p.namespace),
		"notifier": {"--signing-keys=" + filepath.Join(dir, "keys"), "--callback-files=" + filepath.Join(dir, "files"), "--webhook-allow=127.0.0.0/8", "--retry-schedule=0s,1s", "--retry-schedule-refused=0s"},
	} {
		ports, err := child.FreePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		p.addresses[role] = fmt.Sprintf("127.0.0.1:%d", ports[0])
		p.start(role, env, append(append(common, own...), "--metrics-addr="+p.addresses[role]), q.EndPolls)
	}
	for role, address := range p.addresses {
		awaiting.That(t, role+" is ready", func() bool { return p.get(address, "/readyz") == http.StatusOK })
	}
	return p
}

// command is this very binary by another name (TestMain).
func command(t *testing.T, name string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{Path: self, Args: append([]string{name}, args...), Env: env}
}

func (p *pipeline) start(role string, env, args []string, endPolls func()) {
	p.t.Helper()
	cmd := command(p.t, role, env, args...)
	cmd.Stdout, cmd.Stderr = p.told.writer("the output of "+role), p.told.writer("the log of "+role)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		endPolls()
		if err := cmd.Wait(); err != nil {
			p.t.Errorf("%s: %v", role, err)
		}
	})
}

// get keeps what a process answers.
func (p *pipeline) get(address, path string) int {
	res, err := http.Get("http://" + address + path)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0
	}
	p.told.add(path, b)
	return res.StatusCode
}

// message is one that is accepted, with secrets wherever it may have some.
func (p *pipeline) message(id, namespace, url string, s *secrets) string {
	p.t.Helper()
	m := map[string]any{
		"id": id, "service": "example", "note": s.word("an unknown field"), s.word("the name of an unknown field"): 1,
		"job": map[string]any{
			"prefixName": "bb", "namespace": namespace, "image": "busybox", "args": []string{s.word("an argument")},
			"command":    []string{"/bin/sh", "-c", s.word("the command")},
			"env":        []any{map[string]string{"name": "PASSWORD", "value": s.word("the environment")}},
			"toleration": map[string]string{"key": "key", "value": s.word("a toleration")},
		},
		"webhook": map[string]any{"url": url},
	}
	b, err := json.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// wrong are messages that are rejected, each with a secret in a field that has not
// the form that it must have.
func (p *pipeline) wrong(s *secrets) map[string]string {
	out := map[string]string{}
	add := func(field, job, webhook string) {
		id := "wrong " + field
		if webhook == "" {
			webhook = `{"url":"` + p.hooks.URL() + "/" + s.word("the path of the webhook of a wrong message") + `"}`
		}
		out[id] = `{"id":"` + id + `","service":"example","job":{"prefixName":"bb","namespace":"` + p.namespace + `","image":"busybox","command":["true"]` + job + `},"webhook":` + webhook + `}`
	}
	for field, value := range map[string]string{
		"env":            `{"PASSWORD":"%s"}`,
		"env#value":      `[{"name":"A","value":{"secret":"%s"}}]`,
		"env#name":       `[{"name":"A=%s","value":"b"}]`,
		"env#text":       `["PASSWORD=%s"]`,
		"args":           `"--password=%s"`,
		"args#nested":    `[["--password","%s"]]`,
		"serviceAccount": `"%s_"`, "backoffLimit": `"%s"`, "ttlSecondsAfterFinished": `"%s"`, "activeDeadlineSeconds": `"%s"`,
		"resources":    `{"limits":{"cpu":"%s","memory":"1"}}`,
		"nodeSelector": `{"matchKey":"a","matchValue":"%s !"}`,
		"toleration":   `{"key":"a","value":"%s !"}`,
		"volume":       `{"mountPath":"/a:%s","pvc":"p"}`,
		"volume#pvc":   `{"mountPath":"/a","pvc":"%s_"}`,
	} {
		name, _, _ := strings.Cut(field, "#")
		add(field, `,"`+name+`":`+fmt.Sprintf(value, s.word("job."+field)), "")
	}
	for field, url := range map[string]string{
		"userinfo": "http://user:%s@127.0.0.1/", "user": "http://%s@127.0.0.1/", "fragment": "http://127.0.0.1/#%s",
		"scheme": "ftp://127.0.0.1/%s", "host": "http://[%s/", "port": "http://127.0.0.1:%s/", "escape": "http://127.0.0.1/%%zz%s",
	} {
		add("webhook."+field, `,"backoffLimit":99`, `{"url":"`+fmt.Sprintf(url, s.word("the "+field+" of the webhook"))+`"}`)
	}
	add("webhook.statuses", "", `{"url":"`+p.hooks.URL()+`","statuses":["`+s.word("webhook.statuses")+`"]}`)
	for field, format := range map[string]string{
		"image": `"image":"user:%s@registry.example.com/x"`, "image#2": `"image":"//%s//"`, "command": `"command":"run --password=%s"`,
		"command#2": `"command":[{"run":"%s"}]`, "namespace": `"namespace":"%s_"`, "prefixName": `"prefixName":"%s_"`,
	} {
		name, _, _ := strings.Cut(field, "#")
		fields := map[string]string{"image": `"image":"busybox"`, "command": `"command":["true"]`, "namespace": `"namespace":"default"`, "prefixName": `"prefixName":"bb"`}
		fields[name] = fmt.Sprintf(format, s.word("job."+field))
		id := "wrong " + field
		out[id] = fmt.Sprintf(`{"id":%q,"service":"example","job":{%s,%s,%s,%s},"webhook":{"url":%q}}`, id,
			fields["image"], fields["command"], fields["namespace"], fields["prefixName"], p.hooks.URL()+"/"+s.word("the path of a webhook"))
	}
	out["no JSON"] = "password=" + s.word("a body that is no JSON")
	out["twice"] = fmt.Sprintf(`{"id":"twice","service":"example","job":{"env":[{"name":"A","value":%q}],"env":%q}}`, s.word("a field that is there twice"), s.word("its second value"))
	out["trailing"] = `{"id":"trailing"} ` + s.word("what follows a message")
	out["service"] = fmt.Sprintf(`{"id":"service","service":%q,"webhook":{"url":%q}}`, s.word("a service")+"!", p.hooks.URL())
	p.messages = len(s.where)
	return out
}

// sent reports whether a secret stands in a message.
func (p *pipeline) sent(i int) bool { return i >= p.first && i < p.messages }

func (p *pipeline) send(id, body string) {
	p.t.Helper()
	in := &sqs.SendMessageInput{QueueUrl: &p.queue, MessageBody: &body, MessageAttributes: map[string]types.MessageAttributeValue{}}
	text := func(name, value string) {
		in.MessageAttributes[name] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
	}
	text("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if id == "twice" { // one that is none
		text("traceparent", "00-zq000secret-zq000secret-01")
	}
	text("authorization", "zq000secret")
	if _, err := p.client.SendMessage(p.t.Context(), in); err != nil {
		p.t.Fatal(err)
	}
}

// settled waits until each message has its end: rejected, given up, or delivered.
func (p *pipeline) settled(rejected int) {
	p.t.Helper()
	for id, next := range map[string]int{"delivered": 3, "broken": 3, "not dialled": 3, "no namespace": 1} {
		awaiting.That(p.t, "the callbacks of "+id, func() bool {
			l, err := p.log.Ledger(p.t.Context(), event.Key(id))
			return err == nil && l.Next == next
		})
	}
	awaiting.That(p.t, "the rejections", func() bool { return p.stored(broker.StreamRejections) == rejected })
	awaiting.That(p.t, "the last events", func() bool { return p.stored(broker.StreamEvents) == 3*3+1+rejected })
}

func (p *pipeline) stored(stream string) int {
	s, err := p.log.JetStream().Stream(p.t.Context(), stream)
	if err != nil {
		p.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// badStarts run processes that end at once, or work with what cannot be reached,
// and keep what they say.
func (p *pipeline) badStarts(s *secrets) {
	p.t.Helper()
	address := p.login[strings.Index(p.login, "@")+1:]
	run := func(name string, env []string, args ...string) {
		cmd := command(p.t, name, append(os.Environ(), env...), args...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			p.t.Errorf("%s %v starts", name, args)
		}
		p.told.add("the error of "+name+" "+strings.Join(args[:1], " "), out)
	}
	secret := s.word("a login that is refused, or cannot be read")
	for _, url := range []string{"nats://us:" + secret + "@" + address, "nats://" + secret + "@" + address, "nats://us:" + secret + "@[", "us:" + secret + "@:x"} {
		run("notifier", nil, "--nats-url="+url, "--metrics-addr=127.0.0.1:0")
		run("jobrelay", nil, "topology", "verify", "--nats-url="+url)
		run("notifier", []string{"JOBRELAY_NATS_URL=" + url}, "--metrics-addr=127.0.0.1:0")
	}
	for _, url := range []string{"https://user:" + secret + "@sqs.example.com/", "https://user:" + secret + "@sqs.example.com/000/queue", "https://user:" + secret + "@/queue", "https://user:" + secret + "@[/queue", "://user:" + secret + "@x/queue"} {
		run("ingest", nil, "--sqs-queue-url="+url, "--nats-url=nats://127.0.0.1:1", "--metrics-addr=127.0.0.1:x")
		run("jobrelay", nil, "send", "--queue="+url, "nowhere.json")
	}
	dir := p.t.TempDir()
	for name, text := range map[string]string{"k/example": secret, "h/token": secret + ": value", "h/ca": secret} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			p.t.Fatal(err)
		}
	}
	policy := func(rule string) string {
		file := filepath.Join(dir, "policy")
		if err := os.WriteFile(file, []byte("services: {example: {"+rule+"}}"), 0o600); err != nil {
			p.t.Fatal(err)
		}
		return "--policy-file=" + file
	}
	keys, files := "--signing-keys="+filepath.Join(dir, "k"), "--callback-files="+filepath.Join(dir, "h")
	run("notifier", nil, policy("signingKey: example"), keys, "--metrics-addr=127.0.0.1:0")
	run("notifier", nil, policy("callback: {headersFile: token}"), files, "--metrics-addr=127.0.0.1:0")
	run("notifier", nil, policy("callback: {caFile: ca}"), files, "--metrics-addr=127.0.0.1:0")
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://user:" + secret + "@[", "OTEL_EXPORTER_OTLP_HEADERS=" + secret, "OTEL_RESOURCE_ATTRIBUTES=" + secret, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + secret, "OTEL_TRACES_SAMPLER=" + secret} {
		run("notifier", []string{variable}, "--traces", "--nats-url=nats://us:wrong@"+address, "--metrics-addr=127.0.0.1:0")
	}
}

// collect keeps what the running processes tell, and what stands in the streams.
func (p *pipeline) collect() {
	p.t.Helper()
	for role, address := range p.addresses {
		for _, path := range []string{"/readyz", "/metrics", "/healthz", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1"} {
			if code := p.get(address, path); code != http.StatusOK {
				p.t.Errorf("%s of %s: %d", path, role, code)
			}
		}
		boundsHold(p.t, scrape(address))
		if code := p.get(address, "/debug/pprof/cmdline"); code != http.StatusNotFound {
			p.t.Errorf("the command line of %s: %d", role, code)
		}
	}
	awaiting.That(p.t, "the status of all", func() bool { return p.stored(broker.StreamStatus) == len(p.addresses) })
	if err := p.published.conn.Flush(); err != nil {
		p.t.Fatal(err)
	}
	seen := map[string]bool{}
	for n, _, err := p.published.sub.Pending(); n > 0; n, _, err = p.published.sub.Pending() {
		if err != nil {
			p.t.Fatal(err)
		}
		m, err := p.published.sub.NextMsg(time.Second)
		if err != nil {
			p.t.Fatal(err)
		}
		kind, _, _ := strings.Cut(m.Subject, ".")
		text := fmt.Appendf(nil, "%s %v %s\n", m.Subject, m.Header, m.Data)
		switch kind {
		case "requests", "rejections", "deadletters": // the operator's alone: they hold what was sent
			p.kept = append(p.kept, text...)
		case "events", "ledger", "schedules", "wakeups", "status":
			p.told.add("what was published on "+kind, text)
		}
		seen[kind] = true
	}
	for _, kind := range []string{"requests", "rejections", "deadletters", "events", "ledger", "schedules", "status"} {
		if !seen[kind] {
			p.t.Errorf("nothing was published on %s", kind)
		}
	}
	for _, c := range p.hooks.Calls() {
		p.told.add("a callback", c.Body)
	}
	if len(p.spans.all()) == 0 {
		p.t.Error("no spans came")
	}
	for _, one := range p.spans.all() {
		p.told.add("a span", []byte(one.String()))
	}
}

// scrape reads a process's metrics as a Prometheus without protobuf does.
func scrape(address string) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		res, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(res.Body)
		if err == nil && len(families) == 0 {
			err = errors.New("no metrics")
		}
		return slices.Collect(maps.Values(families)), err
	})
}

// linesOf checks the lines of a job that came through: one an outcome, and each says
// whose it is.
func (p *pipeline) linesOf(t *testing.T, id string) {
	t.Helper()
	want := map[string]int{"request accepted": 1, "job started": 1, "job ended": 1, "callback ended": 3}
	for role := range p.addresses {
		for line := range bytes.Lines(p.told.texts["the log of "+role]) {
			var l struct{ Message, ID, Key, Service, Job, Trace string }
			if json.Unmarshal(line, &l) != nil || l.ID != id {
				continue
			}
			if want[l.Message]--; want[l.Message] < 0 {
				t.Errorf("%s says once more: %s", role, line)
			}
			if l.Key != event.Key(id) || l.Service != "example" || l.Trace != "4bf92f3577b34da6a3ce929d0e0e4736" ||
				strings.HasPrefix(l.Message, "job") && l.Job == "" {
				t.Errorf("a line of %s does not say whose it is: %s", role, line)
			}
		}
	}
	for message, missing := range want {
		if missing > 0 {
			t.Errorf("%d lines %q are missing", missing, message)
		}
	}
}
