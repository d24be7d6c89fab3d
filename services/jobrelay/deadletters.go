package jobrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
)

type deadLettersCommand struct {
	List   deadLettersList   `cmd:"" help:"List the callbacks that were given up, the oldest first."`
	Show   deadLettersShow   `cmd:"" help:"Show every dead letter of one id: its attempts, and what would be sent."`
	Replay deadLettersReplay `cmd:"" help:"Send dead letters again, in the order of each job."`
}

// letterSelection says which dead letters are meant.
type letterSelection struct {
	topologyFlags `embed:""`

	ID      string `name:"id" env:"-" help:"Only those of this message."`
	Service string `name:"service" env:"-" help:"Only those of this service."`
	Host    string `name:"host" env:"-" placeholder:"HOST[:PORT]" help:"Only those for this receiver."`
	Since   since  `name:"since" env:"-" placeholder:"1h|TIME" help:"Only those given up since: a time before now (90m, 2d) or an RFC 3339 time."`
	Until   since  `name:"until" env:"-" placeholder:"1h|TIME" help:"Only those given up before then."`
}

func (s *letterSelection) empty() bool {
	return s.ID == "" && s.Service == "" && s.Host == "" && s.Since.IsZero() && s.Until.IsZero()
}

func (s *letterSelection) fits(l delivery.Letter) bool {
	if s.Host != "" {
		u, err := url.Parse(l.Endpoint)
		if err != nil || !strings.EqualFold(u.Host, s.Host) && !strings.EqualFold(u.Hostname(), s.Host) {
			return false
		}
	}
	return (s.Since.IsZero() || !l.At.Before(s.Since.Time)) && (s.Until.IsZero() || l.At.Before(s.Until.Time))
}

// read hands the letters that fit to each.
func (s *letterSelection) read(ctx context.Context, b *broker.Broker, each func(delivery.Letter) error) error {
	err := b.Letters(ctx, broker.LetterFilter{Service: s.Service, ID: s.ID}, func(l delivery.Letter) error {
		if !s.fits(l) {
			return nil
		}
		return each(l)
	})
	return interrupted(ctx, err)
}

func (s *letterSelection) open(ctx context.Context, c *console) (*broker.Broker, error) {
	return s.reader(ctx, c, broker.StreamDeadLetters)
}

// errEnough ends a reading.
var errEnough = errors.New("enough")

type deadLettersList struct {
	letterSelection `embed:""`

	Replayed bool `name:"replayed" env:"-" help:"Those that a replay has delivered instead."`
	Limit    int  `name:"limit" env:"-" default:"100" help:"How many, at most (1 to 100000)."`
}

// Validate says what is wrong with the arguments; kong calls it.
func (l *deadLettersList) Validate() error {
	if l.Limit < 1 || l.Limit > maxLetters {
		return fmt.Errorf("--limit takes 1 to %d", maxLetters)
	}
	return nil
}

// letter is what is printed of one for machines: neither its address nor its body.
type letter struct {
	At        time.Time          `json:"at"`
	ID        string             `json:"id"`
	Service   string             `json:"service"`
	Status    int                `json:"status"`
	N         int                `json:"n"`
	LogKey    string             `json:"logKey"`
	Endpoint  string             `json:"endpoint"`
	WebhookID string             `json:"webhookId"`
	Reason    string             `json:"reason"`
	Attempts  int                `json:"attempts"`
	Replayed  *delivery.Replayed `json:"replayed,omitempty"`
}

func newLetter(l delivery.Letter) letter {
	return letter{l.At, l.ID, l.Service, l.Status, l.N, l.LogKey, l.Endpoint, l.WebhookID, l.Reason, len(l.Attempts), l.Replayed}
}

