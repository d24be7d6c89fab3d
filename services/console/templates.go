package console

import (
	"embed"
	"html/template"
	"time"

	"github.com/jobrelay/jobrelay/pkg/timeline"
)

//go:embed templates
var templateFiles embed.FS

// templates are the pages by name. html/template escapes what producers wrote by the
// place where it stands; nothing of theirs is ever marked as safe.
var templates = readTemplates()

func readTemplates() map[string]*template.Template {
	out := map[string]*template.Template{}
	for _, name := range append([]string{"failed"}, pageNames...) {
		out[name] = template.Must(template.New(name).Funcs(functions).ParseFS(templateFiles,
			"templates/layout.html", "templates/parts.html", "templates/"+fileOf(name)+".html"))
	}
	return out
}

// fileOf is the template of a page: Refused is a list of jobs.
func fileOf(page string) string {
	if page == "refused" {
		return "jobs"
	}
	return page
}

// stamp is a time for the template "time": in UTC, made local by the page's script.
type stamp struct {
	At   time.Time
	Form string // of the script: datetime, or time, which is to the millisecond
}

var functions = template.FuncMap{
	"at":       func(t time.Time) stamp { return stamp{t, "datetime"} },
	"clockAt":  func(t time.Time) stamp { return stamp{t, "time"} },
	"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"utc":      func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" },
	"since":    func(now, t time.Time) string { return duration(now.Sub(t)) },
	"until":    func(now, t time.Time) string { return duration(t.Sub(now)) },
	"after":    func(a, b time.Time) bool { return a.After(b) },
	"number":   number,
	"asset":    func(file string) string { return "/static/" + assets[file].name },
	"label":    stateLabel,
	"kind":     stateKind,
	"nonempty": func(s string) string { return map[bool]string{true: "–", false: s}[s == ""] },
	"sub":      func(a, b int) int { return a - b },
	"add":      func(a, b int) int { return a + b },
	"eqstate":  func(a timeline.State, b string) bool { return string(a) == b },
	"plural": func(n int, one, many string) string {
		if n == 1 {
			return one
		}
		return many
	},
}

// stateLabel is a state for people.
func stateLabel(s timeline.State) string {
	return map[timeline.State]string{
		timeline.Waiting: "Waiting", timeline.Started: "Started", timeline.Running: "Running", timeline.Completed: "Completed",
		timeline.Failed: "Failed", timeline.Exception: "Exception", timeline.Rejected: "Refused",
	}[s]
}

// stateKind is how a state is coloured, beside its word and its sign.
func stateKind(s timeline.State) string {
	switch s {
	case timeline.Completed:
		return "good"
	case timeline.Failed, timeline.Exception, timeline.Rejected:
		return "bad"
	case timeline.Running:
		return "busy"
	default:
		return "wait"
	}
}
