package jobstatus

import (
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// MaxLogTail bounds the last lines of a log that an event carries, in bytes.
const MaxLogTail = 4 << 10

// LogSource is a container whose log may say why a Job failed.
type LogSource struct {
	Pod, Container string
	Node           string // that has the log
}

// AsksLogTail is whose log may say more about the end: of a Job that ended
// Failed, the container that the event's evidence names. False for every other
// decision, and where there is nothing to read: the container did not run or runs
// still, or its Pod went, as all do of a Job that passed its deadline.
func (d Decision) AsksLogTail(o Observation) (LogSource, bool) {
	if d.failure() == nil {
		return LogSource{}, false
	}
	p, s := witness(o)
	if s == nil || !started(s.State.Terminated) || !o.has(p) {
		return LogSource{}, false
	}
	return LogSource{Pod: p.Name, Container: s.Name, Node: p.Spec.NodeName}, true
}

// WithLogTail is the decision with the end of a log in its event: the last whole
// lines within MaxLogTail bytes, and of a last line that is longer its end. The
// decision must ask for one; of log its last MaxLogTail+1 bytes are enough.
func (d Decision) WithLogTail(log []byte) Decision {
	e := proto.CloneOf(d.failure())
	e.Evidence.LogTail = lastLines(string(log), MaxLogTail)
	last := len(d.Events) - 1
	d.Events = append(d.Events[:last:last], e)
	return d
}

// failure is the event of a Job that ended Failed; nil where d has none.
func (d Decision) failure() *jobsv1.JobFailed {
	if len(d.Events) == 0 {
		return nil
	}
	e, _ := d.Events[len(d.Events)-1].(*jobsv1.JobFailed)
	return e
}

// has reports whether the Pod is in the API.
func (o Observation) has(pod *corev1.Pod) bool {
	for _, p := range o.pods {
		if p.UID == pod.UID {
			return true
		}
	}
	return false
}
