package jobrelay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"regexp"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"

	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

type sendCommand struct {
	sources `embed:""`
	place   `embed:""`

	Count int    `name:"count" env:"-" placeholder:"N" help:"Send N copies of each message, with the ids <id>-1 to <id>-N."`
	Group string `name:"group" env:"-" placeholder:"NAME" help:"Message group of a FIFO queue; without it the message's service, and jobrelay where that cannot be read."`
	Trace bool   `name:"trace" env:"-" help:"Attach a traceparent to each message: a new trace, or a part of the one in TRACEPARENT."`
}

// Help is what send --help says besides its flags.
func (*sendCommand) Help() string {
	return "Messages are sent as they are: what is wrong with one is ingest's to say, or validate's. " +
		"On a FIFO queue the deduplication id is the SHA-256 of the body: the same body again within 5 minutes is dropped by SQS.\n\n" +
		"Exit code 1: some were not sent; standard error says which."
}

// Validate says what is wrong with the arguments; kong calls it.
func (s *sendCommand) Validate() error {
	if s.Count < 0 {
		return errors.New("--count takes 1 or more")
	}
	return s.check()
}

// Run streams the messages to the queue: it holds a batch of at most 1 MiB.
func (s *sendCommand) Run(ctx context.Context, c *console) error {
	q, err := s.open(ctx)
	if err != nil {
		return err
	}
	r := &receipts{console: c, queue: q.Name(), summary: s.NDJSON || s.Count > 0, bar: s.progress(c)}
	err = q.SendAll(ctx, s.outgoing(q.FIFO(), r.print), r.print)
	return r.end(interrupted(ctx, err))
}

// outgoing makes the messages to send; those that cannot be made are told to
// failed.
func (s *sendCommand) outgoing(fifo bool, failed func(sqsqueue.Sent)) iter.Seq[sqsqueue.Outgoing] {
	return func(yield func(sqsqueue.Outgoing) bool) {
		for m, err := range s.messages() {
			if err != nil {
				failed(sqsqueue.Sent{Outgoing: sqsqueue.Outgoing{Name: m.name()}, Err: err})
				continue
			}
			for out, err := range s.copies(m) {
				if err != nil {
					failed(sqsqueue.Sent{Outgoing: out, Err: err})
					continue
				}
				if s.Trace {
					out.Trace = newTrace(os.Getenv("TRACEPARENT"))
				}
				if fifo {
					out.Group, out.DedupID = group(s.Group, out.Body), contentID(out.Body)
				}
				if !yield(out) {
					return
				}
			}
		}
	}
}

// copies gives the message itself, or --count of it.
func (s *sendCommand) copies(m message) iter.Seq2[sqsqueue.Outgoing, error] {
	return func(yield func(sqsqueue.Outgoing, error) bool) {
		if s.Count == 0 {
			yield(sqsqueue.Outgoing{Name: m.name(), Body: m.body}, nil)
			return
		}
		id, err := findID(m.body)
		if err != nil {
			yield(sqsqueue.Outgoing{Name: m.name()}, err)
			return
		}
		for i := range s.Count {
			name := fmt.Sprintf("%s-%d", id.value, i+1)
			if utf8.RuneCountInString(name) > request.MaxID {
				yield(sqsqueue.Outgoing{Name: m.name()}, fmt.Errorf("its id is too long for --count: with the suffix it has more than %d characters", request.MaxID))
				return
			}
			if !yield(sqsqueue.Outgoing{Name: m.name() + " as " + name, Body: id.replaced(name)}, nil) {
				return
			}
		}
	}
}

// place of an id's value in a message.
type idValue struct {
	body       []byte
	start, end int // of its JSON text
	value      string
}

// findID finds the one id of a message that ingest could read it from.
func findID(body []byte) (idValue, error) {
	id := idValue{body: body, value: request.Parse(body, request.Options{}).ID}
	if id.value == "" {
		return id, errors.New("--count needs a JSON object with a valid id, once: its copies have the ids <id>-1, <id>-2, …")
	}
	in := json.NewDecoder(bytes.NewReader(body))
	if _, err := in.Token(); err != nil { // {
		return id, err
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return id, err
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return id, err
		}
		if key == "id" {
			id.end = int(in.InputOffset())
			id.start = id.end - len(value)
			return id, nil
		}
	}
	return id, errors.New("it has no id")
}

