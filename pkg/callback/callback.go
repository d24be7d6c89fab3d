// Package callback turns an event into what a webhook receives: the body of
// the original specification, byte for byte, and its headers.
package callback

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Body is the callback that an event leads to: compact JSON in the original's
// key order, zeros kept, no HTML escaping, no trailing newline. Not every type
// of event has one.
func Body(e event.Event) ([]byte, error) {
	detail, err := detailOf(e)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body{ID: e.ID, Status: e.Type.Status(), Detail: detail}); err != nil {
		return nil, fmt.Errorf("callback: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

type body struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
	Detail any    `json:"detail"`
}

type jobDetail struct {
	JobID   string `json:"jobId"`
	JobName string `json:"jobName"`
}

type podDetail struct {
	PodID   string `json:"podId"`
	PodName string `json:"podName"`
}

type completedDetail struct {
	Duration uint32 `json:"duration"`
}

type errorDetail struct {
	Error cause `json:"error"`
}

// cause has the names of the original's sample, not of its prose.
type cause struct {
	ErrorCode string `json:"errorCode"`
	Message   string `json:"message"`
}

func detailOf(e event.Event) (any, error) {
	switch d := e.Data.(type) {
	case *jobsv1.JobStarted:
		return jobDetail{d.GetJobId(), d.GetJobName()}, nil
	case *jobsv1.PodStarted:
		return podDetail{d.GetPodId(), d.GetPodName()}, nil
	case *jobsv1.JobCompleted:
		return completedDetail{d.GetDurationSeconds()}, nil
	case interface{ GetError() *jobsv1.Error }: // failed, exception, rejected
		return errorDetail{cause{d.GetError().GetErrorCode(), d.GetError().GetMessage()}}, nil
	}
	return nil, fmt.Errorf("callback: %s has none", e.Type)
}

// ID is the webhook-id of the callback for event n of a log, stable over
// retries and replays: msg_ and lower-case unpadded base32 (RFC 4648) of
// sha256(log key, a zero byte, the ordinal in decimal).
func ID(logKey string, n int) string {
	sum := sha256.Sum256([]byte(logKey + "\x00" + strconv.Itoa(n)))
	return "msg_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}
