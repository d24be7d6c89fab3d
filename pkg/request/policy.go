package request

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// CodePolicy is the code of what the operator's policy does not allow. The
// message names the rule.
const CodePolicy = "policy"

// The bounds of a policy.
const (
	// MaxPolicyBytes is of the file: a ConfigMap holds no more.
	MaxPolicyBytes = 1 << 20
	maxLaunchWait  = 12 * 24 * time.Hour // inside the retention of the streams
	maxStartWait   = 24 * time.Hour      // as the watcher's own flags
	// maxMaxActive: each launch under the rule writes who holds a place, 35
	// bytes for each.
	maxMaxActive = 1000
	minPerSecond = 0.001 // a launch in 17 minutes
	maxPerSecond = 10_000
)

// Policy is what the operator allows to each service, and what every one of its
// Jobs gets. The nil policy, and the zero one, allow everything.
type Policy struct {
	// Deny refuses every service that has no entry of its own.
	Deny bool `json:"-"`
	// Default holds for a service without an entry, and for what an entry
	// leaves out.
	Default Rules `json:"default,omitzero"`
	// Services are the entries, by the message's service.
	Services map[string]Rules `json:"services,omitempty"`
}

// Rules are what one service may do. What is not set is not limited; an empty
// list allows nothing.
type Rules struct {
	// Namespaces are names; one that ends in * stands for all that begin so.
	Namespaces *[]string `json:"namespaces,omitempty"`
	// Images are prefixes of image references, in their full form
	// (busybox is docker.io/library/busybox): one that ends in / allows what
	// is below it, any other that repository alone.
	Images          *[]string `json:"images,omitempty"`
	ServiceAccounts *[]string `json:"serviceAccounts,omitempty"`
	// NodeSelectors are the values that job.nodeSelector may ask for, by key.
	NodeSelectors *map[string][]string `json:"nodeSelectors,omitempty"`
	// MaxResources bound the limits, which must be given then.
	MaxResources             *MaxResources `json:"maxResources,omitempty"`
	MaxTTLSeconds            *int32        `json:"maxTTLSecondsAfterFinished,omitempty"`
	MaxActiveDeadlineSeconds *int32        `json:"maxActiveDeadlineSeconds,omitempty"`
	MaxBackoffLimit          *int32        `json:"maxBackoffLimit,omitempty"`
	// WebhookHosts are names or addresses; *.example.com stands for every name
	// below example.com.
	WebhookHosts *[]string `json:"webhookHosts,omitempty"`

	// LaunchDeadline is how long a request may wait for its Job; default: the
	// launcher's own.
	LaunchDeadline *metav1.Duration `json:"launchDeadline,omitempty"`
	// MaxActive is how many Jobs of the service may be there at once without
	// their end: those launched since the rule was set.
	MaxActive *int32 `json:"maxActive,omitempty"`
	// Rate is how fast each replica of the launcher creates the service's Jobs.
	Rate *Rate `json:"rate,omitempty"`
	// StartDeadlines are how long a Job may be without anything running;
	// default: the watcher's own.
	StartDeadlines *StartDeadlines `json:"startDeadlines,omitempty"`
	// SigningKey is the file, below the notifier's --signing-keys, of the keys that
	// the service's callbacks are signed with.
	SigningKey *string `json:"signingKey,omitempty"`
	// Callback is how the service's callbacks are sent.
	Callback *CallbackRules `json:"callback,omitempty"`
	// JobTemplate is what the message is laid on.
	JobTemplate *JobTemplate `json:"jobTemplate,omitempty"`
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64 `json:"perSecond"`       // 0.001 to 10,000
	Burst     int     `json:"burst,omitempty"` // that may go at once; default 1
}

// StartDeadlines are the watcher's flags of these names, for one service; what
// is not set is the watcher's own.
type StartDeadlines struct {
	Start       *metav1.Duration `json:"start,omitempty"`
	ImagePull   *metav1.Duration `json:"imagePull,omitempty"`
	Unstartable *metav1.Duration `json:"unstartable,omitempty"`
}

