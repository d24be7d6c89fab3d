package faults

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Kind of a fault.
type Kind string

// The kinds.
const (
	Kill   Kind = "kill"   // SIGKILL, and a start after Down
	Freeze Kind = "freeze" // SIGSTOP, and SIGCONT after Down
)

// Fault is one thing that is done to one process.
type Fault struct {
	At   time.Duration // since the plan's begin
	Kind Kind
	Role Role
	Pick int           // which of the role's processes, modulo how many there are
	Down time.Duration // until it is started again, or thawed
}

// Plan says which faults come. The same plan gives the same faults.
type Plan struct {
	Seed  uint64
	Every time.Duration // between two kills; default 1 s
	For   time.Duration // the last kill is before it
	Down  time.Duration // until a killed process is started again; default 200 ms
	// Weights says how often each role is hit, against the others. Default:
	// every service alike, and NATS, SQS and Kubernetes a third as often.
	Weights map[Role]int

	// Frozen is a role of which one replica is frozen at FreezeAt for
	// FreezeFor; empty: none.
	Frozen    Role
	FreezeAt  time.Duration
	FreezeFor time.Duration
}

// defaultWeights favour the services: a NATS that restarts hides their faults.
var defaultWeights = map[Role]int{Ingest: 3, Launcher: 3, Watcher: 3, Notifier: 3, NATS: 1, SQS: 1, Kubernetes: 1}

// Faults are the plan's, in their order.
func (p Plan) Faults() []Fault {
	if p.Every == 0 {
		p.Every = time.Second
	}
	if p.Down == 0 {
		p.Down = 200 * time.Millisecond
	}
	if p.Weights == nil {
		p.Weights = defaultWeights
	}
	random := rand.New(rand.NewPCG(p.Seed, 0))
	var bag []Role
	for _, role := range Roles() {
		bag = append(bag, slices.Repeat([]Role{role}, p.Weights[role])...)
	}
	var out []Fault
	for at := p.Every; at < p.For && len(bag) > 0; at += p.Every {
		out = append(out, Fault{At: at, Kind: Kill, Role: bag[random.IntN(len(bag))], Pick: random.IntN(1 << 16), Down: p.Down})
	}
	if p.Frozen != "" {
		out = append(out, Fault{At: p.FreezeAt, Kind: Freeze, Role: p.Frozen, Pick: random.IntN(1 << 16), Down: p.FreezeFor})
	}
	slices.SortStableFunc(out, func(a, b Fault) int { return int(a.At - b.At) })
	return out
}
