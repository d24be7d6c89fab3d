package sqsd

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	accountID = "000000000000"
	senderID  = "AIDAJOBRELAY" // who sent a message; callers are not told apart
)

// account is all queues of one endpoint. Each operation changes the queues
// under the lock and then waits, without it, until the change is on disk.
type account struct {
	region      string
	clock       Clock
	store       *store
	maxInFlight int

	stopping <-chan struct{} // ends the polls that wait

	mu     sync.Mutex
	queues map[string]*queue // by name
}

func openAccount(cfg Config, stopping <-chan struct{}) (*account, error) {
	a := &account{region: cfg.Region, clock: cfg.Clock, maxInFlight: cfg.MaxInFlight, stopping: stopping, queues: map[string]*queue{}}
	if cfg.Dir == "" {
		return a, nil
	}
	var err error
	if a.store, err = openStore(cfg.Dir); err != nil {
		return nil, err
	}
	queues, err := a.store.load(a.clock.Now())
	if err != nil {
		_ = a.store.close() // the first error says more
		return nil, err
	}
	for _, q := range queues {
		a.queues[q.Name] = q
	}
	return a, nil
}

// update runs change on the queue of a URL, then waits until it is on disk.
func (a *account) update(queueURL string, change func(q *queue, now time.Time) error) error {
	a.mu.Lock()
	q, err := a.find(queueURL)
	if err == nil {
		err = change(q, a.clock.Now())
	}
	var c *commit
	if q != nil {
		c = a.save(q)
	}
	a.mu.Unlock()
	if failed := c.wait(); failed != nil {
		return errInternal(failed)
	}
	return err
}

// save hands the changes of the queues to the store. The lock is held, which
// keeps the order.
func (a *account) save(queues ...*queue) *commit {
	var all []entry
	for _, q := range queues {
		if a.store == nil {
			q.dirty = nil
			continue
		}
		entries, err := q.takeEntries()
		if err != nil {
			return failedCommit(err)
		}
		all = append(all, entries...)
	}
	return a.store.add(all)
}

// find looks a queue up by the path of its URL, /000000000000/name, whatever
// the host: a client may reach the endpoint by another name than it knows. A
// URL with a path of another form is no queue's at all.
func (a *account) find(queueURL string) (*queue, error) {
	if queueURL == "" {
		return nil, errMissingParameter("QueueUrl")
	}
	u, err := url.Parse(queueURL)
	if err != nil {
		return nil, errInvalidAddress(queueURL)
	}
	owner, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !ok || owner == "" || name == "" {
		return nil, errInvalidAddress(queueURL)
	}
	q := a.queues[name]
	if owner != accountID || q == nil {
		return nil, errQueueDoesNotExist()
	}
	return q, nil
}

func (a *account) arn(name string) string {
	return "arn:aws:sqs:" + a.region + ":" + accountID + ":" + name
}

// createQueue makes a queue, or finds the one there is if no given attribute
// has another value. Unlike AWS, the name of a deleted queue is free at once.
func (a *account) createQueue(name string, set map[string]string) error {
	settings, err := readAttributes(set)
	if err != nil {
		return err
	}
	if err := checkQueueName(name, settings.fifo); err != nil {
		return err
	}
	a.mu.Lock()
	c, err := a.create(name, set, settings)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	if failed := c.wait(); failed != nil {
		return errInternal(failed)
	}
	return nil
}

func (a *account) create(name string, set map[string]string, settings attributes) (*commit, error) {
	now := a.clock.Now()
	if q := a.queues[name]; q != nil {
		has, err := q.describe(now, a.arn(name), []string{"All"})
		if err != nil {
			return nil, err
		}
		for _, attribute := range slices.Sorted(maps.Keys(set)) {
			if !sameValue(attribute, set[attribute], has[attribute]) {
				return nil, errQueueNameExists(attribute)
			}
		}
		return a.save(q), nil
	}
	if err := a.checkRedrive(set["RedrivePolicy"], settings); err != nil {
		return nil, err
	}
	q := newQueue(record{ID: uuid.New(), Name: name, Set: maps.Clone(set), CreatedAt: now, ModifiedAt: now}, settings)
	if q.Set == nil {
		q.Set = map[string]string{}
	}
	q.dirty = append(q.dirty, mutation{record: true})
	a.queues[name] = q
	return a.save(q), nil
}

// sameValue compares JSON by content, since its spaces and order may differ.
func sameValue(attribute, x, y string) bool {
	if x == y {
		return true
	}
	if attribute != "RedrivePolicy" {
		return false
	}
	p, errP := readRedrivePolicy(x)
	q, errQ := readRedrivePolicy(y)
	return errP == nil && errQ == nil && p == q
}

// checkRedrive wants a dead-letter queue that exists and is of the same kind.
func (a *account) checkRedrive(text string, settings attributes) error {
	if settings.redrive == (redrivePolicy{}) {
		return nil
	}
	target := a.deadLetters(settings.redrive)
	invalid := "Value %s for parameter RedrivePolicy is invalid. Reason: %s"
	switch {
	case target == nil:
		return errInvalidParameter(invalid, text, "Dead letter target does not exist.")
	case target.attributes.fifo != settings.fifo:
		return errInvalidParameter(invalid, text, "Dead-letter queue must be same type of queue as the source.")
	}
	return nil
}