// CallbackRules name files below the notifier's --callback-files; empty: none.
type CallbackRules struct {
	// CAFile has the CAs that verify a receiver's certificate, instead of the
	// system's.
	CAFile string `json:"caFile,omitempty"`
	// HeadersFile has headers for each callback to one of WebhookHosts, without
	// which it is a mistake: a message names any address.
	HeadersFile string `json:"headersFile,omitempty"`
	// HeadersOverHTTP sends them to http addresses, too.
	HeadersOverHTTP bool `json:"headersOverHTTP,omitempty"`
}

// MaxResources are Kubernetes quantities; empty: no bound.
type MaxResources struct {
	CPU    string `json:"cpu,omitempty"`
	Memory string `json:"memory,omitempty"`
}

// JobTemplate is a Job in plain Kubernetes YAML without what is the message's.
type JobTemplate struct {
	Metadata TemplateMetadata `json:"metadata,omitzero"`
	Spec     struct {
		Template struct {
			Metadata TemplateMetadata `json:"metadata,omitzero"`
			Spec     corev1.PodSpec   `json:"spec,omitzero"`
		} `json:"template,omitzero"`
	} `json:"spec,omitzero"`
}

// TemplateMetadata is the part of the metadata that a template may set.
type TemplateMetadata struct {
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// ParsePolicy reads the operator's file. Its error has every problem, one a
// line, each with its path.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicyBytes {
		return nil, fmt.Errorf("the policy has more than %d bytes", MaxPolicyBytes)
	}
	var p Policy
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		return nil, fmt.Errorf("the policy cannot be read: %w", err)
	}
	var wrong []error
	wrong = append(wrong, p.Default.check("default")...)
	wrong = append(wrong, p.Default.checkHeaders("default")...)
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		path := "services." + name
		if code, message := service(name); code != "" {
			wrong = append(wrong, fmt.Errorf("%s: the service's name %s", path, message))
		}
		wrong = append(wrong, p.Services[name].check(path)...)
		if own := p.Services[name]; own.Callback != nil {
			wrong = append(wrong, p.Rules(name).checkHeaders(path)...)
		}
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	return &p, nil
}

