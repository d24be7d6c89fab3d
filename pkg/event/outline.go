package event

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/types"
)

// Outline is what a list shows of an event of a log.
type Outline struct {
	Type           Type
	LogKey         string
	ID             string // the message's; empty where it could not be read
	Time           time.Time
	N              int // ordinal in the log: Event.Sequence
	Namespace, Job string
	Code           string // of the error; empty without one
}

// DecodeOutline reads that of a message that Encode wrote, for who reads many. It costs
// a third of Decode.
func DecodeOutline(logKey string, t Type, header map[string][]string, data []byte) (Outline, error) {
	o := Outline{Type: t, LogKey: logKey, ID: unescape(attribute(header, "subject"))}
	if got := attribute(header, "type"); got != string(t) {
		return o, fmt.Errorf("%w: of type %q, wanted %s", ErrNotAnEvent, got, t)
	}
	var err error
	if o.Time, err = types.ParseTime(attribute(header, "time")); err != nil {
		return o, fmt.Errorf("%w: time: %w", ErrNotAnEvent, err)
	}
	if o.N, err = strconv.Atoi(attribute(header, extSequence)); err != nil || o.N < 0 {
		return o, fmt.Errorf("%w: sequence %q", ErrNotAnEvent, attribute(header, extSequence))
	}
	var d struct {
		JobName   string `json:"jobName"`
		Namespace string `json:"namespace"`
		Error     struct {
			ErrorCode string `json:"errorCode"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return o, fmt.Errorf("%w: data: %w", ErrNotAnEvent, err)
	}
	o.Job, o.Namespace, o.Code = d.JobName, d.Namespace, d.Error.ErrorCode
	return o, nil
}

// attribute is a CloudEvents attribute as it stands in the headers.
func attribute(header map[string][]string, name string) string {
	if v := header[headerPrefix+name]; len(v) == 1 {
		return v[0]
	}
	return ""
}
