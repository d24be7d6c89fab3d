package timeline

import (
	"time"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Summary is one log in a line: what its last event tells, or its request where it
// has none yet.
type Summary struct {
	At        time.Time `json:"at"` // of that event, or of the acceptance
	ID        string    `json:"id,omitempty"`
	LogKey    string    `json:"logKey"`
	Service   string    `json:"service,omitempty"`
	State     State     `json:"state"`
	Namespace string    `json:"namespace,omitempty"`
	Job       string    `json:"job,omitempty"`
	Code      string    `json:"code,omitempty"`
	Message   string    `json:"message,omitempty"`
}

// Summarize is the summary of a log whose last event is e, or of a request that
// has no log yet.
func Summarize(service string, e event.Event) Summary {
	s := Summary{At: e.Time, ID: e.ID, LogKey: e.LogKey, Service: service, State: StateOf(e.Type)}
	switch d := e.Data.(type) {
	case *jobsv1.JobRequested:
		s.At, s.Namespace = d.GetAcceptedAt().AsTime(), d.GetJob().GetNamespace()
	case interface {
		GetJobName() string
		GetNamespace() string
	}:
		s.Job, s.Namespace = d.GetJobName(), d.GetNamespace()
	}
	if d, ok := e.Data.(interface{ GetError() *jobsv1.Error }); ok {
		s.Code, s.Message = d.GetError().GetErrorCode(), d.GetError().GetMessage()
	}
	return s
}
