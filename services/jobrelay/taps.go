package jobrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
)

type tapsCommand struct {
	Create  tapsCreate  `cmd:"" help:"Make a tap: a durable consumer of the job events, for others to pull from."`
	List    tapsList    `cmd:"" help:"List the taps, and how far each is."`
	Delete  tapsDelete  `cmd:"" help:"Delete a tap, and with it how far it is."`
	Account tapsAccount `cmd:"" help:"Print the NATS account of a tap, whose one user may pull and acknowledge that tap's events and nothing else."`
}

// open connects to EVENTS.
func (t *topologyFlags) openTaps(ctx context.Context, c *console) (*broker.Broker, error) {
	return t.reader(ctx, c, broker.StreamEvents)
}

// tapArgument is the name of a tap.
type tapArgument struct {
	Name string `arg:"" name:"NAME" help:"The tap: 1 to 40 lower-case letters, digits and dashes."`
}

// Validate says what is wrong with the argument; kong calls it.
func (t *tapArgument) Validate() error { return broker.Tap{Name: t.Name}.Validate() }

type tapsCreate struct {
	topologyFlags `embed:""`
	tapArgument   `embed:""`

	Services []string `name:"service" env:"-" placeholder:"SERVICE" help:"Only the events of this service; several with commas. Default: every service."`
	Types    []string `name:"type" env:"-" placeholder:"TYPE" enum:"started,pod-started,completed,failed,exception,rejected" help:"Only these events: started, pod-started, completed, failed, exception, rejected; several with commas. Default: every type."`
	Mirror   bool     `name:"mirror" env:"-" help:"For a tenant with an account of its own, which mirrors these events and makes its own consumers of the mirror."`
	Since    since    `name:"since" env:"-" placeholder:"1h|TIME" help:"Begin there: a time before now (90m, 2d; 0s is now) or an RFC 3339 time. Default: with the oldest event that is kept."`
}

// tap is what the flags ask for.
func (t *tapsCreate) tap() broker.Tap {
	out := broker.Tap{Name: t.Name, Services: t.Services, Since: t.Since.Time, Mirror: t.Mirror}
	for _, token := range t.Types {
		if typ, ok := event.TypeOfToken(token); ok && !slices.Contains(out.Types, typ) {
			out.Types = append(out.Types, typ)
		}
	}
	return out
}

// Validate says what is wrong with the arguments; kong calls it.
func (t *tapsCreate) Validate() error {
	for _, s := range t.Services {
		if err := (&serviceArgument{s}).Validate(); err != nil {
			return err
		}
	}
	return t.tap().Validate()
}

func (t *tapsCreate) Run(ctx context.Context, c *console) error {
	b, err := t.openTaps(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	tap := t.tap()
	if err := b.CreateTap(ctx, tap); err != nil {
		return interrupted(ctx, err)
	}
	may, flag := "may pull from it", ""
	if tap.Mirror {
		may, flag = "may mirror it", " --mirror"
	}
	return c.print(newTap(broker.TapState{Tap: tap}),
		fmt.Sprintf("%s/%s is there; `jobrelay taps account %s%s --nkey KEY` prints the account that %s\n", broker.StreamEvents, tap.Durable(), tap.Name, flag, may))
}

// tap is what is printed of one for machines.
type tap struct {
	Name           string     `json:"name"`
	Stream         string     `json:"stream"`
	Consumer       string     `json:"consumer"`
	Mirror         bool       `json:"mirror"`
	Services       []string   `json:"services"` // empty: every one
	Types          []string   `json:"types"`    // empty: every one
	Since          *time.Time `json:"since,omitempty"`
	Created        *time.Time `json:"created,omitempty"`
	Pending        uint64     `json:"pending"`
	Unacknowledged int        `json:"unacknowledged"`
	Redelivered    int        `json:"redelivered"`
	LastAck        *time.Time `json:"lastAck,omitempty"`
}

func newTap(s broker.TapState) tap {
	known := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	out := tap{
		Name: s.Name, Stream: broker.StreamEvents, Consumer: s.Durable(), Mirror: s.Mirror, Services: append([]string{}, s.Services...), Types: []string{},
		Since: known(s.Since), Created: known(s.Created), Pending: s.Pending, Unacknowledged: s.Unacknowledged, Redelivered: s.Redelivered, LastAck: known(s.LastAck),
	}
	for _, t := range s.Types {
		out.Types = append(out.Types, t.Token())
	}
	return out
}

type tapsList struct {
	topologyFlags `embed:""`
}

func (t *tapsList) Run(ctx context.Context, c *console) error {
	b, err := t.openTaps(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	states, err := b.Taps(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	var all []tap
	for _, s := range states {
		all = append(all, newTap(s))
	}
	return list(c, all, "CONSUMER\tSERVICES\tTYPES\tSINCE\tBEHIND\tUNACKNOWLEDGED\tREDELIVERED\tLAST ACK", "there is no tap\n", func(t tap) []string {
		local := func(at *time.Time) string {
			if at == nil {
				return "-"
			}
			return at.Local().Format(time.DateTime)
		}
		return []string{
			t.Consumer, cmp.Or(strings.Join(t.Services, ","), "any"), cmp.Or(strings.Join(t.Types, ","), "any"), local(t.Since),
			strconv.FormatUint(t.Pending, 10), strconv.Itoa(t.Unacknowledged), strconv.Itoa(t.Redelivered), local(t.LastAck),
		}
	})
}

type tapsDelete struct {
	topologyFlags `embed:""`
	tapArgument   `embed:""`
}

func (t *tapsDelete) Run(ctx context.Context, c *console) error {
	b, err := t.openTaps(ctx, c)
	if err != nil {
		return err
	}
	defer b.Close()
	err = b.DeleteTap(ctx, t.Name)
	if errors.Is(err, broker.ErrNotFound) {
		return fmt.Errorf("there is no tap %s; `jobrelay taps list` has them", t.Name)
	}
	if err != nil {
		return interrupted(ctx, err)
	}
	return c.print(map[string]string{"deleted": t.Name}, "tap "+t.Name+" is deleted; take its account out of NATS's configuration, too\n")
}

type tapsAccount struct {
	tapArgument `embed:""`

	Mirror bool   `name:"mirror" env:"-" help:"For a tap that was made with --mirror: the account may do what it likes in itself. How to make the mirror stands in front of it."`
	NKey   string `name:"nkey" env:"-" required:"" placeholder:"KEY" help:"Public key of the tap's user, as jobrelay nats keys prints it."`
}

// Validate says what is wrong with the arguments; kong calls it.
func (t *tapsAccount) Validate() error {
	if !broker.IsPublicKey(t.NKey) {
		return errors.New("--nkey takes the public key of a user, which starts with U")
	}
	return t.tapArgument.Validate()
}

func (t *tapsAccount) Run(c *console) error {
	tap := broker.Tap{Name: t.Name, Mirror: t.Mirror}
	out := map[string]string{"account": tap.Account(t.NKey)}
	text := out["account"]
	if t.Mirror {
		stream, err := tap.MirrorConfig()
		if err != nil {
			return err
		}
		out["stream"] = string(stream)
		text = "# The tenant makes the mirror, once: nats stream add --config FILE, with\n# " + strings.ReplaceAll(out["stream"], "\n", "\n# ") + "\n" + text
	}
	return c.print(out, text)
}
