package request

import (
	"math"
	"path"
	"slices"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// The defaults and bounds of numbers. Seconds where the name says so.
const (
	defaultServiceAccount  = "default"
	minTTLSeconds          = 60 // also the default
	defaultMaxBackoffLimit = 6
	maxDeadlineSeconds     = 86400 // a day; also the default
)

// Statuses are the callbacks there are, and webhook.statuses' default.
func Statuses() []int32 { return []int32{0, 1, 2, 3, 99} }

// request reads the message. What is refused is left empty.
func (r *reader) request(root node) *jobsv1.JobRequested {
	req := &jobsv1.JobRequested{}
	if !r.check("$", &root, kindObject) {
		return req
	}
	o := object{r, "$", &root}
	req.Id, _ = o.string("id", required, identifier)
	req.Service, _ = o.string("service", required, service)
	if job, ok := o.object("job", required); ok {
		req.Job = job.job()
	}
	if webhook, ok := o.object("webhook", optional); ok {
		req.Webhook = webhook.webhook()
	}
	o.rest()
	return req
}

func (o object) job() *jobsv1.Job {
	j := &jobsv1.Job{}
	j.PrefixName, _ = o.string("prefixName", required, prefixName)
	j.Namespace, _ = o.string("namespace", required, dnsLabel)
	j.Image, _ = o.string("image", required, image)
	j.Command = o.command()
	j.Args, _ = o.strings("args", optional, noNUL)
	j.Env = o.env()
	j.ServiceAccount = defaultServiceAccount
	if name, ok := o.string("serviceAccount", optional, dnsSubdomain); ok {
		j.ServiceAccount = name
	}
	j.TtlSecondsAfterFinished = o.integer("ttlSecondsAfterFinished", minTTLSeconds, math.MaxInt32, minTTLSeconds)
	j.BackoffLimit = o.integer("backoffLimit", 0, o.r.opt.maxBackoffLimit(), 0)
	j.ActiveDeadlineSeconds = o.integer("activeDeadlineSeconds", 1, maxDeadlineSeconds, maxDeadlineSeconds)
	if resources, ok := o.object("resources", optional); ok {
		j.Resources = resources.resources()
	}
	if s, ok := o.object("nodeSelector", optional); ok {
		j.NodeSelector = &jobsv1.NodeSelector{}
		j.NodeSelector.MatchKey, _ = s.string("matchKey", required, labelKey)
		j.NodeSelector.MatchValue, _ = s.string("matchValue", required, labelValue)
		s.rest()
	}
	if t, ok := o.object("toleration", optional); ok {
		j.Toleration = &jobsv1.Toleration{}
		j.Toleration.Key, _ = t.string("key", required, labelKey)
		j.Toleration.Value, _ = t.string("value", optional, labelValue) // a taint may have none
		t.rest()
	}
	j.Volume = o.volume()
	o.rest()
	return j
}

func (opt Options) maxBackoffLimit() int32 {
	if opt.MaxBackoffLimit == 0 {
		return defaultMaxBackoffLimit
	}
	return int32(min(max(opt.MaxBackoffLimit, 0), math.MaxInt32))
}

func (o object) command() []string {
	command, ok := o.strings("command", required, noNUL)
	if ok && (len(command) == 0 || command[0] == "") {
		o.r.problems.add(member(o.path, "command"), CodeInvalid, "must not be empty: its first string is the program")
	}
	return command
}

// env reads the variables. A name may come twice, as in Kubernetes: the last
// one counts.
func (o object) env() []*jobsv1.EnvVar {
	n := o.get("env", optional, kindArray)
	if n == nil {
		return nil
	}
	out := make([]*jobsv1.EnvVar, 0, len(n.kids))
	for i := range n.kids {
		v := object{o.r, element(member(o.path, "env"), i), &n.kids[i]}
		if !o.r.check(v.path, v.n, kindObject) {
			continue
		}
		e := &jobsv1.EnvVar{}
		e.Name, _ = v.string("name", required, envName)
		e.Value, _ = v.string("value", optional, noNUL) // empty by default, as in Kubernetes
		v.rest()
		out = append(out, e)
	}
	return out
}

func (o object) resources() *jobsv1.Resources {
	res := &jobsv1.Resources{}
	if q, ok := o.object("limits", optional); ok {
		res.Limits = q.quantities()
	}
	if q, ok := o.object("requests", optional); ok {
		res.Requests = q.quantities()
	}
	o.atMost("cpu", res.Requests.GetCpu(), res.Limits.GetCpu())
	o.atMost("memory", res.Requests.GetMemory(), res.Limits.GetMemory())
	o.rest()
	return res
}

func (o object) quantities() *jobsv1.Quantities {
	q := &jobsv1.Quantities{}
	q.Cpu, _ = o.string("cpu", optional, quantity)
	q.Memory, _ = o.string("memory", optional, quantity)
	o.rest()
	return q
}

// atMost compares a request with its limit where both are given.
func (o object) atMost(name, request, limit string) {
	if request == "" || limit == "" {
		return
	}
	req, _ := ParseQuantity(request) // both kept their rule
	lim, _ := ParseQuantity(limit)
	if req.Cmp(lim) > 0 {
		o.r.problems.add(member(o.path+".requests", name), CodeRange, "must be at most the limit")
	}
}

// secondVolume is how the original's sample spells volume.
const secondVolume = "volume:"

func (o object) volume() *jobsv1.Volume {
	name := "volume"
	if o.has(secondVolume) {
		if o.has(name) {
			o.r.problems.add(member(o.path, name), CodeConflict, `is there in both spellings, "volume" and "volume:"`)
			o.get(name, optional, kindObject)
			o.get(secondVolume, optional, kindObject)
			return nil
		}
		name = secondVolume
		o.r.warnings.add(member(o.path, name), CodeSpelling, `is read as "volume"; write it so`)
	}
	v, ok := o.object(name, optional)
	if !ok {
		return nil
	}
	volume := &jobsv1.Volume{}
	if p, ok := v.string("mountPath", required, mountPath); ok {
		volume.MountPath = path.Clean("/" + p)
	}
	volume.Pvc, _ = v.string("pvc", required, dnsSubdomain)
	v.rest()
	return volume
}

// webhook gives nil where there is no address, or something is wrong: then no
// callback is possible. An empty list of statuses means that none is wanted.
func (o object) webhook() *jobsv1.Webhook {
	url, ok := o.string("url", optional, webhookURL)
	statuses, valid := o.statuses()
	if !o.has("url") {
		o.r.warnings.add(o.path, CodeRequired, "has no url: no callbacks are sent")
	}
	o.rest()
	if !ok || !valid {
		return nil
	}
	return &jobsv1.Webhook{Url: url, Statuses: statuses}
}

func (o object) statuses() (_ []int32, valid bool) {
	if !o.has("statuses") {
		return Statuses(), true
	}
	n := o.get("statuses", optional, kindArray)
	if n == nil {
		return nil, false
	}
	valid = true
	out := make([]int32, 0, len(Statuses()))
	for i := range n.kids {
		at := element(member(o.path, "statuses"), i)
		if !o.r.check(at, &n.kids[i], kindNumber) {
			valid = false
			continue
		}
		s, ok := o.r.integer(at, &n.kids[i], math.MinInt32, math.MaxInt32)
		switch {
		case !ok:
			valid = false
		case !slices.Contains(Statuses(), s):
			valid = false
			o.r.problems.add(at, CodeInvalid, "must be one of 0, 1, 2, 3 and 99")
		case slices.Contains(out, s):
			valid = false
			o.r.problems.add(at, CodeDuplicate, "is there twice")
		default:
			out = append(out, s)
		}
	}
	return out, valid
}
