package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// Event is one event of a job's log, or the accepted request.
type Event struct {
	Type     Type
	LogKey   string
	Source   string    // SourceOfNamespace or SourceOfQueue
	ID       string    // the message's id (ce-subject); empty where it could not be read
	Time     time.Time // when it was appended
	Sequence int       // ordinal in the job's log: 0, 1, 2…
	Trace    string    // W3C traceparent of the producer; empty without one
	Data     proto.Message
}

// New is an event whose type follows from its data.
func New(logKey, source, id string, sequence int, at time.Time, data proto.Message) (Event, error) {
	k, err := typeOf(data)
	if err != nil {
		return Event{}, err
	}
	return Event{Type: k.typ, LogKey: logKey, Source: source, ID: id, Time: at, Sequence: sequence, Data: data}, nil
}

// EventID is the event's deterministic id (ce-id): <log key>/<type>. Who reads
// a second event of that id reads the first again.
func (e Event) EventID() string { return e.LogKey + "/" + string(e.Type) }

// SourceOfNamespace is the source of the events about a Job.
func SourceOfNamespace(installation, namespace string) string {
	return "jobrelay://" + installation + "/namespaces/" + namespace
}

// SourceOfQueue is the source of the events that ingest writes.
func SourceOfQueue(installation, queue string) string {
	return "jobrelay://" + installation + "/queues/" + queue
}

// schemaPrefix is the address space of dataschema; the rest is the message's
// full name in proto/.
const schemaPrefix = "https://jobrelay.dev/schemas/jobrelay.jobs.v1."

const (
	headerPrefix    = "ce-"
	contentTypeJSON = "application/json"
	extSequence     = "sequence"
	extTrace        = "traceparent"
	extPartition    = "partitionkey"
)

// Encode gives the headers and the data of a message in the CloudEvents NATS
// binding's binary mode: each attribute, datacontenttype included, is a ce-
// header, percent-encoded by the HTTP binding's rule.
func Encode(e Event) (map[string][]string, []byte, error) {
	k, ok := e.Type.kind()
	if !ok {
		return nil, nil, fmt.Errorf("event: unknown type %q", e.Type)
	}
	data, err := marshalData(e.Data)
	if err != nil {
		return nil, nil, fmt.Errorf("event: %s: %w", e.Type, err)
	}
	c := ce.New(ce.CloudEventsVersionV1)
	c.SetID(e.EventID())
	c.SetSource(e.Source)
	c.SetType(string(e.Type))
	c.SetTime(e.Time.UTC())
	c.SetDataSchema(schemaPrefix + k.schema)
	c.SetExtension(extSequence, int32(e.Sequence)) //nolint:gosec // a log has a handful of events
	c.SetExtension(extPartition, IDKey(e.LogKey))
	if e.Trace != "" {
		c.SetExtension(extTrace, e.Trace)
	}
	if err := c.SetData(contentTypeJSON, data); err != nil {
		return nil, nil, fmt.Errorf("event: %s: %w", e.Type, err)
	}
	if err := c.Validate(); err != nil {
		return nil, nil, fmt.Errorf("event: %s: %w", e.Type, err)
	}
	h, err := headers(c)
	if err != nil {
		return nil, nil, err
	}
	if e.ID != "" {
		// Not through the SDK, which takes white space off the ends of an id.
		h[headerPrefix+"subject"] = []string{escape(e.ID)}
	}
	return h, data, nil
}

func headers(c ce.Event) (map[string][]string, error) {
	h := map[string][]string{}
	set := func(name, value string) {
		if value != "" {
			h[headerPrefix+name] = []string{escape(value)}
		}
	}
	set("specversion", c.SpecVersion())
	set("id", c.ID())
	set("source", c.Source())
	set("type", c.Type())
	set("time", types.FormatTime(c.Time()))
	set("datacontenttype", c.DataContentType())
	set("dataschema", c.DataSchema())
	for name, v := range c.Extensions() {
		s, err := types.Format(v)
		if err != nil {
			return nil, fmt.Errorf("event: extension %s: %w", name, err)
		}
		set(name, s)
	}
	return h, nil
}

