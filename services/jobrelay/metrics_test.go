package jobrelay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	awaiting "github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
	pages "github.com/jobrelay/jobrelay/services/console"
	"github.com/jobrelay/jobrelay/services/ingest"
	"github.com/jobrelay/jobrelay/services/launcher"
	"github.com/jobrelay/jobrelay/services/notifier"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// labelBounds are the values that a label may have, of one metric
// (<metric>/<label>) or of all; docs/metrics.md lists them. A label that is not
// here fails the test.
var labelBounds = map[string]bound{
	"breaker":   closed("closed", "open", "half-open"),
	"edge":      closed(telemetry.SQS, telemetry.NATS, telemetry.Kubernetes, telemetry.Webhook),
	"result":    closed(telemetry.Results()...),
	"target":    {note: "a queue of `--sqs-queue-url`, a stream, a Kubernetes resource, or empty", values: slices.Concat(queueNames, streamNames(), cluster.Resources(), []string{""})},
	"operation": {note: "of SQS: receive, delete, visibility, attributes; of NATS: publish, get, get many, info; of webhooks: post; of Kubernetes: its verbs", values: slices.Concat([]string{"receive", "delete", "visibility", "attributes", "publish", "get", "get many", "info", "post"}, cluster.Verbs())},
	"consumer":  closed(consumerNames()...),
	"queue":     {note: "a queue of `--sqs-queue-url`", values: queueNames},
	"state":     closed("visible", "in flight", "delayed"),
	"step":      closed(telemetry.Steps()...),
	"action":    closed("receive", "delete", "visibility"),
	"type":      closed(event.Types()...),
	"code":      {note: "an error code ([error-codes.md](error-codes.md)), or COMPLETED", values: append(codeNames(), "COMPLETED")},
	"class":     closed(delivery.Delivered, delivery.Unwell, delivery.Refused, delivery.Gone),
	"end":       {note: "delivered, or the reason why not", values: append(slices.Clone(endReasons), string(delivery.Delivered))},
	"reason":    closed(endReasons...),
	"file":      {note: "a key file of the policy's `signingKey`", values: []string{"example"}},
	"version":   {note: "of this build", values: []string{process.Version()}},
	"revision":  {note: "of this build"}, "goversion": {note: "of this build"},
	"configuration": closed("policy", "signing", "callback-files", "users"),
	"page":          closed(pages.PageNames()...),

	"jobrelay_consumer_messages_total/outcome": closed(broker.Settled()...),
	"jobrelay_ingest_messages_total/outcome":   closed("accepted", "duplicate", "rejected", "given back"),
	"jobrelay_launcher_launches_total/outcome": closed("created", "adopted", "known", "parked", "exception", "surplus", "spent"),
	"jobrelay_watcher_cancels_total/outcome":   closed("ended", "stopped", "late", "unknown"),
	"jobrelay_watcher_log_tails_total/outcome": closed("read", "gone", "forbidden", "timeout", "skipped", "failed"),
	"jobrelay_watcher_errors_total/operation":  closed("watch", "log", "job"),
	"jobrelay_console_logins_total/outcome":    closed(pages.Logins()...),
	"jobrelay_console_actions_total/action":    closed(pages.Actions()...),
	"jobrelay_console_actions_total/outcome":   closed(pages.Outcomes()...),
}

// bound is what bounds a label: its values, said in words where they are many or
// the configuration's. Nil values: one process has one.
type bound struct {
	note   string
	values []string
}

func closed[T ~string](values ...T) bound {
	var b bound
	for _, v := range values {
		b.values = append(b.values, string(v))
	}
	b.note = strings.Join(b.values, ", ")
	return b
}

var (
	queueNames = []string{devQueue}
	endReasons = []string{
		delivery.ReasonNotWanted, delivery.ReasonSuperseded, delivery.ReasonRefused, delivery.ReasonExhausted, delivery.ReasonGone,
		delivery.ReasonNoSpace, delivery.ReasonReplayed,
	}
)

