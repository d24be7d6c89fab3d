package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// report is a whole run of the program.
type report struct {
	At      time.Time  `json:"at"`
	Machine machine    `json:"machine"`
	Rows    []measured `json:"rows"`
}

// machine is what it ran on, and what ran.
type machine struct {
	OS     string `json:"os"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
	Commit string `json:"commit"` // of the product's binaries
}

// measured is what became of a row.
type measured struct {
	ID       string            `json:"id"`
	Title    string            `json:"title"`
	Ours     string            `json:"ours"`
	Bare     string            `json:"bare"`
	Unit     string            `json:"unit"`
	Pairs    []pair            `json:"pairs"`
	Ratio    spread            `json:"ratio"` // of the pairs' ratios
	Rates    [2]spread         `json:"rates"` // ours, bare
	Counters map[string]values `json:"counters"`
	Goals    []verdict         `json:"goals"`
	Profile  string            `json:"profile,omitempty"`

	goals []goal
}

// values are a counter's, for each side that has it.
type values struct {
	Ours *spread `json:"ours,omitempty"`
	Bare *spread `json:"bare,omitempty"`
}

// verdict says whether a goal is met.
type verdict struct {
	Counter string `json:"counter,omitempty"` // empty: the ratio
	Goal    string `json:"goal"`
	Met     bool   `json:"met"`
}

// summarize makes the figures of the pairs'.
func (m *measured) summarize() {
	var ratios []float64
	var rates [2][]float64
	counters := map[string]*[2][]float64{}
	for _, p := range m.Pairs {
		ratios = append(ratios, p.Ratio)
		for i, r := range []result{p.Ours, p.Bare} {
			rates[i] = append(rates[i], r.Rate)
			for name, v := range r.Counters {
				if counters[name] == nil {
					counters[name] = &[2][]float64{}
				}
				counters[name][i] = append(counters[name][i], v)
			}
		}
	}
	m.Ratio = spreadOf(ratios)
	m.Rates = [2]spread{spreadOf(rates[ours]), spreadOf(rates[bare])}
	m.Counters = map[string]values{}
	for name, c := range counters {
		m.Counters[name] = values{Ours: spreadOrNil(c[ours]), Bare: spreadOrNil(c[bare])}
	}
	for _, g := range m.goals {
		figure := &m.Ratio
		if g.Counter != "" {
			figure = m.Counters[g.Counter].Ours
		}
		m.Goals = append(m.Goals, verdict{g.Counter, g.String(), figure != nil && g.met(*figure)})
	}
}

func spreadOrNil(values []float64) *spread {
	if len(values) == 0 {
		return nil
	}
	s := spreadOf(values)
	return &s
}

func (r report) missed() bool {
	return slices.ContainsFunc(r.Rows, func(m measured) bool {
		return slices.ContainsFunc(m.Goals, func(v verdict) bool { return !v.Met })
	})
}

func (r report) save(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o600)
}

func (r report) print(out io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := io.WriteString(out, r.table())
	return err
}

// table is for people: the ratio of each row, then what was counted.
func (r report) table() string {
	var text tableWriter
	for i, m := range r.Rows {
		if i > 0 {
			text.line("")
		}
		text.line("%s\t%s\tours\tbare\tratio\tmin..max\tquartiles\tgoal\t", m.ID, m.Title)
		text.line("\t%s\t%s\t%s\t%.3f\t%.3f..%.3f\t%.3f..%.3f\t%s\t", m.Unit, figure(&m.Rates[ours]), figure(&m.Rates[bare]),
			m.Ratio.Median, m.Ratio.Min, m.Ratio.Max, m.Ratio.LowerQuartile, m.Ratio.UpperQuartile, m.verdict(""))
		for _, name := range slices.Sorted(maps.Keys(m.Counters)) {
			c := m.Counters[name]
			text.line("\t%s\t%s\t%s\t\t\t\t%s\t", name, figure(c.Ours), figure(c.Bare), m.verdict(name))
		}
	}
	text.line("")
	for _, m := range r.Rows {
		text.plain("%s  ours: %s; bare: %s; %d pairs; JetStream: %s", m.ID, m.Ours, m.Bare, len(m.Pairs), m.jetStream())
	}
	text.plain("%s  %s, %d cores, %s, %s, commit %s", r.At.Format(time.RFC3339), r.Machine.CPU, r.Machine.Cores, r.Machine.OS, r.Machine.Go, r.Machine.Commit)
	return text.String()
}

func (m *measured) jetStream() string {
	for _, p := range m.Pairs {
		if p.Ours.JetStream != "" {
			return p.Ours.JetStream
		}
	}
	return "takes no part"
}

// verdict is what the table says of a goal, if there is one.
func (m *measured) verdict(counter string) string {
	for _, v := range m.Goals {
		switch {
		case v.Counter != counter:
		case v.Met:
			return v.Goal + " met"
		default:
			return v.Goal + " MISSED"
		}
	}
	return ""
}

// figure is a median for people.
func figure(s *spread) string {
	switch {
	case s == nil:
		return "–"
	case s.Median >= 1000:
		return fmt.Sprintf("%.0f", s.Median)
	default:
		return fmt.Sprintf("%.4g", s.Median)
	}
}

// tableWriter aligns the cells of its lines; what is plain follows them.
type tableWriter struct{ cells, rest []byte }

func (t *tableWriter) line(format string, args ...any) {
	t.cells = fmt.Appendf(t.cells, format+"\n", args...)
}
func (t *tableWriter) plain(format string, args ...any) {
	t.rest = fmt.Appendf(t.rest, format+"\n", args...)
}

func (t *tableWriter) String() string {
	var out sink
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, _ = w.Write(t.cells) // a sink takes all
	_ = w.Flush()
	return string(out) + string(t.rest)
}

type sink []byte

func (s *sink) Write(b []byte) (int, error) { *s = append(*s, b...); return len(b), nil }