// check finds what is wrong with the rules themselves.
func (r Rules) check(path string) (wrong []error) {
	bad := func(field, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s.%s %s", path, field, fmt.Sprintf(format, args...)))
	}
	list := func(field string, values *[]string, rule func(string) bool, what string) {
		if values == nil {
			return
		}
		for i, v := range *values {
			if !rule(v) {
				bad(fmt.Sprintf("%s[%d]", field, i), "must be %s", what)
			}
		}
	}
	list("namespaces", r.Namespaces, func(s string) bool {
		s = strings.TrimSuffix(s, "*")
		return s == "" || len(validation.IsDNS1123Label(strings.TrimSuffix(s, "-"))) == 0
	}, "a namespace, or the beginning of one and *")
	list("images", r.Images, func(s string) bool {
		_, err := reference.ParseNormalizedNamed(strings.TrimSuffix(s, "/"))
		return err == nil || s != "" && strings.HasSuffix(s, "/") && !strings.ContainsAny(s, "@ ")
	}, "the beginning of an image reference")
	list("serviceAccounts", r.ServiceAccounts, func(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }, "the name of a service account")
	list("webhookHosts", r.WebhookHosts, func(s string) bool {
		return s != "" && !strings.ContainsAny(s, "/@:") || strings.Count(s, ":") > 1 && !strings.ContainsAny(s, "/@[]")
	}, "a host without scheme, port and path")
	if r.NodeSelectors != nil {
		for _, key := range slices.Sorted(maps.Keys(*r.NodeSelectors)) {
			if len(validation.IsQualifiedName(key)) > 0 {
				bad("nodeSelectors", "must have label keys; one of them is none")
			}
		}
	}
	if r.MaxResources != nil {
		for field, text := range map[string]string{"cpu": r.MaxResources.CPU, "memory": r.MaxResources.Memory} {
			if _, err := ParseQuantity(text); text != "" && err != nil {
				bad("maxResources."+field, "%v", err)
			}
		}
	}
	number := func(field string, n *int32, least int32) {
		if n != nil && *n < least {
			bad(field, "must be at least %d", least)
		}
	}
	number("maxTTLSecondsAfterFinished", r.MaxTTLSeconds, minTTLSeconds)
	number("maxActiveDeadlineSeconds", r.MaxActiveDeadlineSeconds, 1)
	number("maxBackoffLimit", r.MaxBackoffLimit, 0)
	wait := func(field string, d *metav1.Duration, most time.Duration) {
		if d != nil && (d.Duration <= 0 || d.Duration > most) {
			bad(field, "must be more than 0 and at most %s", most)
		}
	}
	wait("launchDeadline", r.LaunchDeadline, maxLaunchWait)
	if d := r.StartDeadlines; d != nil {
		wait("startDeadlines.start", d.Start, maxStartWait)
		wait("startDeadlines.imagePull", d.ImagePull, maxStartWait)
		wait("startDeadlines.unstartable", d.Unstartable, maxStartWait)
	}
	if r.MaxActive != nil && (*r.MaxActive < 1 || *r.MaxActive > maxMaxActive) {
		bad("maxActive", "must be 1 to %d", maxMaxActive)
	}
	if r.Rate != nil && !(r.Rate.PerSecond >= minPerSecond && r.Rate.PerSecond <= maxPerSecond) { // so that NaN is none
		bad("rate.perSecond", "must be %g to %d", minPerSecond, maxPerSecond)
	}
	if r.Rate != nil && (r.Rate.Burst < 0 || r.Rate.Burst > maxPerSecond) {
		bad("rate.burst", "must be 0 to %d", maxPerSecond)
	}
	file := func(field, name string) {
		if len(validation.IsConfigMapKey(name)) > 0 {
			bad(field, "must be the name of a file, of letters, digits, -, _ and .")
		}
	}
	if r.SigningKey != nil {
		file("signingKey", *r.SigningKey)
	}
	if c := r.Callback; c != nil && c.CAFile != "" {
		file("callback.caFile", c.CAFile)
	}
	if c := r.Callback; c != nil && c.HeadersFile != "" {
		file("callback.headersFile", c.HeadersFile)
	}
	if r.JobTemplate != nil {
		for _, problem := range r.JobTemplate.check() {
			bad("jobTemplate", "%s", problem)
		}
	}
	return wrong
}

// checkHeaders wants to know of rules in full where their headers may go.
func (r Rules) checkHeaders(path string) []error {
	if r.Callback == nil || r.Callback.HeadersFile == "" || r.WebhookHosts != nil {
		return nil
	}
	return []error{fmt.Errorf("%s.callback.headersFile needs webhookHosts beside it: the headers go to no other host", path)}
}

// check finds what a template must leave to the message, or to jobrelay.
func (t *JobTemplate) check() (wrong []string) {
	for at, m := range map[string]TemplateMetadata{"metadata": t.Metadata, "spec.template.metadata": t.Spec.Template.Metadata} {
		for _, key := range slices.Sorted(maps.Keys(m.Labels)) {
			if key == "app" || strings.HasPrefix(key, "jobrelay.dev/") {
				wrong = append(wrong, at+".labels: "+key+" is jobrelay's own")
			}
			if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(m.Labels[key])) > 0 {
				wrong = append(wrong, at+".labels: one is no Kubernetes label")
			}
		}
		for _, key := range slices.Sorted(maps.Keys(m.Annotations)) {
			if strings.HasPrefix(key, "jobrelay.dev/") {
				wrong = append(wrong, at+".annotations: "+key+" is jobrelay's own")
			}
			if len(validation.IsQualifiedName(strings.ToLower(key))) > 0 {
				wrong = append(wrong, at+".annotations: one has no Kubernetes key")
			}
		}
	}
	pod := &t.Spec.Template.Spec
	own := func(set bool, field, whose string) {
		if set {
			wrong = append(wrong, "spec.template.spec."+field+" is "+whose)
		}
	}
	own(pod.RestartPolicy != "" && pod.RestartPolicy != corev1.RestartPolicyNever, "restartPolicy", "always Never")
	own(pod.ServiceAccountName != "" || pod.DeprecatedServiceAccount != "", "serviceAccountName", "the message's; bound it with serviceAccounts")
	own(pod.ActiveDeadlineSeconds != nil, "activeDeadlineSeconds", "the message's; bound it with maxActiveDeadlineSeconds")
	own(len(pod.Containers) > 1, "containers", "for one container at most: the message's")
	for i := range pod.Containers {
		c := &pod.Containers[i]
		own(c.Name != "" || c.Image != "" || len(c.Command)+len(c.Args) > 0, "containers[0]", "without name, image, command and args: they are the message's")
	}
	for i := range pod.Volumes {
		own(pod.Volumes[i].Name == VolumeName, "volumes", "without "+VolumeName+": that is the message's")
	}
	slices.Sort(wrong)
	return wrong
}

