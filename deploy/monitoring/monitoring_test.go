// Package monitoring checks what Prometheus and Grafana are given: promtool runs the
// rules, and here they are held against the metrics and the runbook.
package monitoring

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// alert is a rule of rules.yaml.
type alert struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func alerts(t *testing.T) (out []alert) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []alert `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal(read(t, "rules.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) == 0 {
		t.Fatal("no rules")
	}
	return out
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEachAlertIsInTheRunbook: its link leads to a page of it, and each page has its
// alert.
func TestEachAlertIsInTheRunbook(t *testing.T) {
	pages := map[string]string{}
	for _, section := range strings.Split(string(read(t, "../../docs/runbook.md")), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		pages[title] = text
	}
	for _, a := range alerts(t) {
		text, ok := pages[a.Alert]
		if !ok {
			t.Errorf("%s has no page", a.Alert)
		}
		for _, part := range []string{"**Means.**", "**See.**", "**Do.**"} {
			if strings.Count(text, part) != 1 {
				t.Errorf("the page of %s has not one %s", a.Alert, part)
			}
		}
		delete(pages, a.Alert)
		page, anchor, _ := strings.Cut(a.Annotations["runbook_url"], "#")
		if anchor != strings.ToLower(a.Alert) || !strings.HasSuffix(page, "/docs/runbook.md") {
			t.Errorf("%s: %s", a.Alert, a.Annotations["runbook_url"])
		}
		if a.Annotations["summary"] == "" || a.Labels["severity"] != "page" && a.Labels["severity"] != "ticket" {
			t.Errorf("%s: %v %v", a.Alert, a.Labels, a.Annotations)
		}
	}
	for title := range pages {
		t.Errorf("no alert is called %s", title)
	}
}

// TestEachAlertIsTestedBothWays: promtool runs the tests; none may be missing.
func TestEachAlertIsTestedBothWays(t *testing.T) {
	var file struct {
		Tests []struct {
			Rules []struct {
				Alert    string `json:"alertname"`
				Expected []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "rules_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, r := range test.Rules {
			if len(r.Expected) > 0 {
				fires[r.Alert] = true
			} else {
				quiet[r.Alert] = true
			}
		}
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s: a test fires it: %t, one does not: %t", a.Alert, fires[a.Alert], quiet[a.Alert])
		}
	}
}

// known are the metrics that may be asked for, each with its labels: ours, as
// docs/metrics.md lists them, and some of every Go process.
func known(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{
		"process_start_time_seconds": nil, "process_cpu_seconds_total": nil, "process_resident_memory_bytes": nil, "go_goroutines": nil,
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [a-z]+ \\| ([a-z, ]*) \\|").FindAllStringSubmatch(string(read(t, "../../docs/metrics.md")), -1) {
		out[row[1]] = strings.Split(row[2], ", ")
	}
	return out
}

var (
	queried  = regexp.MustCompile(`\b((?:jobrelay|process|go)_[a-z_]+)(\{[^}]*\})?`)
	selected = regexp.MustCompile(`([a-z_]+)(?:=~|!=|=)"`)
)

// asks checks an expression against what is known.
func asks(t *testing.T, metrics map[string][]string, what, expr string) {
	t.Helper()
	found := queried.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		t.Errorf("%s asks for no metric: %s", what, expr)
	}
	for _, m := range found {
		labels, ok := metrics[m[1]]
		if !ok {
			t.Errorf("%s asks for %s, which is not in docs/metrics.md", what, m[1])
		}
		for _, l := range selected.FindAllStringSubmatch(m[2], -1) {
			if !strings.Contains(" "+strings.Join(labels, " ")+" ", " "+l[1]+" ") {
				t.Errorf("%s asks for label %s of %s, which has %v", what, l[1], m[1], labels)
			}
		}
	}
}

func TestRulesAskForMetricsThatAreThere(t *testing.T) {
	metrics := known(t)
	for _, a := range alerts(t) {
		asks(t, metrics, a.Alert, a.Expr)
	}
}

func TestTheDashboardAsksForMetricsThatAreThere(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			ID      int    `json:"id"`
			Type    string `json:"type"`
			Title   string `json:"title"`
			GridPos struct{ H, W, X, Y int }
			Targets []struct {
				Expr   string `json:"expr"`
				Legend string `json:"legendFormat"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(read(t, "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	metrics, ids, shown := known(t), map[int]bool{}, ""
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %s: id %d twice, or past the edge", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			asks(t, metrics, "panel "+p.Title, target.Expr)
			shown += target.Expr
		}
	}
	for _, edge := range []string{"jobrelay_calls_total", "jobrelay_call_seconds", "jobrelay_job_age_seconds", "jobrelay_consumer_pending"} {
		if !strings.Contains(shown, edge) {
			t.Errorf("%s is not shown", edge)
		}
	}
}
