package jobrelay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

type rejectionsCommand struct {
	List   rejectionsList   `cmd:"" help:"List the newest rejections, the newest first."`
	Show   rejectionsShow   `cmd:"" help:"Show every reason of one rejection, and what of the message could be read."`
	Resend rejectionsResend `cmd:"" help:"Put the raw bodies of rejections on a queue again, or a corrected one."`
}

// openRejections connects to what these commands read.
func (t *topologyFlags) openRejections(ctx context.Context, c *console) (*broker.Broker, error) {
	return t.reader(ctx, c, broker.StreamRejections, broker.StreamEvents)
}

type rejectionsList struct {
	topologyFlags `embed:""`

	Service string `name:"service" env:"-" help:"Only those of this service."`
	Since   since  `name:"since" env:"-" placeholder:"1h|TIME" help:"Only those recorded since: a time before now (90m, 2d) or an RFC 3339 time."`
	Code    string `name:"code" env:"-" help:"Only those with this error code, such as MESSAGE_INVALID or ID_REUSED."`
	Limit   int    `name:"limit" env:"-" default:"100" help:"How many, at most (1 to 1000)."`
}

// Validate says what is wrong with the arguments; kong calls it.
func (l *rejectionsList) Validate() error {
	if l.Limit < 1 || l.Limit > 1000 {
		return errors.New("--limit takes 1 to 1000")
	}
	return nil
}

// rejection is what is printed of one for machines; a listing leaves out what
// is not in its columns.
type rejection struct {
	At      time.Time       `json:"at"`
	LogKey  string          `json:"logKey"`
	ID      string          `json:"id,omitempty"`
	Service string          `json:"service,omitempty"`
	Code    string          `json:"code,omitempty"`
	Reason  *jobsv1.Problem `json:"reason,omitempty"` // the first
	Reasons int             `json:"reasons"`
}

func newRejection(r broker.Rejected) rejection {
	out := rejection{At: r.At.UTC(), LogKey: r.LogKey, ID: r.ID, Service: r.Service, Code: r.Code, Reasons: len(r.Problems)}
	if len(r.Problems) > 0 {
		out.Reason = r.Problems[0]
	}
	return out
}

// reasonWidth is how much of a reason a table shows, in characters.
const reasonWidth = 60

func (l *rejectionsList) Run(ctx context.Context, c *console) error {
	b, err := l.openRejections(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	recorded, err := b.Rejections(ctx, broker.RejectionFilter{Since: l.Since.Time, Service: l.Service, Code: l.Code, Limit: l.Limit})
	if err != nil {
		return interrupted(ctx, err)
	}
	var all []rejection
	for _, r := range recorded {
		all = append(all, newRejection(r))
	}
	if len(all) == l.Limit {
		c.say("there may be more: --limit takes up to 1000")
	}
	return list(c, all, "WHEN\tSERVICE\tID\tCODE\tREASON\tLOG KEY", "no rejection is recorded that fits\n", func(r rejection) []string {
		return []string{
			r.At.Local().Format(time.DateTime), cmp.Or(r.Service, "-"), cmp.Or(r.ID, "-"), cmp.Or(r.Code, "-"), cut(reason(r.Reason)), r.LogKey,
		}
	})
}

func reason(p *jobsv1.Problem) string {
	if p == nil {
		return "-"
	}
	return p.GetPath() + " " + p.GetMessage()
}

func cut(s string) string {
	if r := []rune(s); len(r) > reasonWidth {
		return string(r[:reasonWidth-1]) + "…"
	}
	return s
}

// since is a time in the past, given as one or as a duration before now.
type since struct{ time.Time }

// UnmarshalText reads 90m, 2d or an RFC 3339 time.
func (s *since) UnmarshalText(text []byte) error {
	value := string(text)
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		s.Time = t
		return nil
	}
	d, err := time.ParseDuration(value)
	if days, ok := strings.CutSuffix(value, "d"); ok && err != nil {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is neither a duration such as 90m or 2d, nor a time such as 2006-01-02T15:04:05Z", value)
	}
	s.Time = time.Now().Add(-d)
	return nil
}

// logKey is the name of a rejection.
type logKey string

var logKeyForm = regexp.MustCompile(`^(_|[0-9a-f]{32})-[0-9a-f]{16}$`)

// UnmarshalText takes the form of event.RejectedLogKey alone: anything else
// could be a wildcard.
func (k *logKey) UnmarshalText(text []byte) error {
	if !logKeyForm.Match(text) {
		return fmt.Errorf("%q is no log key of a rejection: see the last column of jobrelay rejections list", text)
	}
	*k = logKey(text)
	return nil
}

// read is the rejection of the log key.
func (k logKey) read(ctx context.Context, b *broker.Broker) (broker.Rejected, error) {
	r, err := b.Rejected(ctx, string(k))
	if errors.Is(err, broker.ErrNotFound) {
		return r, fmt.Errorf("no rejection %s is recorded: it is past its retention, or of another NATS", k)
	}
	return r, interrupted(ctx, err)
}

type rejectionsShow struct {
	topologyFlags `embed:""`

	LogKey   logKey `arg:"" name:"LOGKEY" help:"Log key of the rejection, as list shows it."`
	Body     bool   `name:"body" env:"-" help:"Show the raw body too."`
	BodyOnly bool   `name:"body-only" env:"-" help:"Write the raw body to standard output, byte for byte, and nothing else."`
}

