package faults

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what was done and what came of it.
type Report struct {
	Seed        uint64       `json:"seed"`
	Messages    int          `json:"messages"`
	Sends       int          `json:"sends"` // duplicates included
	Kills       map[Role]int `json:"kills"`
	Freezes     map[Role]int `json:"freezes"`
	Callbacks   int          `json:"callbacks"` // repeats included
	Repeats     int          `json:"repeats"`
	SurplusJobs int          `json:"surplusJobs"` // seen beside an id's first, and removed again
	Started     Latency      `json:"started"`     // from SQS's acknowledgement to callback 0
	Ended       Latency      `json:"ended"`       // and to the end
	Violations  []string     `json:"violations"`
}

// Latency of the callbacks.
type Latency struct {
	P50 time.Duration `json:"p50"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
}

func (r *Report) latencies(sent Sent, heard []Callback) {
	var started, ended []time.Duration
	seen := map[string]bool{}
	for _, c := range heard {
		if seen[c.WebhookID] {
			continue
		}
		seen[c.WebhookID] = true
		switch took := c.At.Sub(sent.At[c.ID]); {
		case c.Status == 0:
			started = append(started, took)
		case c.Status >= 2:
			ended = append(ended, took)
		}
	}
	r.Started, r.Ended = latency(started), latency(ended)
}

func latency(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(percent int) time.Duration { return all[(len(all)-1)*percent/100].Round(time.Millisecond) }
	return Latency{at(50), at(99), at(100)}
}

// String is the report as a table.
func (r Report) String() string {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("seed", "%d", r.Seed)
	line("messages", "%d (%d sends)", r.Messages, r.Sends)
	line("kills", "%s", counts(r.Kills))
	line("freezes", "%s", counts(r.Freezes))
	line("callbacks", "%d, of them %d repeats", r.Callbacks, r.Repeats)
	line("surplus Jobs", "%d", r.SurplusJobs)
	line("sent to 0", "p50 %s, p99 %s, max %s", r.Started.P50, r.Started.P99, r.Started.Max)
	line("sent to end", "p50 %s, p99 %s, max %s", r.Ended.P50, r.Ended.P99, r.Ended.Max)
	line("violations", "%d", len(r.Violations))
	_ = table.Flush() // into memory
	for _, v := range r.Violations {
		out.WriteString("  " + v + "\n")
	}
	return "\n" + out.String()
}

func counts(of map[Role]int) string {
	var parts []string
	total := 0
	for _, role := range Roles() {
		if of[role] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", role, of[role]))
			total += of[role]
		}
	}
	if total == 0 {
		return "none"
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}
