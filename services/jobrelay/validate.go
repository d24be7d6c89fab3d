package jobrelay

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/replica"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// rules are what a message is held against, set as for ingest.
type rules struct {
	Strict          bool `help:"Take unknown fields as errors."`
	MaxBackoffLimit int  `name:"max-backoff-limit" default:"6" help:"Highest job.backoffLimit that is accepted."`

	Policy replica.PolicyConfig `embed:""`

	policy *request.Policy // nil before open, and without a file
}

// open reads the policy; a mistake in it is told before any message.
func (r *rules) open() error {
	f, err := r.Policy.Open(zerolog.Nop())
	if err != nil {
		return err
	}
	r.policy = f.Get()
	return nil
}

// parse is the one place where the commands judge a message.
func (r *rules) parse(body []byte) request.Result {
	parsed := request.Parse(body, request.Options{Strict: r.Strict, MaxBackoffLimit: r.MaxBackoffLimit})
	if parsed.Request != nil {
		if denied := r.policy.Check(parsed.Request); len(denied) > 0 {
			parsed.Request, parsed.Problems = nil, denied
		}
	}
	return parsed
}

type validateCommand struct {
	sources `embed:""`
	rules   `embed:""`

	Queue    string `name:"queue" aliases:"queue-url" env:"-" placeholder:"URL" help:"Look at what waits in a queue, instead of files, and take none of it: URL as for send, or dev for that of --state-dir. A look raises each message's receive count by one and hides it from ingest for a moment."`
	StateDir string `name:"state-dir" default:".jobrelay" help:"Folder of a running jobrelay dev, for --queue dev."`
	Limit    int    `name:"limit" env:"-" default:"100" help:"Messages of the queue that are looked at, at most (1 to 1000)."`
	Force    bool   `name:"force" env:"-" help:"Look also into a queue with a redrive policy, where a receive too many moves a message to the dead-letter queue."`
}

// Help is what validate --help says besides its flags.
func (*validateCommand) Help() string {
	return "Exit code 0: all are valid. 1: some are not. 2: a file could not be read, or the arguments are wrong.\n\n" +
		"With --queue nothing is deleted: each message is received once, with a short visibility, and given back at the end. " +
		"That counts as a receive. Of a FIFO queue only the first messages of each group may be seen."
}

// Validate says what is wrong with the arguments; kong calls it.
func (v *validateCommand) Validate() error {
	switch {
	case v.Queue == "" && len(v.Files) == 0:
		return errors.New("name a FILE, - for standard input, or --queue")
	case v.Queue == "":
		return v.check()
	case len(v.Files) > 0 || v.NDJSON:
		return errors.New("--queue looks at a queue instead of files: leave one of the two out")
	case v.Limit < 1 || v.Limit > 1000:
		return errors.New("--limit takes 1 to 1000")
	}
	return nil
}

// Run prints a verdict for each message.
func (v *validateCommand) Run(ctx context.Context, c *console) error {
	if err := v.open(); err != nil {
		return err
	}
	var t tally
	var err error
	if v.Queue != "" {
		err = v.look(ctx, c, &t)
	} else {
		err = v.read(ctx, c, &t)
	}
	if err != nil {
		return interrupted(ctx, err)
	}
	if c.machine == nil {
		fmt.Fprintf(c.out, "%d valid, %d invalid\n", t.valid, t.invalid)
	}
	return t.err()
}

func (v *validateCommand) read(ctx context.Context, c *console, t *tally) error {
	return t.each(ctx, c, &v.sources, func(m message) error {
		verdict, prefix := v.judge(m.body), ""
		if v.several() {
			verdict.File, verdict.Line, prefix = m.from(), m.line, m.name()+": "
		}
		return t.print(c, verdict, prefix)
	})
}

