package request

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// The bounds of a message.
const (
	MaxBytes         = 1 << 20              // of the body: SQS's own limit
	MaxAcceptedBytes = 3 << 19              // of the accepted form, 1.5 MiB
	maxStoredBytes   = 3<<19 - 64<<10       // of the Job: etcd takes 1.5 MiB; the rest is for notes on it
	MaxDepth         = 32                   // of nesting; the message itself is 1
	MaxProblems      = 100                  // and as many warnings; one more entry counts the rest
	maxGrowth        = 16                   // accepted bytes for a byte of body, defaults aside
	surelyAccepted   = MaxBytes / maxGrowth // bodies whose accepted form need not be measured
)

// Options are the operator's. The zero value is the default.
type Options struct {
	// Strict makes an unknown field an error instead of a warning.
	Strict bool
	// MaxBackoffLimit is the highest job.backoffLimit. 0 is the default, 6;
	// below 0, none but 0 is allowed.
	MaxBackoffLimit int
}

// Result is what Parse read.
type Result struct {
	// Request is the accepted form: every default filled in, Hash and Unknown
	// set, QueuedAt and AcceptedAt unset. Nil where Problems is not empty.
	Request *jobsv1.JobRequested
	// Problems are why the message is refused, in the contract's order of
	// fields: at most MaxProblems, then one of CodeMore.
	Problems []Problem
	// Warnings do not refuse it. Bounded like Problems.
	Warnings []Problem

	// What can be read of the message even where it is refused: each occurs
	// exactly once and is valid by itself; empty or nil otherwise. Nothing is
	// read of a body that is too large, not UTF-8 or not JSON.
	ID      string
	Service string
	// Webhook is nil also where the message names no address.
	Webhook *jobsv1.Webhook
}

// Parse reads the body of one message.
func Parse(body []byte, opt Options) Result {
	r := reader{opt: opt}
	var req *jobsv1.JobRequested
	var out Result
	if root, ok := r.read(body); ok {
		req = r.request(root)
		out.ID, out.Service, out.Webhook = req.Id, req.Service, req.Webhook
		if r.problems.none() {
			r.finish(req, &root)
		}
	}
	if r.problems.none() {
		out.Request = req
	}
	out.Problems, out.Warnings = r.problems.all(), r.warnings.all()
	return out
}

// reader is one Parse.
type reader struct {
	opt      Options
	body     string
	problems problems
	warnings problems
	unknown  []*jobsv1.UnknownField
}

// finish sets what only a valid message has, and measures it.
func (r *reader) finish(req *jobsv1.JobRequested, root *node) {
	req.Unknown = r.unknown
	h, err := hash(r.body, root)
	if err != nil {
		r.problems.add("$", CodeInvalid, "has no canonical form (RFC 8785)")
		return
	}
	req.Hash = h
	if len(r.body) <= surelyAccepted {
		return
	}
	if acceptedBytes(req) > MaxAcceptedBytes {
		r.problems.add("$", CodeSize, "is more than 1.5 MiB in its accepted form; have fewer or shorter unknown fields")
	}
	if storedBytes(req.GetJob()) > maxStoredBytes {
		r.problems.add("$.job.env", CodeSize, "makes the Job larger than Kubernetes stores, which is 1.5 MiB; have fewer variables")
	}
}

// storedBytes is the most that Kubernetes stores of the Job, and of its Pod: what
// the message says, and in their managedFields the name of each variable again,
// as JSON within JSON and with 41 bytes about it.
func storedBytes(j *jobsv1.Job) int {
	const about = 48
	n := proto.Size(j)
	seen := make(map[string]bool, len(j.GetEnv()))
	for _, e := range j.GetEnv() {
		if seen[e.GetName()] {
			continue
		}
		seen[e.GetName()] = true
		inner, _ := json.Marshal(e.GetName()) // strings alone: no error
		outer, _ := json.Marshal(string(inner))
		n += about + len(outer)
	}
	return n
}

// acceptedBytes is the length of the form that is published (package event).
func acceptedBytes(req *jobsv1.JobRequested) int {
	b, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(req)
	if err != nil {
		return MaxAcceptedBytes + 1
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return MaxAcceptedBytes + 1
	}
	return out.Len()
}