func streamNames() (names []string) {
	for _, s := range broker.Topology(1) {
		names = append(names, s.Name)
	}
	return names
}

func consumerNames() (names []string) {
	for _, c := range broker.Consumers() {
		names = append(names, c.String())
	}
	return names
}

func codeNames() (names []string) {
	for _, d := range jobstatus.Codes() {
		names = append(names, string(d.Code))
	}
	return names
}

// boundOf is the bound of a metric's label.
func boundOf(metric, label string) (b bound, key string, ok bool) {
	for _, key := range []string{metric + "/" + label, label} {
		if b, ok := labelBounds[key]; ok {
			return b, key, true
		}
	}
	return bound{}, "", false
}

// metric is one of docs/metrics.md.
type metric struct {
	name, kind, help string
	labels           []string
	roles            []string
}

// TestMetricsPage compares docs/metrics.md with what the services register,
// whether it has a value yet or not.
func TestMetricsPage(t *testing.T) {
	all := map[string]*metric{}
	for role, registry := range registries(t) {
		for _, c := range registry.Collectors() {
			for _, m := range described(t, c) {
				if !strings.HasPrefix(m.name, "jobrelay_") {
					continue // of Go and the process
				}
				if have, ok := all[m.name]; ok {
					if !slices.Contains(have.roles, role) {
						have.roles = append(have.roles, role)
					}
					continue
				}
				m.roles = []string{role}
				all[m.name] = &m
			}
		}
		boundsHold(t, registry)
	}
	var page bytes.Buffer
	page.WriteString(`# Metrics

Each service serves its own at ` + "`/metrics`" + `, beside those of Go and of the process
(` + "`go_*`, `process_*`" + `). This page is generated from what they register (` + "`make generate`" + `).

Durations and ages are native histograms: set ` + "`scrape_native_histograms: true`" + ` in the scrape
configuration (Prometheus 3.8 or later; ` + "`--enable-feature=native-histograms`" + ` before). Without
it their sum and count are there, and no quantile. Exemplars carry ` + "`trace_id`" + `.

What several replicas know of one thing, a queue or a consumer, each of them shows:
take the ` + "`max`" + `, not the sum. ` + "[deploy/monitoring](../deploy/monitoring) has a dashboard and rules, " +
		"[runbook.md](runbook.md) what to do about an alert.\n\n")
	page.WriteString("| metric | type | labels | of | |\n|---|---|---|---|---|\n")
	used := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		slices.Sort(m.roles)
		roles := strings.Join(m.roles, ", ")
		if len(m.roles) == 5 {
			roles = "all"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), roles, m.help)
		for _, label := range m.labels {
			_, key, ok := boundOf(m.name, label)
			if !ok {
				t.Errorf("label %s of %s has no bound: add it to labelBounds", label, m.name)
			}
			used[key] = true
		}
	}
	page.WriteString("\n## The values of the labels\n\nEach label has a closed set of values, or one that the configuration bounds; no label has an id, a\nservice, an address or a name out of a message.\n\n| label | values |\n|---|---|\n")
	for _, key := range slices.Sorted(maps.Keys(labelBounds)) {
		if !used[key] {
			t.Errorf("no metric has the label %s: take it out of labelBounds", key)
		}
		metric, label, own := strings.Cut(key, "/")
		if own {
			label += " of `" + metric + "`"
		} else {
			label = key
		}
		fmt.Fprintf(&page, "| %s | %s |\n", label, labelBounds[key].note)
	}
	generated(t, "docs/metrics.md", page.Bytes())
}

