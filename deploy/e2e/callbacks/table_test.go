//go:build e2e

package callbacks

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// table of rows whose cells have tabs between them.
func table(head string, rows []string) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, row := range append([]string{head}, rows...) {
		_, _ = fmt.Fprintln(w, row) // into memory
	}
	_ = w.Flush()
	return "\n" + out.String()
}
