package event

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Type is a CloudEvents type (attribute ce-type).
type Type string

// The types of events. A change that an old reader could misunderstand makes a
// new version.
const (
	TypeJobRequested    Type = "dev.jobrelay.job.requested.v1"    // on REQUESTS
	TypeJobStarted      Type = "dev.jobrelay.job.started.v1"      // callback 0
	TypePodStarted      Type = "dev.jobrelay.pod.started.v1"      // callback 1
	TypeJobCompleted    Type = "dev.jobrelay.job.completed.v1"    // callback 2
	TypeJobFailed       Type = "dev.jobrelay.job.failed.v1"       // callback 3
	TypeJobException    Type = "dev.jobrelay.job.exception.v1"    // callback 99
	TypeRequestRejected Type = "dev.jobrelay.request.rejected.v1" // callback 99 where it is wanted
)

// NoStatus is the status of a type that has no callback.
const NoStatus = -1

// kind is what is fixed about a type.
type kind struct {
	typ      Type
	token    string // last token of the subject on EVENTS; empty where the type is not on EVENTS
	status   int
	terminal bool
	schema   string
	data     func() proto.Message
}

var kinds = []kind{
	{TypeJobRequested, "", NoStatus, false, "JobRequested", func() proto.Message { return new(jobsv1.JobRequested) }},
	{TypeJobStarted, "started", 0, false, "JobStarted", func() proto.Message { return new(jobsv1.JobStarted) }},
	{TypePodStarted, "pod-started", 1, false, "PodStarted", func() proto.Message { return new(jobsv1.PodStarted) }},
	{TypeJobCompleted, "completed", 2, true, "JobCompleted", func() proto.Message { return new(jobsv1.JobCompleted) }},
	{TypeJobFailed, "failed", 3, true, "JobFailed", func() proto.Message { return new(jobsv1.JobFailed) }},
	{TypeJobException, "exception", 99, true, "JobException", func() proto.Message { return new(jobsv1.JobException) }},
	{TypeRequestRejected, "rejected", 99, true, "RequestRejected", func() proto.Message { return new(jobsv1.RequestRejected) }},
}

func (t Type) kind() (kind, bool) {
	for _, k := range kinds {
		if k.typ == t {
			return k, true
		}
	}
	return kind{}, false
}

// Types returns every type, in the order of a job's life.
func Types() []Type {
	out := make([]Type, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, k.typ)
	}
	return out
}

// Status is the callback that the type leads to, or NoStatus.
func (t Type) Status() int {
	if k, ok := t.kind(); ok {
		return k.status
	}
	return NoStatus
}

// Token is the last token of the type's subject on EVENTS; empty where the type is
// not on EVENTS.
func (t Type) Token() string {
	k, _ := t.kind()
	return k.token
}

// TypeOfToken is Token's inverse.
func TypeOfToken(token string) (Type, bool) {
	for _, k := range kinds {
		if k.token == token && token != "" {
			return k.typ, true
		}
	}
	return "", false
}

// Terminal reports whether nothing follows an event of the type in its log.
func (t Type) Terminal() bool {
	k, _ := t.kind()
	return k.terminal
}

// typeOf is the type whose data is of m's kind.
func typeOf(m proto.Message) (kind, error) {
	name := string(m.ProtoReflect().Descriptor().Name())
	for _, k := range kinds {
		if k.schema == name {
			return k, nil
		}
	}
	return kind{}, fmt.Errorf("event: %s is no event's data", name)
}