// shown is a rejection in full.
type shown struct {
	rejection

	Reason   *jobsv1.Problem   `json:"reason,omitempty"` // left out: errors has it
	Errors   []*jobsv1.Problem `json:"errors"`
	Key      string            `json:"key,omitempty"`
	Webhook  string            `json:"webhook,omitempty"`
	Statuses []int32           `json:"statuses,omitempty"`
	Queue    string            `json:"queue,omitempty"`
	Trace    string            `json:"traceparent,omitempty"`
	Bytes    int               `json:"bytes"`
	Body     *string           `json:"body,omitempty"`
}

func (s *rejectionsShow) Run(ctx context.Context, c *console) error {
	b, err := s.openRejections(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	r, err := s.LogKey.read(ctx, b)
	if err != nil {
		return err
	}
	if s.BodyOnly {
		_, err := c.out.Write(r.Body)
		return err
	}
	out := shown{rejection: newRejection(r), Errors: slices.Concat([]*jobsv1.Problem{}, r.Problems), Queue: r.Queue, Trace: r.Trace, Bytes: len(r.Body)}
	out.Webhook, out.Statuses = r.Webhook.GetUrl(), r.Webhook.GetStatuses()
	if r.ID != "" {
		out.Key = event.Key(r.ID)
	}
	if s.Body {
		body := string(r.Body)
		out.Body = &body
	}
	return c.print(out, out.text(c))
}

func (s *shown) text(c *console) string {
	const unread = "could not be read"
	text := columns("",
		"rejected\t"+s.At.Local().Format(time.DateTime),
		"code\t"+cmp.Or(s.Code, "no event tells it"),
		"id\t"+cmp.Or(s.ID, unread),
		"service\t"+cmp.Or(s.Service, unread),
		"webhook\t"+cmp.Or(s.Webhook, "none, or "+unread),
		"queue\t"+cmp.Or(s.Queue, "no event tells it"),
		fmt.Sprintf("body\t%d bytes", s.Bytes),
	)
	var rows []string
	for _, p := range s.Errors {
		rows = append(rows, problemRow(c.paint(red, "error"), p))
	}
	text += "\n" + columns("", rows...)
	if s.Body != nil {
		text += "\n" + printable(*s.Body)
		if !strings.HasSuffix(*s.Body, "\n") {
			text += "\n"
		}
	}
	return text
}

// printable is foreign text for a terminal: nothing in it moves the cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

type rejectionsResend struct {
	topologyFlags `embed:""`
	place         `embed:""`

	LogKeys  []logKey `arg:"" name:"LOGKEY" help:"Log keys of the rejections, as list shows them."`
	EditFile string   `name:"edit-file" env:"-" placeholder:"FILE" help:"Send this corrected body instead; - is standard input. For one LOGKEY."`
	Group    string   `name:"group" env:"-" placeholder:"NAME" help:"Message group of a FIFO queue; without it the message's service, and jobrelay where that cannot be read."`
}

// Help is what resend --help says besides its flags.
func (*rejectionsResend) Help() string {
	return "The rejection stays recorded. A body that is not valid still is sent, with a warning, and rejected again; " +
		"a body with an id that was accepted with another request is rejected as ID_REUSED: give it a new id with --edit-file."
}

// Validate says what is wrong with the arguments; kong calls it.
func (r *rejectionsResend) Validate() error {
	if r.EditFile != "" && len(r.LogKeys) != 1 {
		return errors.New("--edit-file is one message's body: name one LOGKEY")
	}
	return nil
}

func (r *rejectionsResend) Run(ctx context.Context, c *console) error {
	var edited []byte
	if r.EditFile != "" {
		var err error
		if edited, err = readFile(r.EditFile); err != nil {
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
	}
	b, err := r.openRejections(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	q, err := r.open(ctx)
	if err != nil {
		return err
	}
	out := &resent{receipts{console: c, queue: q.Name(), logKeys: true}}
	err = q.SendAll(ctx, func(yield func(sqsqueue.Outgoing) bool) {
		for _, key := range r.LogKeys {
			m, err := r.outgoing(ctx, b, key, edited)
			if err != nil {
				out.print(sqsqueue.Sent{Outgoing: m, Err: err})
				continue
			}
			if q.FIFO() { // an id of its own: the same body may have been sent just now
				m.Group, m.DedupID = group(r.Group, m.Body), uuid.NewString()
			}
			if !yield(m) {
				return
			}
		}
	}, out.print)
	return out.end(interrupted(ctx, err))
}

// outgoing is the rejection's body again, or the edited one, with the trace of
// its producer.
func (r *rejectionsResend) outgoing(ctx context.Context, b *broker.Broker, key logKey, edited []byte) (sqsqueue.Outgoing, error) {
	m := sqsqueue.Outgoing{Name: string(key)}
	old, err := key.read(ctx, b)
	if err != nil {
		return m, err
	}
	m.Body, m.Trace = old.Body, old.Trace
	if r.EditFile != "" {
		if bytes.Equal(edited, old.Body) {
			return m, fmt.Errorf("%s holds the very body that was rejected: correct it, or leave --edit-file out", r.EditFile)
		}
		m.Body = edited
	}
	return m, nil
}

// resent prints what became of each rejection.
type resent struct{ receipts }

func (r *resent) print(s sqsqueue.Sent) {
	if parsed := request.Parse(s.Body, request.Options{}); s.Err == nil && parsed.Request == nil {
		r.console.say("%s is not valid still, and will be rejected again: %s", s.Name, reason(problems(parsed.Problems)[0]))
	}
	r.receipts.print(s)
}