// look judges what waits in the queue, where a look does no harm.
func (v *validateCommand) look(ctx context.Context, c *console, t *tally) error {
	q, err := place{v.Queue, v.StateDir}.open(ctx)
	if err != nil {
		return err
	}
	w, err := q.Waiting(ctx)
	if err != nil {
		return err
	}
	if w.DeadLetters != "" {
		danger := fmt.Sprintf("queue %s moves a message to %s once it was received %d times, and a look is a receive", q.Name(), w.DeadLetters, w.MaxReceives)
		if !v.Force {
			return fmt.Errorf("%s; add --force to look all the same", danger)
		}
		c.say("%s", danger)
	}
	if q.FIFO() {
		c.say("queue %s is FIFO: only the first messages of each group can be seen", q.Name())
	}
	last := 0
	seen, err := q.Peek(ctx, v.Limit, func(m *sqsqueue.Message) error {
		verdict := v.judge(m.Body)
		verdict.MessageID, verdict.Receives, verdict.Group = m.MessageID(), m.Receives, m.Group
		if w.MaxReceives > 0 && m.Receives >= w.MaxReceives {
			last++
		}
		return t.print(c, verdict, m.MessageID()+": ")
	})
	if last > 0 {
		c.say("%d of them are moved to %s by their next receive", last, w.DeadLetters)
	}
	switch {
	case seen == v.Limit:
		c.say("stopped after %d of about %d messages: --limit takes up to 1000", seen, max(w.Visible, seen))
	case err == nil && seen < w.Visible && !q.FIFO():
		c.say("about %d messages were visible: those not seen were handed to another receiver, or with an answer that was lost, and come back then within 30 s", w.Visible)
	}
	return err
}

// verdict is what validate says of one message.
type verdict struct {
	Valid    bool              `json:"valid"`
	Errors   []*jobsv1.Problem `json:"errors"`
	Warnings []*jobsv1.Problem `json:"warnings"`
	JobName  string            `json:"jobName,omitempty"`
	Key      string            `json:"key,omitempty"`

	File string `json:"file,omitempty"` // where there are several messages
	Line int    `json:"line,omitempty"` // of NDJSON

	MessageID string `json:"messageId,omitempty"` // these of a queue
	Receives  int    `json:"receives,omitempty"`
	Group     string `json:"group,omitempty"`

	namespace string
}

func (r *rules) judge(body []byte) verdict {
	parsed := r.parse(body)
	out := verdict{Valid: parsed.Request != nil, Errors: problems(parsed.Problems), Warnings: problems(parsed.Warnings)}
	if parsed.ID != "" {
		out.Key = event.Key(parsed.ID)
	}
	if job := parsed.Request.GetJob(); job != nil {
		out.JobName, out.namespace = kubejob.Name(job.GetPrefixName(), parsed.ID), job.GetNamespace()
	}
	return out
}

func problems(in []request.Problem) []*jobsv1.Problem {
	out := make([]*jobsv1.Problem, 0, len(in)) // never null
	for _, p := range in {
		out = append(out, &jobsv1.Problem{Path: p.Path, Code: p.Code, Message: p.Message})
	}
	return out
}

// tally counts the verdicts that it prints, and the files that gave none.
type tally struct{ valid, invalid, unreadable int }

// each hands the messages on until do fails or ctx ends; it counts the files that
// cannot be read, and says why.
func (t *tally) each(ctx context.Context, c *console, s *sources, do func(message) error) error {
	for m, err := range s.messages() {
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil {
			t.unreadable++
			c.say("%v", err)
			continue
		}
		if err := do(m); err != nil {
			return err
		}
	}
	return nil
}

func (t *tally) print(c *console, v verdict, prefix string) error {
	var rows []string
	for _, p := range v.Errors {
		rows = append(rows, problemRow(c.paint(red, "error"), p))
	}
	for _, p := range v.Warnings {
		rows = append(rows, problemRow(c.paint(yellow, "warning"), p))
	}
	text := columns(prefix, rows...)
	if v.Valid {
		t.valid++
		text += fmt.Sprintf("%s%s: becomes Job %s in namespace %s\n", prefix, c.paint(green, "valid"), v.JobName, v.namespace)
	} else {
		t.invalid++
	}
	return c.print(v, text)
}

func problemRow(kind string, p *jobsv1.Problem) string {
	return fmt.Sprintf("%s\t%s\t%s\t%s", kind, p.GetPath(), p.GetCode(), p.GetMessage())
}

// err is the end of a command that met what it could not use, after it was
// printed.
func (t *tally) err() error {
	switch {
	case t.unreadable > 0:
		return fmt.Errorf("%w: %d of them", errUnreadable, t.unreadable)
	case t.invalid == 0:
		return nil
	case t.valid+t.invalid == 1:
		return errors.New("the message is not valid")
	default:
		return fmt.Errorf("%d of %d messages are not valid", t.invalid, t.valid+t.invalid)
	}
}
