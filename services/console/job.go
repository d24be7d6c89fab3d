package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// jobView is the page of one job.
type jobView struct {
	Timeline timeline.Timeline
	Job      Job // a line of it
	Picture  *picture
	Rows     []row
	Cause    *cause
	Evidence *jobsv1.Evidence
	Times    *jobsv1.Times
	Waits    []wait
	Events   []rawEvent
	Letters  []delivery.Letter // that no replay has delivered, without address and body
	Ended    bool
	Image    string
	Limits   *jobsv1.Quantities
	Requests *jobsv1.Quantities
	Refused  string // address of the rejection; empty: it was accepted
}

// row is a step, for who reads instead of looking.
type row struct {
	At     time.Time
	Gap    string // since the step before
	What   string
	Detail string
	Kind   string // good, bad, wait or empty
}

// cause is why a job did not end well.
type cause struct {
	Code, Message string
	Doc           *codeDoc
}

// wait is what is waited for now.
type wait struct {
	Text  string
	Since time.Time
	Until time.Time
}

// rawEvent is an event as it stands in the log.
type rawEvent struct {
	Type    string
	At      time.Time
	N       int
	Source  string
	Subject string
	Data    string // JSON
}

func (s *server) showJob(ctx context.Context, f *frame, r *http.Request) error {
	logKey := r.PathValue("logKey")
	if !logKeyForm.MatchString(logKey) {
		return errNoJob
	}
	if err := s.reachable(); err != nil {
		return err
	}
	var err error
	if f.Moves, err = s.reads.Moves(ctx, logKey); err != nil { // before: what comes after is told
		return err
	}
	logs, err := s.readLog(ctx, logKey)
	if err != nil {
		return err
	}
	if len(logs) == 0 {
		return errNoJob
	}
	records := logs[0]
	t := timeline.Draw(records)
	v := jobView{Timeline: t, Ended: t.State.Ended(), Job: Job{
		LogKey: logKey, ID: t.ID, Service: t.Service, Namespace: t.Namespace, Name: t.Job, State: t.State,
	}}
	at := s.now().UTC()
	steps := withTimes(t.Steps, records.Log)
	v.Picture = draw(steps, t.Waits, at)
	v.Rows = rowsOf(steps)
	for _, w := range t.Waits {
		v.Waits = append(v.Waits, waitOf(w, t.Service))
	}
	for _, e := range records.Log {
		if d, ok := e.Data.(*jobsv1.JobStarted); ok {
			v.Image, v.Limits, v.Requests = d.GetImage(), d.GetResources().GetLimits(), d.GetResources().GetRequests()
		}
		v.Events = append(v.Events, rawEventOf(records.Service, e))
	}
	if n := len(records.Log); n > 0 {
		v.Job.First, v.Job.Last = records.Log[0].Time, records.Log[n-1].Time
		v.end(records.Log[n-1])
	}
	for _, l := range records.Letters {
		if l.Replayed == nil {
			l.URL, l.Body = "", nil
			v.Letters = append(v.Letters, l)
		}
	}
	if t.State == timeline.Rejected {
		v.Refused = "/refused/" + logKey
	}
	f.Title = title(t)
	f.Live = url.Values{"page": {"job"}, "key": {logKey}}.Encode()
	f.Body = v
	return nil
}

// readLog is what the streams keep of a log key.
func (s *server) readLog(ctx context.Context, logKey string) ([]timeline.Records, error) {
	if err := s.reachable(); err != nil {
		return nil, err
	}
	return s.reads.Log(ctx, logKey)
}

func title(t timeline.Timeline) string {
	if t.ID != "" {
		return t.ID
	}
	return t.LogKey
}

// end reads what the last event says of how it ended.
func (v *jobView) end(last event.Event) {
	if d, ok := last.Data.(interface{ GetError() *jobsv1.Error }); ok && d.GetError() != nil {
		v.Cause = &cause{Code: d.GetError().GetErrorCode(), Message: d.GetError().GetMessage(), Doc: docOf(d.GetError().GetErrorCode())}
		v.Job.Code = v.Cause.Code
	}
	if d, ok := last.Data.(interface{ GetEvidence() *jobsv1.Evidence }); ok {
		v.Evidence = d.GetEvidence()
	}
	if d, ok := last.Data.(interface{ GetTimes() *jobsv1.Times }); ok {
		v.Times = d.GetTimes()
	}
}

func rawEventOf(service string, e event.Event) rawEvent {
	out := rawEvent{Type: string(e.Type), At: e.Time, N: e.Sequence, Source: e.Source, Subject: event.Subject(service, e.LogKey, e.Type)}
	data, err := event.DataJSON(e)
	if err != nil {
		out.Data = err.Error()
		return out
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, data, "", "  ") != nil {
		pretty.Reset()
		pretty.Write(data)
	}
	out.Data = pretty.String()
	return out
}

// rejectionView is the page of one refused message.
type rejectionView struct {
	Rejected broker.Rejected
	Event    *event.Event
	Problems []*jobsv1.Problem
	Cause    *cause
	Body     string // the raw message
	Bytes    int
	Cut      bool   // the body is longer than what is shown
	NotText  bool   // it is shown with its bytes that are no text replaced
	Endpoint string // where its callback goes
	Recorded bool   // the raw body is kept
	At       time.Time
	Callback bool
}

// maxBody bounds the part of a raw body that is shown, in bytes.
const maxBody = 256 << 10

func (s *server) showRejection(ctx context.Context, f *frame, r *http.Request) error {
	logKey := r.PathValue("logKey")
	if !logKeyForm.MatchString(logKey) {
		return errNoJob
	}
	logs, err := s.readLog(ctx, logKey)
	if err != nil {
		return err
	}
	v := rejectionView{}
	v.Rejected, err = s.reads.Rejected(ctx, logKey)
	v.Recorded = err == nil
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		return err
	}
	v.Problems = v.Rejected.Problems
	if len(logs) > 0 && len(logs[0].Log) > 0 {
		e := logs[0].Log[len(logs[0].Log)-1]
		if d, ok := e.Data.(*jobsv1.RequestRejected); ok {
			v.Event, v.At, v.Callback = &e, e.Time, d.GetCallback()
			v.Cause = &cause{d.GetError().GetErrorCode(), d.GetError().GetMessage(), docOf(d.GetError().GetErrorCode())}
			if !v.Recorded {
				v.Rejected.ID, v.Rejected.Service, v.Problems = d.GetId(), d.GetService(), d.GetProblems()
			}
		}
	}
	if !v.Recorded && v.Event == nil {
		return problem{http.StatusNotFound, errors.New("no message was refused with this log key, or it is longer ago than rejections are kept")}
	}
	if v.At.IsZero() {
		v.At = v.Rejected.At
	}
	v.Rejected.LogKey = logKey
	body := v.Rejected.Body
	v.Bytes = len(body)
	if len(body) > maxBody {
		body, v.Cut = body[:maxBody], true
	}
	v.NotText = !utf8.Valid(v.Rejected.Body)
	v.Body = string(bytes.ToValidUTF8(body, []byte("�")))
	v.Endpoint = endpointOf(v.Rejected.Webhook.GetUrl())
	f.Title = "Refused: " + v.Rejected.ID
	if v.Rejected.ID == "" {
		f.Title = "Refused: " + logKey
	}
	f.Body = v
	return nil
}

// endpointOf is the part of a webhook's address that may be shown.
func endpointOf(address string) string {
	if u, err := url.Parse(address); address == "" || err != nil || u.Host == "" {
		return ""
	}
	return webhook.Endpoint(address)
}