func (a *account) deadLetters(policy redrivePolicy) *queue {
	name, ok := strings.CutPrefix(policy.TargetARN, a.arn(""))
	if !ok {
		return nil
	}
	return a.queues[name]
}

func (a *account) setAttributes(queueURL string, set map[string]string) error {
	return a.update(queueURL, func(q *queue, now time.Time) error {
		merged := maps.Clone(q.Set)
		for name, value := range set {
			if name == "FifoQueue" && value != q.Set[name] { // the kind of a queue is for ever
				if !q.attributes.fifo {
					return errInvalidAttributeName("Unknown Attribute FifoQueue.")
				}
				return errInvalidAttributeValue(name)
			}
			merged[name] = value
		}
		settings, err := readAttributes(merged)
		if err != nil {
			return err
		}
		if err := a.checkRedrive(set["RedrivePolicy"], settings); err != nil && set["RedrivePolicy"] != "" {
			return err
		}
		q.Set, q.attributes, q.ModifiedAt = merged, settings, now
		q.dirty = append(q.dirty, mutation{record: true})
		q.wake()
		return nil
	})
}

func (a *account) deleteQueue(queueURL string) error {
	a.mu.Lock()
	q, err := a.find(queueURL)
	if err != nil {
		a.mu.Unlock()
		return err
	}
	delete(a.queues, q.Name)
	q.deleted = true
	q.wake()
	c := a.store.add([]entry{{key: q.ID[:]}})
	a.mu.Unlock()
	if failed := c.wait(); failed != nil {
		return errInternal(failed)
	}
	return nil
}

// list returns the names with the prefix, in order, that come after a name.
func (a *account) list(prefix, after string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.queues)) {
		if strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	return names
}

// delivery is a received message as it was when it was received.
type delivery struct {
	message
	handle string
	fifo   bool
}

// receiving is what ReceiveMessage asks for; nil stands for the queue's own.
type receiving struct {
	limit      int
	wait       *int // seconds
	visibility *int // seconds
	duplicate  bool // leave what is received visible
}

// receive waits for messages until there is one, the wait is over, the caller
// is gone or the endpoint stops. The last three are an empty answer. A short
// poll of a standard queue with all it may have in flight is an error; a long
// poll, and any poll of a FIFO queue, is then like one of an empty queue.
func (a *account) receive(ctx context.Context, queueURL string, r receiving) ([]delivery, error) {
	var q *queue
	var until time.Time
	for {
		a.mu.Lock()
		now := a.clock.Now()
		if q == nil {
			var err error
			if q, err = a.find(queueURL); err != nil {
				a.mu.Unlock()
				return nil, err
			}
			until = now.Add(orDefault(r.wait, q.attributes.wait))
		}
		if q.deleted || ctx.Err() != nil {
			a.mu.Unlock()
			if q.deleted {
				return nil, errQueueDoesNotExist()
			}
			return nil, nil
		}
		deliveries, c := a.take(q, now, r)
		full := q.inFlight >= a.maxInFlight && !q.attributes.fifo
		changed := q.changed
		look := until
		if at, ok := q.nextVisible(); ok && at.Before(until) {
			look = at
		}
		a.mu.Unlock()

		if err := c.wait(); err != nil {
			return nil, errInternal(err)
		}
		switch {
		case len(deliveries) > 0:
			return deliveries, nil
		case !now.Before(until) && full && orDefault(r.wait, q.attributes.wait) == 0:
			return nil, errOverLimit("The queue has %d messages in flight, which is the most it can have; delete some.", a.maxInFlight)
		case !now.Before(until):
			return nil, nil
		}
		if !a.sleep(ctx, look, changed) {
			return nil, nil
		}
	}
}

// take receives and moves dead letters. A dead-letter queue that is gone
// leaves the messages where they are, to be received on and on.
func (a *account) take(q *queue, now time.Time, r receiving) ([]delivery, *commit) {
	maxReceives := 0
	var target *queue
	if policy := q.attributes.redrive; policy.MaxReceives > 0 {
		if target = a.deadLetters(policy); target != nil {
			maxReceives = policy.MaxReceives
		}
	}
	visibility := orDefault(r.visibility, q.attributes.visibility)
	if r.duplicate {
		visibility = 0
	}
	_, inFlight, _ := q.counts(now)
	received, dead := q.receive(now, min(r.limit, a.maxInFlight-inFlight), visibility, maxReceives)
	deliveries := make([]delivery, len(received))
	for i, m := range received {
		deliveries[i] = delivery{message: *m, handle: q.handle(m), fifo: q.attributes.fifo}
	}
	for _, m := range dead {
		target.adopt(now, m, a.arn(q.Name))
	}
	if len(dead) > 0 {
		return deliveries, a.save(target, q)
	}
	return deliveries, a.save(q)
}

// sleep returns false when the wait is to end without a message.
func (a *account) sleep(ctx context.Context, until time.Time, changed <-chan struct{}) bool {
	reached, cancel := a.clock.At(until)
	defer cancel()
	select {
	case <-changed:
	case <-reached:
	case <-ctx.Done():
		return false
	case <-a.stopping:
		return false
	}
	return true
}

func orDefault(seconds *int, def time.Duration) time.Duration {
	if seconds == nil {
		return def
	}
	return time.Duration(*seconds) * time.Second
}