// ErrNotAnEvent is what Decode's errors wrap: the message can never be read.
var ErrNotAnEvent = errors.New("not a jobrelay event")

// Decode reads a message that Encode wrote. Headers that are not ce- headers
// are passed over: direct gets add some.
func Decode(header map[string][]string, data []byte) (Event, error) {
	attr := map[string]string{}
	for name, values := range header {
		if len(name) > len(headerPrefix) && strings.EqualFold(name[:len(headerPrefix)], headerPrefix) && len(values) > 0 {
			attr[strings.ToLower(name[len(headerPrefix):])] = unescape(values[0])
		}
	}
	if v := attr["specversion"]; v != ce.CloudEventsVersionV1 {
		return Event{}, fmt.Errorf("%w: specversion %q", ErrNotAnEvent, v)
	}
	e := Event{
		Type: Type(attr["type"]), Source: attr["source"], ID: attr["subject"], Trace: attr[extTrace],
	}
	k, ok := e.Type.kind()
	if !ok {
		return Event{}, fmt.Errorf("%w: unknown type %q", ErrNotAnEvent, e.Type)
	}
	e.LogKey, ok = strings.CutSuffix(attr["id"], "/"+string(e.Type))
	if !ok {
		return Event{}, fmt.Errorf("%w: id %q does not end in its type", ErrNotAnEvent, attr["id"])
	}
	var err error
	if e.Time, err = types.ParseTime(attr["time"]); err != nil {
		return Event{}, fmt.Errorf("%w: time: %w", ErrNotAnEvent, err)
	}
	if e.Sequence, err = strconv.Atoi(attr[extSequence]); err != nil || e.Sequence < 0 {
		return Event{}, fmt.Errorf("%w: sequence %q", ErrNotAnEvent, attr[extSequence])
	}
	e.Data = k.data()
	// A newer writer may add fields; an older reader passes over them.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, e.Data); err != nil {
		return Event{}, fmt.Errorf("%w: data: %w", ErrNotAnEvent, err)
	}
	return e, nil
}

// IsFirst reports whether the headers are those of a log's first event, without
// reading all of it.
func IsFirst(header map[string][]string) bool {
	v := header[headerPrefix+extSequence]
	return len(v) == 1 && v[0] == "0"
}

// DecodeWebhook reads of a JobRequested that Encode wrote where its callbacks go,
// and nothing else of it, which costs a fifth of Decode; nil: nowhere.
func DecodeWebhook(header map[string][]string, data []byte) (*jobsv1.Webhook, error) {
	if got := header[headerPrefix+"type"]; len(got) != 1 || got[0] != string(TypeJobRequested) {
		return nil, fmt.Errorf("%w: of type %q, wanted %s", ErrNotAnEvent, got, TypeJobRequested)
	}
	var d struct {
		Webhook *struct {
			URL      string  `json:"url"`
			Statuses []int32 `json:"statuses"`
		} `json:"webhook"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("%w: data: %w", ErrNotAnEvent, err)
	}
	if d.Webhook == nil {
		return nil, nil //nolint:nilnil // no webhook is an answer
	}
	return &jobsv1.Webhook{Url: d.Webhook.URL, Statuses: d.Webhook.Statuses}, nil
}

// marshalData is the JSON form of the data. protojson varies its white space
// on purpose, so it is compacted: the same event is the same bytes.
func marshalData(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

const hexDigits = "0123456789ABCDEF"

// escape percent-encodes space, double quote, percent and everything outside
// U+0021 to U+007E (CloudEvents HTTP binding 1.0.2, 3.1.3.2, which the NATS
// binding refers to).
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescape is lenient: a percent sign that starts no escape stands for itself.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// DataJSON is the event's data as it stands on the wire.
func DataJSON(e Event) ([]byte, error) { return marshalData(e.Data) }