// VolumeName is the name of the message's volume in its Pod.
const VolumeName = "persistent-storage"

// Rules are those of a service, with the default's for what its entry leaves
// out.
func (p *Policy) Rules(service string) Rules {
	if p == nil {
		return Rules{}
	}
	r, ok := p.Services[service]
	if !ok {
		return p.Default
	}
	d := p.Default
	r.Namespaces = or(r.Namespaces, d.Namespaces)
	r.Images = or(r.Images, d.Images)
	r.ServiceAccounts = or(r.ServiceAccounts, d.ServiceAccounts)
	r.NodeSelectors = or(r.NodeSelectors, d.NodeSelectors)
	r.MaxResources = or(r.MaxResources, d.MaxResources)
	r.MaxTTLSeconds = or(r.MaxTTLSeconds, d.MaxTTLSeconds)
	r.MaxActiveDeadlineSeconds = or(r.MaxActiveDeadlineSeconds, d.MaxActiveDeadlineSeconds)
	r.MaxBackoffLimit = or(r.MaxBackoffLimit, d.MaxBackoffLimit)
	r.WebhookHosts = or(r.WebhookHosts, d.WebhookHosts)
	r.LaunchDeadline = or(r.LaunchDeadline, d.LaunchDeadline)
	r.MaxActive = or(r.MaxActive, d.MaxActive)
	r.Rate = or(r.Rate, d.Rate)
	r.StartDeadlines = or(r.StartDeadlines, d.StartDeadlines)
	r.SigningKey = or(r.SigningKey, d.SigningKey)
	r.Callback = or(r.Callback, d.Callback)
	r.JobTemplate = or(r.JobTemplate, d.JobTemplate)
	return r
}

// SigningKeys are all that the policy names, in order.
func (p *Policy) SigningKeys() []string {
	return p.files(func(r Rules) string {
		if r.SigningKey == nil {
			return ""
		}
		return *r.SigningKey
	})
}

// CAFiles are all that the policy names, in order.
func (p *Policy) CAFiles() []string {
	return p.files(func(r Rules) string { return r.callback().CAFile })
}

// HeadersFiles are all that the policy names, in order.
func (p *Policy) HeadersFiles() []string {
	return p.files(func(r Rules) string { return r.callback().HeadersFile })
}

