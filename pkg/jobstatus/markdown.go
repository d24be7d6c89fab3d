package jobstatus

import (
	"fmt"
	"strings"
)

// Markdown is docs/error-codes.md: every code with its meaning, its hint and
// where it is seen, one table a phase.
func Markdown() string {
	var b strings.Builder
	b.WriteString("<!-- Generated from pkg/jobstatus/definitions.go; do not edit. -->\n")
	b.WriteString("# Error codes\n\n")
	b.WriteString("`detail.error.errorCode` of the callbacks 3 and 99. Status 3 means that the Kubernetes Job itself ended Failed, 99 is every other end that is not success. Codes are only ever added.\n")
	for _, phase := range []Phase{PhaseLaunch, PhaseStart, PhaseFailed, PhaseNoVerdict} {
		fmt.Fprintf(&b, "\n## %s (status %d)\n\n", phase, phase.Status())
		b.WriteString("| code | meaning | what to do | seen as |\n|---|---|---|---|\n")
		for _, d := range definitions {
			if d.Phase == phase {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Code, cell(d.Meaning), cell(d.Hint), cell(d.Seen))
			}
		}
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