func (l *deadLettersList) Run(ctx context.Context, c *console) error {
	b, err := l.open(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	var all []letter
	err = l.read(ctx, b, func(d delivery.Letter) error {
		if (d.Replayed != nil) != l.Replayed {
			return nil
		}
		if all = append(all, newLetter(d)); len(all) == l.Limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		c.say("there may be more: --limit takes up to %d", maxLetters)
		err = nil
	}
	if err != nil {
		return err
	}
	return list(c, all, "GIVEN UP\tSERVICE\tID\tSTATUS\tENDPOINT\tREASON\tATTEMPTS", "no dead letter that fits\n", func(l letter) []string {
		return []string{
			l.At.Local().Format(time.DateTime), cmp.Or(l.Service, "-"), cmp.Or(l.ID, "-"), strconv.Itoa(l.Status), l.Endpoint, l.Reason, strconv.Itoa(l.Attempts),
		}
	})
}

type deadLettersShow struct {
	topologyFlags `embed:""`

	ID string `arg:"" name:"ID" help:"The id of the message."`
}

// letterInFull is a letter with what was tried and what would be sent. The address
// is left out: it may hold a secret.
type letterInFull struct {
	letter

	Tried []delivery.Attempt `json:"tried"`
	Body  string             `json:"body,omitempty"`
}

func (s *deadLettersShow) Run(ctx context.Context, c *console) error {
	selection := letterSelection{topologyFlags: s.topologyFlags, ID: s.ID}
	b, err := selection.open(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	found := 0
	err = selection.read(ctx, b, func(l delivery.Letter) error {
		found++
		full := letterInFull{letter: newLetter(l), Tried: append([]delivery.Attempt{}, l.Attempts...), Body: string(l.Body)}
		return c.print(full, full.text())
	})
	if err == nil && found == 0 {
		return fmt.Errorf("%s has no dead letter", s.ID)
	}
	return err
}

func (l *letterInFull) text() string {
	rows := []string{
		fmt.Sprintf("%s\tstatus %d", cmp.Or(l.ID, "-"), l.Status),
		"endpoint\t" + l.Endpoint,
		"webhook-id\t" + l.WebhookID,
		"given up\t" + l.At.Local().Format(time.DateTime) + ": " + l.Reason,
	}
	for _, a := range l.Tried {
		rows = append(rows, fmt.Sprintf("attempt\t%s %s %s in %d ms", a.At.Local().Format(time.DateTime), a.Class, cmp.Or(codeText(a.Code), "without an answer"), a.Milliseconds))
	}
	if l.Replayed != nil {
		rows = append(rows, "replayed\t"+l.Replayed.At.Local().Format(time.DateTime)+" by "+l.Replayed.Run)
	} else {
		rows = append(rows, "body\t"+printable(l.Body))
	}
	return columns("", rows...) + "\n"
}

func codeText(code int) string {
	if code == 0 {
		return ""
	}
	return strconv.Itoa(code)
}

// maxLetters bounds the letters that one command holds; of a replay, another one
// does the rest.
const maxLetters = 100_000

type deadLettersReplay struct {
	letterSelection `embed:""`

	All    bool `name:"all" env:"-" help:"All of them; else say which."`
	Rate   int  `name:"rate" env:"-" default:"50" help:"Jobs whose letters are started a second (1 to 1000)."`
	DryRun bool `name:"dry-run" env:"-" help:"Only say what would be replayed."`
}

// Help is what replay --help says besides its flags.
func (*deadLettersReplay) Help() string {
	return "Each callback has the same body and webhook-id as before, and today's signature. All letters of a job that has one that fits go together, in order, and are tried as often as callbacks are. " +
		"What is delivered is marked; what fails again stays a dead letter. To start the same replay twice is to start it once."
}

// Validate says what is wrong with the arguments; kong calls it.
func (r *deadLettersReplay) Validate() error {
	switch {
	case r.empty() != r.All:
		return errors.New("say which with --id, --service, --host, --since or --until, or all of them with --all alone")
	case r.Rate < 1 || r.Rate > 1000:
		return errors.New("--rate takes 1 to 1000")
	}
	return nil
}

// replay is what is printed of a job's letters.
type replay struct {
	ID       string `json:"id"`
	LogKey   string `json:"logKey"`
	Service  string `json:"service"`
	Endpoint string `json:"endpoint"`
	Statuses []int  `json:"statuses"`
	Run      string `json:"run"`
}

func (r *deadLettersReplay) Run(ctx context.Context, c *console) error {
	b, err := r.open(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	logs, full, err := r.choose(ctx, b)
	if err != nil {
		return err
	}
	limit := rate.NewLimiter(rate.Limit(r.Rate), 1)
	var all []replay
	told := time.Now()
	for _, letters := range logs {
		out := replay{ID: letters[0].ID, LogKey: letters[0].LogKey, Service: letters[0].Service, Endpoint: letters[0].Endpoint}
		slices.SortFunc(letters, func(a, b delivery.Letter) int { return a.N - b.N })
		for _, l := range letters {
			out.Statuses = append(out.Statuses, l.Status)
		}
		if r.DryRun {
			out.Run = delivery.NewRun(letters).ID
		} else {
			if err := limit.Wait(ctx); err != nil {
				return interrupted(ctx, err)
			}
			run, err := b.Replay(ctx, letters)
			if err != nil {
				return fmt.Errorf("%d of %d jobs are started, say the same again for the rest: %w", len(all), len(logs), interrupted(ctx, err))
			}
			out.Run = run.ID
		}
		all = append(all, out)
		if time.Since(told) > progressEvery {
			told = time.Now()
			c.say("%d of %d jobs", len(all), len(logs))
		}
	}
	if full {
		c.say("that is %d letters: say the same again for those behind them", maxLetters)
	}
	verb := map[bool]string{false: "started", true: "would be started"}[r.DryRun]
	return list(c, all, "SERVICE\tID\tSTATUSES\tENDPOINT\t"+strings.ToUpper(verb)+" AS", "no dead letter that fits\n", func(p replay) []string {
		return []string{cmp.Or(p.Service, "-"), cmp.Or(p.ID, "-"), strings.Trim(fmt.Sprint(p.Statuses), "[]"), p.Endpoint, p.Run}
	})
}

// progressEvery is between two lines that say how far a replay is.
const progressEvery = 2 * time.Second

// choose are the letters that are to be replayed, by their logs, the oldest first,
// without address and body; full: there are more.
func (r *deadLettersReplay) choose(ctx context.Context, b *broker.Broker) (logs [][]delivery.Letter, full bool, err error) {
	at, fits, n := map[string]int{}, map[string]bool{}, 0
	err = b.Letters(ctx, broker.LetterFilter{Service: r.Service, ID: r.ID}, func(l delivery.Letter) error {
		if l.Replayed != nil {
			return nil
		}
		if n == maxLetters {
			return errEnough
		}
		n++
		if _, there := at[l.LogKey]; !there {
			at[l.LogKey] = len(logs)
			logs = append(logs, nil)
		}
		fits[l.LogKey] = fits[l.LogKey] || r.fits(l)
		l.URL, l.Body, l.Attempts = "", nil, nil
		logs[at[l.LogKey]] = append(logs[at[l.LogKey]], l)
		return nil
	})
	if errors.Is(err, errEnough) {
		full, err = true, nil
	}
	logs = slices.DeleteFunc(logs, func(letters []delivery.Letter) bool { return !fits[letters[0].LogKey] })
	return logs, full, interrupted(ctx, err)
}
