package jobrelay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// maxParked bounds the parked callbacks that are counted.
const maxParked = 100_000

type endpointsCommand struct {
	topologyFlags `embed:""`
}

// endpoint is a receiver that fails, as the notifiers together see it, or for which
// callbacks are parked.
type endpoint struct {
	Endpoint string `json:"endpoint"`
	broker.EndpointOverall
	Parked int `json:"parked"` // for a time
}

// Run prints the endpoints that fail, with those first that do for longest.
func (e *endpointsCommand) Run(ctx context.Context, c *console) error {
	b, err := e.reader(ctx, c, broker.StreamWakeups)
	if err != nil {
		return err
	}
	defer b.Close()
	replicas, err := b.Statuses(ctx)
	if err != nil {
		return err
	}
	all := map[string]*endpoint{}
	of := func(name string) *endpoint {
		if all[name] == nil {
			all[name] = &endpoint{Endpoint: name}
		}
		return all[name]
	}
	unlisted := 0
	for _, r := range replicas {
		unlisted += r.Failing - len(r.Endpoints)
		for _, s := range r.Endpoints {
			of(s.Name).Add(s, time.Now())
		}
	}
	more, err := b.Parked(ctx, 0, maxParked, func(w delivery.Wakeup) { of(cmp.Or(w.Endpoint, "-")).Parked++ })
	if err != nil {
		return interrupted(ctx, err)
	}
	if more > 0 {
		c.say("more than %d callbacks are parked: those that were parked last are not counted", maxParked)
	}
	if unlisted > 0 {
		c.say("the replicas list their %d longest failing each; %d more are not shown", broker.MaxStatusEndpoints, unlisted)
	}
	var sorted []endpoint
	for _, of := range all {
		sorted = append(sorted, *of)
	}
	slices.SortFunc(sorted, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(min(b.Replicas, 1), min(a.Replicas, 1)), a.Since.Compare(b.Since), cmp.Compare(b.Parked, a.Parked), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	return list(c, sorted, "ENDPOINT\tBREAKER\tREPLICAS\tFAILING FOR\tFAILURES\tLAST\tNEXT TRY\tIN FLIGHT\tPARKED", "no endpoint fails, no callback is parked\n", func(e endpoint) []string { return e.cells(time.Now()) })
}

func (e *endpoint) cells(now time.Time) []string {
	if e.Replicas == 0 {
		return []string{e.Endpoint, "-", "0", "-", "-", "-", "-", "0", strconv.Itoa(e.Parked)}
	}
	next := "-"
	if e.Breaker == string(delivery.Open) {
		next = fmt.Sprintf("in %s", max(0, e.Until.Sub(now)).Round(time.Second))
	}
	return []string{
		e.Endpoint, e.Breaker, strconv.Itoa(e.Replicas), now.Sub(e.Since).Round(time.Second).String(), strconv.Itoa(e.Failures),
		e.Answer(), next, strconv.Itoa(e.InFlight), strconv.Itoa(e.Parked),
	}
}