func (p *Policy) files(of func(Rules) string) []string {
	if p == nil {
		return nil
	}
	var out []string
	for _, r := range append(slices.Collect(maps.Values(p.Services)), p.Default) {
		if name := of(r); name != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// FilesFor are the CA file and the headers file for a callback to an address,
// of rules in full; empty where there is none.
func (r Rules) FilesFor(address string) (ca, headers string) {
	c := r.callback()
	if c.HeadersFile != "" && r.WebhookHosts != nil && hostIn(*r.WebhookHosts, address) &&
		(c.HeadersOverHTTP || strings.HasPrefix(strings.ToLower(address), "https:")) {
		headers = c.HeadersFile
	}
	return c.CAFile, headers
}

func (r Rules) callback() CallbackRules {
	if r.Callback == nil {
		return CallbackRules{}
	}
	return *r.Callback
}

func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// Check is what the policy does not allow of an accepted form: one problem of
// CodePolicy for each rule that is broken, which it names as
// services.<name>.<rule>.
func (p *Policy) Check(r *jobsv1.JobRequested) []Problem {
	if p == nil {
		return nil
	}
	var out []Problem
	_, own := p.Services[r.GetService()]
	if p.Deny && !own {
		return []Problem{{Path: "$.service", Code: CodePolicy, Message: "has no entry in the policy, which denies by default"}}
	}
	rules, job := p.Rules(r.GetService()), r.GetJob()
	deny := func(path, rule, message string) {
		out = append(out, Problem{Path: path, Code: CodePolicy, Message: cut(message + " (rule services." + r.GetService() + "." + rule + ")")})
	}
	if l := rules.Namespaces; l != nil && !slices.ContainsFunc(*l, func(s string) bool { return matches(s, job.GetNamespace()) }) {
		deny("$.job.namespace", "namespaces", "is not allowed")
	}
	if l := rules.Images; l != nil && !slices.ContainsFunc(*l, func(s string) bool { return imageIn(s, job.GetImage()) }) {
		deny("$.job.image", "images", "is of no allowed registry or repository")
	}
	if l := rules.ServiceAccounts; l != nil && !slices.Contains(*l, job.GetServiceAccount()) {
		deny("$.job.serviceAccount", "serviceAccounts", "is not allowed")
	}
	if s := job.GetNodeSelector(); rules.NodeSelectors != nil && s != nil && !slices.Contains((*rules.NodeSelectors)[s.GetMatchKey()], s.GetMatchValue()) {
		deny("$.job.nodeSelector", "nodeSelectors", "is not allowed")
	}
	if most := rules.MaxResources; most != nil {
		limits := job.GetResources().GetLimits()
		exceeds(deny, "cpu", limits.GetCpu(), most.CPU)
		exceeds(deny, "memory", limits.GetMemory(), most.Memory)
	}
	above := func(path, rule string, n int32, most *int32) {
		if most != nil && n > *most {
			deny(path, rule, fmt.Sprintf("must be at most %d", *most))
		}
	}
	above("$.job.ttlSecondsAfterFinished", "maxTTLSecondsAfterFinished", job.GetTtlSecondsAfterFinished(), rules.MaxTTLSeconds)
	above("$.job.activeDeadlineSeconds", "maxActiveDeadlineSeconds", job.GetActiveDeadlineSeconds(), rules.MaxActiveDeadlineSeconds)
	above("$.job.backoffLimit", "maxBackoffLimit", job.GetBackoffLimit(), rules.MaxBackoffLimit)
	if address := r.GetWebhook().GetUrl(); rules.WebhookHosts != nil && address != "" && !hostIn(*rules.WebhookHosts, address) {
		deny(PathWebhookURL, "webhookHosts", "is of no allowed host")
	}
	return out
}

// PathWebhookURL is where a problem stands that forbids any callback: the
// policy does not allow its host.
const PathWebhookURL = "$.webhook.url"

func exceeds(deny func(path, rule, message string), name, limit, most string) {
	if most == "" {
		return
	}
	path, rule := "$.job.resources.limits."+name, "maxResources."+name
	if limit == "" {
		deny(path, rule, "must be given, and be at most "+most)
		return
	}
	if have, bound := amount(limit), amount(most); have.Cmp(bound) > 0 {
		deny(path, rule, "must be at most "+most)
	}
}

// amount is a quantity that kept its rule before; any other is without end.
func amount(s string) resource.Quantity {
	q, err := ParseQuantity(s)
	if err != nil {
		return *resource.NewQuantity(math.MaxInt64, resource.DecimalSI)
	}
	return q
}

func matches(pattern, name string) bool {
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, begin)
	}
	return pattern == name
}

// imageIn compares full forms, so that busybox cannot pass for another
// registry's, nor example.com/team-x for example.com/team.
func imageIn(allowed, image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	if folder, ok := strings.CutSuffix(allowed, "/"); ok {
		return strings.HasPrefix(named.Name(), folder+"/")
	}
	want, err := reference.ParseNormalizedNamed(allowed)
	if err != nil || named.Name() != want.Name() {
		return false
	}
	return reference.IsNameOnly(want) || want.String() == named.String()
}

func hostIn(allowed []string, address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	return slices.ContainsFunc(allowed, func(a string) bool {
		a = strings.ToLower(a)
		if parent, ok := strings.CutPrefix(a, "*."); ok {
			return strings.HasSuffix(host, "."+parent)
		}
		return host == a
	})
}
