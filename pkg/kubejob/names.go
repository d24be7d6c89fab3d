package kubejob

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// Labels, on the Job and on its Pods.
const (
	// LabelApp holds the message's service.
	LabelApp = "app"
	// LabelKey holds event.Key of the id: an id may have any character, a label
	// may not.
	LabelKey = "jobrelay.dev/key"
	// LabelInstallation holds the name of the jobrelay installation the Job
	// belongs to. Another installation's Jobs are never touched.
	LabelInstallation = "jobrelay.dev/installation"
)

// Annotations, on the Job alone.
const (
	// AnnotationID holds the message's id.
	AnnotationID = "jobrelay.dev/id"
	// AnnotationHash holds the request's hash: a Job is a request's own only
	// where it is equal (Matches).
	AnnotationHash = "jobrelay.dev/hash"
	// AnnotationQueuedAt holds when the queue took the message, by the queue's
	// clock (RFC 3339, to the millisecond); absent where the queue did not say. So
	// who records the Job's end knows its queue time and reads no request for it.
	AnnotationQueuedAt = "jobrelay.dev/queued-at"
	// AnnotationTrace holds a W3C traceparent: of the span that made the Job where
	// the launcher traces, else the producer's; absent where there is neither. What
	// runs in the Job may go on with the trace.
	AnnotationTrace = "jobrelay.dev/traceparent"
	// AnnotationNotStarting is the watcher's note of why and since when the
	// Job's Pod does not start, <class>@<RFC 3339>: its clock outlives restarts.
	AnnotationNotStarting = "jobrelay.dev/not-starting"
	// AnnotationStopReason is the watcher's note that, and why, it is ending
	// the Job: error code and message.
	AnnotationStopReason = "jobrelay.dev/stop-reason"
)

// Finalizer keeps a Job until its end is in the log; the watcher takes it off.
const Finalizer = "jobrelay.dev/recorded"

// VolumeName is the name of the message's volume.
const VolumeName = request.VolumeName

// The hex digits of a name, and what a name of 63 characters, Kubernetes' bound
// for what becomes a Pod's host name, leaves for the prefix.
const (
	shortDigits = 8
	longDigits  = 16
	longPrefix  = 63 - 1 - longDigits
)

// Name is the name of an id's Job: <prefix>-<first 8 hex digits of sha256(id)>.
// It is a DNS-1123 label for every prefix that package request accepts.
func Name(prefix, id string) string { return prefix + "-" + digits(id, shortDigits) }

// LongName is the name where another id's Job holds Name: <prefix cut to
// 46>-<first 16 hex digits>. Dashes that a cut leaves at the prefix's end are
// dropped.
func LongName(prefix, id string) string {
	if len(prefix) > longPrefix {
		prefix = strings.TrimRight(prefix[:longPrefix], "-")
	}
	return prefix + "-" + digits(id, longDigits)
}

func digits(id string, n int) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])[:n]
}