// registries are those of the services, each at work beside a real NATS and a
// real queue, without Kubernetes.
func registries(t *testing.T) map[string]*process.Registry {
	t.Helper()
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	b, err := broker.Open(t.Context(), broker.Config{URL: n.URL()}, zerolog.Nop()) // the console makes no streams
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	q, err := sqsd.Start(sqsd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Stop(context.Background()) })
	queue, err := q.CreateQueue(devQueue, nil)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],"users":[{"name":"u","user":{}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var (
		i ingest.Config
		l launcher.Config
		w watcher.Config
		o notifier.Config
		c pages.Config
	)
	nats, address, kube := "--nats-url="+n.URL(), "--metrics-addr=127.0.0.1:0", "--kubeconfig="+kubeconfig
	if err := errors.Join(
		process.Parse(&i, nil, nats, address, "--sqs-queue-url="+queue), process.Parse(&l, nil, nats, address, kube),
		process.Parse(&w, nil, nats, address, kube), process.Parse(&o, notifier.Vars(), nats, address),
		process.Parse(&c, nil, nats, address, "--listen=127.0.0.1:0", "--allow-actions"),
	); err != nil {
		t.Fatal(err)
	}
	i.Endpoint = q.URL()
	out := map[string]*process.Registry{}
	own := func(role string) *process.Registry {
		out[role] = process.NewRegistry()
		return out[role]
	}
	i.Replica.Registry, l.Replica.Registry, w.Replica.Registry, o.Replica.Registry = own("ingest"), own("launcher"), own("watcher"), own("notifier")
	c.Replica.Registry = own("console")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	run := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	run(func() error { return ingest.Run(ctx, i, zerolog.Nop()) })
	run(func() error { return launcher.Run(ctx, l, zerolog.Nop()) })
	run(func() error { return watcher.Run(ctx, w, zerolog.Nop()) })
	run(func() error { return notifier.Run(ctx, o, zerolog.Nop()) })
	run(func() error { return pages.Run(ctx, c, zerolog.Nop()) })
	t.Cleanup(func() {
		cancel()
		q.EndPolls()
		running.Wait()
	})
	for role, registry := range out {
		awaiting.That(t, role+" is connected", func() bool { return valueOf(t, registry, "jobrelay_nats_connected") == 1 })
	}
	return out
}

func valueOf(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// boundsHold reports every label whose value is not among those that it may have.
func boundsHold(t *testing.T, g prometheus.Gatherer) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "jobrelay_") {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				b, _, ok := boundOf(f.GetName(), l.GetName())
				if !ok || b.values != nil && !slices.Contains(b.values, l.GetValue()) {
					t.Errorf("%s has %s=%q, which is past its bound", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
}

// desc is the form of prometheus.Desc, which has no other way to say what it is.
var desc = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), (?:unit: "[^"]*", )?constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// described are the metrics of a collector.
func described(t *testing.T, c prometheus.Collector) (out []metric) {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	for d := range descs {
		parts := desc.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("%s", d)
		}
		m := metric{kind: kindOf(t, c)}
		var err error
		if m.name, err = strconv.Unquote(parts[1]); err != nil {
			t.Fatal(err)
		}
		if m.help, err = strconv.Unquote(parts[2]); err != nil {
			t.Fatal(err)
		}
		for label := range strings.SplitSeq(parts[3], ",") {
			if name, _, ok := strings.Cut(label, "="); ok {
				m.labels = append(m.labels, name)
			}
		}
		for label := range strings.SplitSeq(parts[4], ",") {
			if label != "" {
				m.labels = append(m.labels, label)
			}
		}
		slices.Sort(m.labels)
		out = append(out, m)
	}
	return out
}

// kindOf is the type of a collector's metrics, all of one type.
func kindOf(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	switch c := c.(type) {
	case *prometheus.CounterVec:
		return "counter"
	case *prometheus.GaugeVec:
		return "gauge"
	case *prometheus.HistogramVec:
		return "histogram"
	case prometheus.Metric:
		var m dto.Metric
		if err := c.Write(&m); err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Counter != nil:
			return "counter"
		case m.Histogram != nil:
			return "histogram"
		}
	}
	return "gauge" // our own collectors show states
}
