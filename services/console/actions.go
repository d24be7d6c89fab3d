package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// What the console may do with --allow-actions.
const (
	actionCancel = "cancel"
	actionReplay = "replay"
)

const (
	// maxReason bounds the reason of a cancel, in bytes, as `jobrelay cancel` does.
	maxReason = 256
	// maxReplay bounds the jobs whose letters one form sends again; the page says how
	// many are left.
	maxReplay = 500
)

// doneText is what the page says after an action.
var doneText = map[string]string{
	actionCancel: "The cancel was asked for. A Job that runs is deleted, and has its end when its Pods are gone; one that ended by itself before keeps its end.",
	actionReplay: "The replay was started: the same bytes and webhook-id, in the order of each job. What is delivered leaves the dead letters; what fails again stays.",
}

// action lets a form of ours do something, and says in the log who did it. do returns
// the address of the page to go on with.
func (s *server) action(name string, do func(context.Context, *http.Request, *zerolog.Event) (string, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			s.fail(w, r, http.StatusBadRequest, errors.New("the form cannot be read"))
			return
		}
		if err := s.tokens.check(r); err != nil {
			s.fail(w, r, http.StatusForbidden, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 4*readWithin)
		defer cancel()
		said := zerolog.Dict()
		to, err := do(ctx, r, said)
		if err != nil {
			s.metrics.actions.WithLabelValues(name, actionFailed).Inc()
			status := http.StatusServiceUnavailable
			var p problem
			if errors.As(err, &p) {
				status = p.status
			}
			s.log.Warn().Err(err).Str("action", name).Str("by", userOf(r)).Dict("what", said).Msg("an action was not done")
			s.fail(w, r, status, err)
			return
		}
		s.metrics.actions.WithLabelValues(name, actionDone).Inc()
		s.log.Info().Str("action", name).Str("by", userOf(r)).Dict("what", said).Msg("an action was done")
		http.Redirect(w, r, to, http.StatusSeeOther)
	})
}

// job reads the one that a form is about.
func (s *server) job(ctx context.Context, r *http.Request) (timeline.Records, timeline.Timeline, error) {
	logKey := r.PathValue("logKey")
	if !logKeyForm.MatchString(logKey) {
		return timeline.Records{}, timeline.Timeline{}, errNoJob
	}
	logs, err := s.readLog(ctx, logKey)
	if err != nil {
		return timeline.Records{}, timeline.Timeline{}, err
	}
	if len(logs) == 0 {
		return timeline.Records{}, timeline.Timeline{}, errNoJob
	}
	return logs[0], timeline.Draw(logs[0]), nil
}

func (s *server) cancel(ctx context.Context, r *http.Request, said *zerolog.Event) (string, error) {
	_, t, err := s.job(ctx, r)
	if err != nil {
		return "", err
	}
	reason := strings.TrimSpace(r.PostFormValue("reason"))
	said.Str("id", t.ID).Str("key", t.LogKey).Str("service", t.Service)
	switch {
	case t.State.Ended():
		return "", problem{http.StatusConflict, errors.New("the job has its end already, and keeps it")}
	case t.ID == "" || event.Key(t.ID) != t.LogKey:
		return "", problem{http.StatusConflict, errors.New("its id is not known to the console, which reads no requests: use jobrelay cancel ID")}
	case len(reason) > maxReason || strings.ContainsFunc(reason, unicode.IsControl):
		return "", problem{http.StatusBadRequest, fmt.Errorf("a reason is one line of up to %d bytes", maxReason)}
	}
	if err := s.reads.Cancel(ctx, broker.Cancel{ID: t.ID, Reason: reason, At: s.now().UTC(), By: userOf(r)}); err != nil {
		return "", err
	}
	return "/jobs/" + t.LogKey + "?done=" + actionCancel, nil
}

func (s *server) replayJob(ctx context.Context, r *http.Request, said *zerolog.Event) (string, error) {
	records, t, err := s.job(ctx, r)
	if err != nil {
		return "", err
	}
	said.Str("id", t.ID).Str("key", t.LogKey).Str("service", t.Service)
	open := slices.DeleteFunc(records.Letters, func(l delivery.Letter) bool { return l.Replayed != nil })
	if len(open) == 0 {
		return "", problem{http.StatusConflict, errors.New("it has no dead letter that a replay has not delivered")}
	}
	run, err := s.reads.ReplayBy(ctx, open, userOf(r))
	if err != nil {
		return "", err
	}
	said.Str("run", run.ID).Ints("events", run.Letters)
	return "/jobs/" + t.LogKey + "?done=" + actionReplay, nil
}

// replayEndpoint sends again what was given up at an endpoint: all letters of each job
// that has one there, in order, the oldest job first.
func (s *server) replayEndpoint(ctx context.Context, r *http.Request, said *zerolog.Event) (string, error) {
	endpoint := r.PostFormValue("endpoint")
	said.Str("endpoint", short(endpoint))
	if endpoint == "" {
		return "", problem{http.StatusBadRequest, errors.New("say of which endpoint")}
	}
	all, _, err := s.letters.all(ctx)
	if err != nil {
		return "", err
	}
	logs := lettersByLog(all, endpoint)
	if len(logs) == 0 {
		return "", problem{http.StatusConflict, errors.New("it has no dead letter that a replay has not delivered")}
	}
	n := 0
	for _, log := range logs[:min(len(logs), maxReplay)] {
		if _, err := s.reads.ReplayBy(ctx, log, userOf(r)); err != nil {
			said.Int("jobs", n)
			return "", err
		}
		n++
	}
	said.Int("jobs", n).Int("left", len(logs)-n)
	return address("/undelivered", url.Values{"endpoint": {endpoint}, "done": {actionReplay}}), nil
}

// lettersByLog are what a replay needs of the letters of those jobs that have one at
// the endpoint, the oldest first.
func lettersByLog(all []Letter, endpoint string) [][]delivery.Letter {
	byLog, fits, since := map[string][]delivery.Letter{}, map[string]bool{}, map[string]time.Time{}
	for _, l := range all {
		if l.Replayed != nil {
			continue
		}
		byLog[l.LogKey] = append(byLog[l.LogKey], delivery.Letter{LogKey: l.LogKey, N: l.N, Service: l.Service, At: l.At})
		fits[l.LogKey] = fits[l.LogKey] || l.Endpoint == endpoint
		if at := since[l.LogKey]; at.IsZero() || l.At.Before(at) {
			since[l.LogKey] = l.At
		}
	}
	var out [][]delivery.Letter
	for key, log := range byLog {
		if !fits[key] {
			continue
		}
		slices.SortFunc(log, func(a, b delivery.Letter) int { return cmp.Compare(a.N, b.N) })
		out = append(out, log)
	}
	slices.SortFunc(out, func(a, b []delivery.Letter) int {
		return cmp.Or(since[a[0].LogKey].Compare(since[b[0].LogKey]), cmp.Compare(a[0].LogKey, b[0].LogKey))
	})
	return out
}
