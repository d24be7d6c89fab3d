package request_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/request"
)

const tenants = `
default:
  launchDeadline: 1h
  namespaces: [default]
services:
  example:
    namespaces: [default, team-*]
    images: [busybox, "registry.example.com/team/", "other.example.com/tool:v1"]
    serviceAccounts: [default, runner]
    nodeSelectors: {disktype: [ssd]}
    maxResources: {cpu: "2", memory: 1Gi}
    maxTTLSecondsAfterFinished: 600
    maxActiveDeadlineSeconds: 3600
    maxBackoffLimit: 1
    maxActive: 3
    rate: {perSecond: 0.5, burst: 2}
    startDeadlines: {start: 10m}
    webhookHosts: [hooks.example.com, "*.example.org"]
    jobTemplate:
      metadata: {labels: {team: a}}
      spec:
        template:
          spec:
            priorityClassName: low
            containers:
              - securityContext: {runAsNonRoot: true}
  free: {maxBackoffLimit: 3}
`

func policy(t *testing.T, text string) *request.Policy {
	t.Helper()
	p, err := request.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func allowed() *jobsv1.JobRequested {
	return &jobsv1.JobRequested{
		Id: "a", Service: "example", Webhook: &jobsv1.Webhook{Url: "https://hooks.example.com/x"},
		Job: &jobsv1.Job{
			Namespace: "team-a", Image: "busybox:1", ServiceAccount: "default", TtlSecondsAfterFinished: 60, ActiveDeadlineSeconds: 3600,
			Resources: &jobsv1.Resources{Limits: &jobsv1.Quantities{Cpu: "2000m", Memory: "1Gi"}},
		},
	}
}

// TestPolicy: each rule alone, allowed and denied; the rule is named.
func TestPolicy(t *testing.T) {
	p := policy(t, tenants)
	if got := p.Check(allowed()); len(got) > 0 {
		t.Fatalf("%v", got)
	}
	for name, c := range map[string]struct {
		change func(*jobsv1.JobRequested)
		path   string // empty: allowed
		rule   string
	}{
		"namespace":        {func(r *jobsv1.JobRequested) { r.Job.Namespace = "kube-system" }, "$.job.namespace", "namespaces"},
		"namespace begins": {func(r *jobsv1.JobRequested) { r.Job.Namespace = "team" }, "$.job.namespace", "namespaces"},
		"registry": {func(r *jobsv1.JobRequested) {
			r.Job.Image = "registry.example.com/team/x@sha256:" + strings.Repeat("a", 64)
		}, "", ""},
		"registry's other":  {func(r *jobsv1.JobRequested) { r.Job.Image = "registry.example.com/team-x/y" }, "$.job.image", "images"},
		"full form":         {func(r *jobsv1.JobRequested) { r.Job.Image = "docker.io/library/busybox" }, "", ""},
		"another's busybox": {func(r *jobsv1.JobRequested) { r.Job.Image = "evil.example/library/busybox" }, "$.job.image", "images"},
		"one tag":           {func(r *jobsv1.JobRequested) { r.Job.Image = "other.example.com/tool:v1" }, "", ""},
		"another tag":       {func(r *jobsv1.JobRequested) { r.Job.Image = "other.example.com/tool:v2" }, "$.job.image", "images"},
		"account":           {func(r *jobsv1.JobRequested) { r.Job.ServiceAccount = "admin" }, "$.job.serviceAccount", "serviceAccounts"},
		"node": {func(r *jobsv1.JobRequested) {
			r.Job.NodeSelector = &jobsv1.NodeSelector{MatchKey: "disktype", MatchValue: "ssd"}
		}, "", ""},
		"other node": {func(r *jobsv1.JobRequested) {
			r.Job.NodeSelector = &jobsv1.NodeSelector{MatchKey: "disktype", MatchValue: "hdd"}
		}, "$.job.nodeSelector", "nodeSelectors"},
		"cpu":         {func(r *jobsv1.JobRequested) { r.Job.Resources.Limits.Cpu = "2001m" }, "$.job.resources.limits.cpu", "maxResources.cpu"},
		"no memory":   {func(r *jobsv1.JobRequested) { r.Job.Resources.Limits.Memory = "" }, "$.job.resources.limits.memory", "maxResources.memory"},
		"ttl":         {func(r *jobsv1.JobRequested) { r.Job.TtlSecondsAfterFinished = 601 }, "$.job.ttlSecondsAfterFinished", "maxTTLSecondsAfterFinished"},
		"deadline":    {func(r *jobsv1.JobRequested) { r.Job.ActiveDeadlineSeconds = 3601 }, "$.job.activeDeadlineSeconds", "maxActiveDeadlineSeconds"},
		"backoff":     {func(r *jobsv1.JobRequested) { r.Job.BackoffLimit = 2 }, "$.job.backoffLimit", "maxBackoffLimit"},
		"host":        {func(r *jobsv1.JobRequested) { r.Webhook.Url = "https://hooks.example.com.evil.example/x" }, request.PathWebhookURL, "webhookHosts"},
		"domain":      {func(r *jobsv1.JobRequested) { r.Webhook.Url = "https://A.B.Example.org.:8443/x" }, "", ""},
		"domain self": {func(r *jobsv1.JobRequested) { r.Webhook.Url = "https://example.org" }, request.PathWebhookURL, "webhookHosts"},
		"no webhook":  {func(r *jobsv1.JobRequested) { r.Webhook = nil }, "", ""},
	} {
		r := allowed()
		c.change(r)
		got := p.Check(r)
		if c.path == "" {
			if len(got) > 0 {
				t.Errorf("%s: %v", name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Path != c.path || got[0].Code != request.CodePolicy || !strings.Contains(got[0].Message, "services.example."+c.rule+")") {
			t.Errorf("%s: %v", name, got)
		}
	}
	everything := &jobsv1.JobRequested{Service: "example", Webhook: &jobsv1.Webhook{Url: "http://x"}, Job: &jobsv1.Job{
		Namespace: "x", Image: "x", ServiceAccount: "x", NodeSelector: &jobsv1.NodeSelector{MatchKey: "a"},
		TtlSecondsAfterFinished: 1e6, ActiveDeadlineSeconds: 1e6, BackoffLimit: 6,
	}}
	if got := p.Check(everything); len(got) != 10 {
		t.Errorf("not all at once: %v", got)
	}
}

func TestPolicyDefaults(t *testing.T) {
	p := policy(t, tenants)
	free, other := p.Rules("free"), p.Rules("other")
	if *free.MaxBackoffLimit != 3 || free.LaunchDeadline.Duration != time.Hour || (*free.Namespaces)[0] != "default" || free.Images != nil {
		t.Errorf("%+v", free)
	}
	if other.LaunchDeadline.Duration != time.Hour || len(p.Check(&jobsv1.JobRequested{Service: "other", Job: &jobsv1.Job{Namespace: "default"}})) != 0 {
		t.Errorf("%+v", other)
	}
	p.Deny = true
	got := p.Check(&jobsv1.JobRequested{Service: "other", Job: &jobsv1.Job{Namespace: "default"}})
	if len(got) != 1 || got[0].Path != "$.service" {
		t.Errorf("%v", got)
	}
	if got := p.Check(allowed()); len(got) > 0 {
		t.Errorf("%v", got)
	}
	for _, everything := range []*request.Policy{nil, {}, policy(t, ""), policy(t, "services: {example: {}}")} {
		if got := everything.Check(allowed()); len(got) > 0 || everything.Rules("x").Images != nil {
			t.Errorf("%v", got)
		}
	}
	if got := policy(t, "default: {images: []}").Check(allowed()); len(got) != 1 {
		t.Errorf("an empty list allows nothing: %v", got)
	}
}

// TestBadPolicies: every problem at once, with its path.
func TestBadPolicies(t *testing.T) {
	_, err := request.ParsePolicy([]byte(`
default: {namespaces: [A_B], maxActiveDeadlineSeconds: 0, launchDeadline: 300h}
services:
  "not a label!": {}
  s:
    images: ["UPPER CASE"]
    serviceAccounts: [""]
    webhookHosts: ["https://x"]
    nodeSelectors: {"a b": [c]}
    maxResources: {cpu: lots}
    maxTTLSecondsAfterFinished: 1
    maxBackoffLimit: -1
    maxActive: 0
    rate: {perSecond: 0, burst: -1}
    signingKey: ../key
    callback: {caFile: a/b, headersFile: ..}
    startDeadlines: {start: 48h, imagePull: 0s, unstartable: -1s}
    jobTemplate:
      metadata: {labels: {app: x}, annotations: {jobrelay.dev/id: x}}
      spec: {template: {spec: {restartPolicy: Always, serviceAccountName: x, activeDeadlineSeconds: 1, containers: [{image: x}, {}], volumes: [{name: persistent-storage}]}}}
`))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		"default.namespaces[0]", "default.maxActiveDeadlineSeconds", "default.launchDeadline", "services.not a label!",
		"services.s.images[0]", "services.s.serviceAccounts[0]", "services.s.webhookHosts[0]", "services.s.nodeSelectors",
		"services.s.maxResources.cpu", "services.s.maxTTLSecondsAfterFinished", "services.s.maxBackoffLimit",
		"services.s.maxActive must be 1 to 1000", "services.s.rate.perSecond must be 0.001 to 10000", "services.s.rate.burst",
		"services.s.signingKey", "services.s.callback.caFile must be the name of a file", "services.s.callback.headersFile must be the name of a file", "services.s.startDeadlines.start", "services.s.startDeadlines.imagePull", "services.s.startDeadlines.unstartable",
		"metadata.labels: app", "metadata.annotations: jobrelay.dev/id", "restartPolicy", "serviceAccountName", "activeDeadlineSeconds",
		"one container", "containers[0]", "volumes",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told:\n%v", want, err)
		}
	}
	for _, text := range []string{"x: 1", "services: []", "default: {maxBackoffLimit: x}", "default: {jobTemplate: {spec: {completions: 2}}}", "{", strings.Repeat(" ", request.MaxPolicyBytes+1)} {
		if _, err := request.ParsePolicy([]byte(text)); err == nil {
			t.Errorf("%.40q is taken", text)
		}
	}
}

func TestSigningKeys(t *testing.T) {
	p := policy(t, "default: {signingKey: everybody}\nservices: {b: {signingKey: billing}, c: {signingKey: billing}, d: {signingKey: a.key_1}, e: {}}")
	for service, want := range map[string]string{"b": "billing", "c": "billing", "e": "everybody", "unknown": "everybody", "": "everybody"} {
		if got := p.Rules(service).SigningKey; got == nil || *got != want {
			t.Errorf("%s: %v", service, got)
		}
	}
	if got := p.SigningKeys(); !slices.Equal(got, []string{"a.key_1", "billing", "everybody"}) {
		t.Errorf("%v", got)
	}
	if got := (*request.Policy)(nil).SigningKeys(); len(got) > 0 || policy(t, "").Rules("b").SigningKey != nil {
		t.Errorf("%v", got)
	}
	for _, name := range []string{"", ".", "..", "..data", "a/b", "/etc/passwd", "a b"} {
		if _, err := request.ParsePolicy([]byte(fmt.Sprintf("default: {signingKey: %q}", name))); err == nil || !strings.Contains(err.Error(), "default.signingKey must be the name of a file") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestPolicyPages: the examples of docs/policy.md and docs/callbacks.md are
// policies.
func TestPolicyPages(t *testing.T) {
	for name, example := range map[string]func(p *request.Policy) bool{
		"policy.md":    func(p *request.Policy) bool { return len(*p.Rules("billing").WebhookHosts) == 2 },
		"callbacks.md": func(p *request.Policy) bool { return len(p.SigningKeys())+len(p.HeadersFiles()) > 0 },
	} {
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(page), "```yaml\n")[1:]
		if len(blocks) == 0 {
			t.Fatalf("%s has no example", name)
		}
		for _, block := range blocks {
			text, _, _ := strings.Cut(block, "```")
			if p := policy(t, text); !example(p) {
				t.Errorf("%s: %+v", name, p)
			}
		}
	}
}

func TestCallbackFiles(t *testing.T) {
	p := policy(t, `
default: {callback: {caFile: ours}}
services:
  plain: {}
  billing: {webhookHosts: ["hooks.example.com", "*.billing.example.com"], callback: {headersFile: token}}
  inside: {webhookHosts: [10.0.0.1], callback: {caFile: ours, headersFile: other, headersOverHTTP: true}}
  nowhere: {webhookHosts: [], callback: {headersFile: token}}
`)
	for _, row := range []struct{ service, address, ca, headers string }{
		{"plain", "https://hooks.example.com/", "ours", ""},
		{"without an entry", "https://hooks.example.com/", "ours", ""},
		{"", "https://hooks.example.com/", "ours", ""},
		{"billing", "https://hooks.example.com/x", "", "token"},
		{"billing", "HTTPS://Hooks.Example.com.:8443/x", "", "token"},
		{"billing", "https://a.billing.example.com/", "", "token"},
		{"billing", "http://hooks.example.com/", "", ""},
		{"billing", "https://elsewhere.example.com/", "", ""},
		{"billing", "https://hooks.example.com@elsewhere.example/", "", ""},
		{"billing", "https://hooks.example.com.elsewhere.example/", "", ""},
		{"billing", "https://[", "", ""},
		{"inside", "http://10.0.0.1:8080/", "ours", "other"},
		{"inside", "http://10.0.0.2:8080/", "ours", ""},
		{"nowhere", "https://hooks.example.com/", "", ""},
	} {
		if ca, headers := p.Rules(row.service).FilesFor(row.address); ca != row.ca || headers != row.headers {
			t.Errorf("%q %s: %q %q", row.service, row.address, ca, headers)
		}
	}
	if got := p.CAFiles(); !slices.Equal(got, []string{"ours"}) {
		t.Errorf("%q", got)
	}
	if got := p.HeadersFiles(); !slices.Equal(got, []string{"other", "token"}) {
		t.Errorf("%q", got)
	}
	if none := (*request.Policy)(nil); len(none.CAFiles())+len(none.HeadersFiles()) > 0 {
		t.Error("files of no policy")
	}
	// A message names any address: headers need hosts, the service's own or the default's.
	const needs = "callback.headersFile needs webhookHosts"
	for text, want := range map[string]string{
		"default: {callback: {headersFile: a}}":                                          "default." + needs,
		"services: {s: {callback: {headersFile: a}}}":                                    "services.s." + needs,
		"{default: {webhookHosts: [x]}, services: {s: {callback: {headersFile: a}}}}":    "",
		"{default: {webhookHosts: [x], callback: {headersFile: a}}, services: {s: {}}}":  "",
		"services: {s: {callback: {headersFile: a, caFile: b}, webhookHosts: [x.y, z]}}": "",
	} {
		if _, err := request.ParsePolicy([]byte(text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
