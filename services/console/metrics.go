package console

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of who asks to be let in, and of what was asked for: labels of metrics.
const (
	loginTaken   = "taken"
	loginRefused = "refused"
	loginSlowed  = "slowed" // too many tries
	actionDone   = "done"
	actionFailed = "failed"
)

type metrics struct {
	pages              *prometheus.CounterVec
	logins             *prometheus.CounterVec
	actions            *prometheus.CounterVec
	turnedAway, cutOff prometheus.Counter
}

// pageNames are the values of the label page.
var pageNames = []string{"now", "jobs", "job", "refused", "rejection", "undelivered", "codes"}

// PageNames are the pages, as metrics name them.
func PageNames() []string { return pageNames }

// Logins are the outcomes of a login, as metrics name them.
func Logins() []string { return []string{loginTaken, loginRefused, loginSlowed} }

// Actions are what the console may do, as metrics name it.
func Actions() []string { return []string{actionCancel, actionReplay} }

// Outcomes are how an action ends, as metrics name it.
func Outcomes() []string { return []string{actionDone, actionFailed} }

func newMetrics(reg prometheus.Registerer, x *Index, progress func() Progress, listening func() float64) *metrics {
	m := &metrics{
		pages:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jobrelay_console_pages_total", Help: "Pages, and parts of them, that were shown."}, []string{"page"}),
		logins:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jobrelay_console_logins_total", Help: "Passwords that were looked at, by what came of it: taken, refused, slowed (too many tries)."}, []string{"outcome"}),
		actions:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jobrelay_console_actions_total", Help: "What people asked for: cancel of a job, replay of a job's letters."}, []string{"action", "outcome"}),
		turnedAway: prometheus.NewCounter(prometheus.CounterOpts{Name: "jobrelay_console_live_refused_total", Help: "Browsers that were not told of changes, because too many are."}),
		cutOff:     prometheus.NewCounter(prometheus.CounterOpts{Name: "jobrelay_console_live_cut_total", Help: "Browsers that were cut off because they did not take what they were told; they come back."}),
	}
	for _, p := range pageNames {
		m.pages.WithLabelValues(p)
	}
	for _, o := range Logins() {
		m.logins.WithLabelValues(o)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	reg.MustRegister(m.pages, m.logins, m.actions, m.turnedAway, m.cutOff,
		gauge("jobrelay_console_jobs", "Jobs in the index.", func() float64 { return float64(x.Overall(time.Now()).Jobs) }),
		gauge("jobrelay_console_filled", "How much of what was there at the start is in the index, 0 to 1.", func() float64 {
			p := progress()
			if !p.Filling {
				return 1
			}
			return float64(p.Percent()) / 100
		}),
		gauge("jobrelay_console_live", "Browsers that are told of changes.", listening),
	)
	return m
}