// replaced is the message with another id, and all else as it was.
func (v idValue) replaced(id string) []byte {
	text, _ := json.Marshal(id) // a string: no error
	out := make([]byte, 0, len(v.body)+len(text))
	return append(append(append(out, v.body[:v.start]...), text...), v.body[v.end:]...)
}

// group is a FIFO queue's message group: acceptance is in order within one.
func group(given string, body []byte) string {
	if given != "" {
		return given
	}
	if service := request.Parse(body, request.Options{}).Service; service != "" {
		return service
	}
	return "jobrelay"
}

// contentID is what SQS itself would take as deduplication id.
func contentID(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$`)

// newTrace is a traceparent with a span of its own: of the trace that parent
// names, else of a new one.
func newTrace(parent string) string {
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails
	trace, flags := hex.EncodeToString(id[:16]), "01"
	if p := traceparent.FindStringSubmatch(parent); p != nil {
		trace, flags = p[1], p[2]
	}
	return fmt.Sprintf("00-%s-%s-%s", trace, hex.EncodeToString(id[16:]), flags)
}

// receipts prints what became of each message.
type receipts struct {
	console *console
	queue   string
	summary bool // people see the failures and the sum, not a line for each
	logKeys bool // the messages are named by their log keys
	bar     *progressbar.ProgressBar

	sent, failed int
	broken       error // of standard output
}

// receipt is one line for machines.
type receipt struct {
	MessageID string `json:"messageId,omitempty"`
	Queue     string `json:"queue"`
	File      string `json:"file,omitempty"` // with its line and its id where there are several
	Trace     string `json:"traceparent,omitempty"`
	LogKey    string `json:"logKey,omitempty"` // of a rejection that was sent again
	Error     string `json:"error,omitempty"`
}

func (r *receipts) print(s sqsqueue.Sent) {
	line := receipt{MessageID: s.MessageID, Queue: r.queue, Trace: s.Trace}
	if r.logKeys {
		line.LogKey = s.Name
	} else {
		line.File = s.Name
	}
	text := fmt.Sprintf("%s sent to %s as %s\n", s.Name, r.queue, s.MessageID)
	if s.Trace != "" {
		text = fmt.Sprintf("%s sent to %s as %s, traceparent %s\n", s.Name, r.queue, s.MessageID, s.Trace)
	}
	if s.Err != nil {
		r.failed++
		line.Error, text = s.Err.Error(), ""
		if r.console.machine == nil {
			r.clear()
			r.console.say("%s was not sent: %v", s.Name, s.Err)
		}
	} else {
		r.sent++
	}
	if r.bar != nil {
		_ = r.bar.Add(1) // a terminal that is gone is nobody's to tell
	}
	if r.summary {
		text = ""
	}
	if err := r.console.print(line, text); err != nil && r.broken == nil {
		r.broken = err
	}
}

// end prints the sum; its error says what was not sent.
func (r *receipts) end(err error) error {
	r.clear()
	if r.summary && r.console.machine == nil {
		fmt.Fprintf(r.console.out, "%d sent to %s, %d not sent\n", r.sent, r.queue, r.failed)
	}
	switch {
	case err != nil:
		return fmt.Errorf("stopped after %d messages, what comes after those named was not tried: %w", r.sent+r.failed, err)
	case r.failed > 0:
		return fmt.Errorf("%d of %d messages were not sent; send those again", r.failed, r.sent+r.failed)
	}
	return r.broken
}

func (r *receipts) clear() {
	if r.bar != nil {
		_ = r.bar.Clear()
	}
}

// progress is a bar on a terminal, where there is more than a line to wait for.
func (s *sendCommand) progress(c *console) *progressbar.ProgressBar {
	if c.machine != nil || !s.NDJSON && s.Count == 0 || !isatty.IsTerminal(os.Stderr.Fd()) {
		return nil
	}
	total := -1 // NDJSON: nobody knows
	if !s.NDJSON {
		total = len(s.Files) * s.Count
	}
	return progressbar.NewOptions(total, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription("sending"),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("messages"), progressbar.OptionClearOnFinish())
}
