package sqsd

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
)

const (
	maxInFlight    = 120_000          // of a queue, standard or FIFO (SQS quotas)
	maxVisibility  = 12 * time.Hour   // in all since a receive
	dedupWindow    = 5 * time.Minute  // of a FIFO queue
	purgeInterval  = 60 * time.Second // between two purges
	dedupSweepStep = 64               // expired deduplication records dropped by one send, at most
)

// queue holds the semantics of one SQS queue: a plain data structure, without
// a lock, a clock or a disk. Each method takes the time and first brings the
// queue up to it.
//
// A message is visible, delayed or in flight. It waits in a lane: a FIFO
// group is a lane, and each message of a standard queue has one of its own. A
// lane hands out its messages in order, up to the first one that is in flight
// or delayed.
type queue struct {
	record
	attributes attributes

	messages map[uint64]*message // by Seq
	lanes    map[string]*lane    // FIFO groups only
	ready    indexed[*lane]      // by their first message; these can hand out now
	hidden   indexed[*message]   // delayed and in flight, by VisibleAt
	age      indexed[*message]   // all, by SentAt
	inFlight int
	delayed  int
	dedup    map[string]dedupRecord
	purgedAt time.Time

	dirty   []mutation    // since the last take, in order
	changed chan struct{} // closed and replaced when a waiting poll should look again
	deleted bool
}

// record is what is stored of the queue itself.
type record struct {
	ID         uuid.UUID // differs from that of an earlier queue of the same name
	Name       string
	Set        map[string]string // the attributes that were given, by name
	CreatedAt  time.Time
	ModifiedAt time.Time
	LastSeq    uint64 // stored apart, with each send
}

// message is one message with its place in the queue.
type message struct {
	content
	state
	Seq  uint64
	lane *lane

	inHidden, inAge, inWaiting, inHeld int // places in the heaps
}

// content is what is stored once, when the message is sent.
type content struct {
	ID          string
	Body        string
	Attributes  map[string]messageAttribute `json:",omitempty"`
	TraceHeader *messageAttribute           `json:",omitempty"` // AWSTraceHeader
	SenderID    string
	SentAt      time.Time
	Group       string `json:",omitempty"`
	DedupID     string `json:",omitempty"`
	SourceARN   string `json:",omitempty"` // of the queue that gave it up as a dead letter
}

// state is what is stored again with each receive.
type state struct {
	VisibleAt       time.Time
	InFlight        bool   // until VisibleAt
	Receipt         uint32 // counts the receives from this queue; a handle names one
	ReceiveCount    int    // of all receives, also from the queue it was a dead letter of
	FirstReceivedAt time.Time
	ReceivedAt      time.Time
}

type lane struct {
	group   string
	waiting indexed[*message] // visible and delayed, by Seq
	held    indexed[*message] // in flight, by Seq
	inReady int
}

type dedupRecord struct {
	MessageID string
	Seq       uint64
	Until     time.Time
}

// mutation is a change to store. One of the fields says which.
type mutation struct {
	sent     *message
	received *message
	removed  uint64 // a Seq
	dedupKey string
	dedup    *dedupRecord // nil removes dedupKey
	record   bool         // the queue's own record
}

func newQueue(r record, a attributes) *queue {
	return &queue{
		record:     r,
		attributes: a,
		messages:   map[uint64]*message{},
		lanes:      map[string]*lane{},
		dedup:      map[string]dedupRecord{},
		changed:    make(chan struct{}),
		ready: indexed[*lane]{
			less:  func(a, b *lane) bool { return a.waiting.items[0].Seq < b.waiting.items[0].Seq },
			place: func(l *lane) *int { return &l.inReady },
		},
		hidden: indexed[*message]{
			less:  func(a, b *message) bool { return a.VisibleAt.Before(b.VisibleAt) },
			place: func(m *message) *int { return &m.inHidden },
		},
		age: indexed[*message]{
			less:  func(a, b *message) bool { return a.SentAt.Before(b.SentAt) },
			place: func(m *message) *int { return &m.inAge },
		},
	}
}

// sending is a message as its sender gives it. It has been validated.
type sending struct {
	Body        string
	Attributes  map[string]messageAttribute
	TraceHeader *messageAttribute
	Delay       *time.Duration // nil: the queue's own
	Group       string
	DedupID     string
}

// send adds a message. In a FIFO queue a message whose deduplication id was
// seen in the last five minutes is accepted and not added: its sender gets
// the id and the sequence number of the first.
func (q *queue) send(now time.Time, s sending) (id string, seq uint64) {
	q.advance(now)
	dedupKey := ""
	if q.attributes.fifo {
		if s.DedupID == "" {
			sum := sha256.Sum256([]byte(s.Body))
			s.DedupID = hex.EncodeToString(sum[:])
		}
		dedupKey = s.DedupID
		if q.attributes.dedupPerGroup {
			dedupKey = s.Group + "\x00" + s.DedupID
		}
		if first, ok := q.dedup[dedupKey]; ok && now.Before(first.Until) {
			return first.MessageID, first.Seq
		}
	}
	delay := q.attributes.delay
	if s.Delay != nil {
		delay = *s.Delay
	}
	m := &message{
		content: content{
			ID: uuid.NewString(), Body: s.Body, Attributes: s.Attributes, TraceHeader: s.TraceHeader,
			SenderID: senderID, SentAt: now, Group: s.Group, DedupID: s.DedupID,
		},
		state: state{VisibleAt: now.Add(delay)},
	}
	q.enqueue(now, m)
	if dedupKey != "" {
		q.sweepDedup(now)
		r := dedupRecord{MessageID: m.ID, Seq: m.Seq, Until: now.Add(dedupWindow)}
		q.dedup[dedupKey] = r
		q.dirty = append(q.dirty, mutation{dedupKey: dedupKey, dedup: &r})
	}
	return m.ID, m.Seq
}

// sweepDedup looks at a few records, in Go's random order, so that records
// cannot pile up under a steady stream of sends.
func (q *queue) sweepDedup(now time.Time) {
	looked := 0
	for key, r := range q.dedup {
		if looked++; looked > dedupSweepStep {
			return
		}
		if !now.Before(r.Until) {
			delete(q.dedup, key)
			q.dirty = append(q.dirty, mutation{dedupKey: key})
		}
	}
}

// adopt adds a dead letter of another queue. It keeps its id, its attributes
// and the count of its receives, which goes on; a redrive policy of this queue
// counts its own receives only. Its age goes on from when it was first sent in
// a standard queue and begins anew in a FIFO queue (SQS Developer Guide,
// "Setting-up dead-letter queue retention").
func (q *queue) adopt(now time.Time, m *message, sourceARN string) {
	q.advance(now)
	dead := &message{content: m.content, state: state{VisibleAt: now, ReceiveCount: m.ReceiveCount, FirstReceivedAt: m.FirstReceivedAt}}
	dead.SourceARN = sourceARN
	if q.attributes.fifo {
		dead.SentAt = now
	}
	q.enqueue(now, dead)
}

func (q *queue) enqueue(now time.Time, m *message) {
	q.LastSeq++
	m.Seq = q.LastSeq
	q.place(now, m)
	q.dirty = append(q.dirty, mutation{sent: m})
	q.wake()
}

// place puts a message where its state says; a restart does it for each.
func (q *queue) place(now time.Time, m *message) {
	m.inHidden, m.inAge, m.inWaiting, m.inHeld = -1, -1, -1, -1
	q.messages[m.Seq] = m
	q.age.put(m)
	m.lane = q.laneOf(m)
	switch {
	case m.InFlight:
		q.inFlight++
		m.lane.held.put(m)
		q.hidden.put(m)
	case m.VisibleAt.After(now):
		q.delayed++
		q.hidden.put(m)
		m.lane.waiting.put(m)
	default:
		m.lane.waiting.put(m)
	}
	q.settle(m.lane)
}

func (q *queue) laneOf(m *message) *lane {
	if l, ok := q.lanes[m.Group]; ok && q.attributes.fifo {
		return l
	}
	bySeq := func(a, b *message) bool { return a.Seq < b.Seq }
	l := &lane{
		group: m.Group, inReady: -1,
		waiting: indexed[*message]{less: bySeq, place: func(m *message) *int { return &m.inWaiting }},
		held:    indexed[*message]{less: bySeq, place: func(m *message) *int { return &m.inHeld }},
	}
	if q.attributes.fifo {
		q.lanes[m.Group] = l
	}
	return l
}

// next is the message that the lane can hand out, if it is before the end.
func (l *lane) next(end uint64) (m *message, ok bool) {
	m, ok = l.waiting.first()
	return m, ok && m.inHidden < 0 && m.Seq < end
}

// end is the Seq from which on the lane is blocked.
func (l *lane) end() uint64 {
	if m, ok := l.held.first(); ok {
		return m.Seq
	}
	return math.MaxUint64
}

// settle puts a lane whose messages have changed in or out of ready.
func (q *queue) settle(l *lane) {
	if _, ok := l.next(l.end()); ok {
		q.ready.put(l)
		return
	}
	q.ready.remove(l)
	if q.attributes.fifo && l.waiting.Len() == 0 && l.held.Len() == 0 {
		delete(q.lanes, l.group)
	}
}

// advance makes visible what is due and drops what is past its retention.
func (q *queue) advance(now time.Time) {
	for {
		m, ok := q.hidden.first()
		if !ok || m.VisibleAt.After(now) {
			break
		}
		q.hidden.remove(m)
		if m.InFlight {
			m.InFlight = false
			m.lane.held.remove(m)
			q.inFlight--
			m.lane.waiting.put(m)
		} else {
			q.delayed--
		}
		q.settle(m.lane)
	}
	for {
		m, ok := q.age.first()
		if !ok || now.Before(m.SentAt.Add(q.attributes.retention)) {
			return
		}
		q.remove(m)
	}
}

// nextVisible is when the next hidden message becomes visible.
func (q *queue) nextVisible() (at time.Time, ok bool) {
	m, ok := q.hidden.first()
	if !ok {
		return time.Time{}, false
	}
	return m.VisibleAt, true
}

// receive takes up to limit messages in flight for the visibility timeout. A
// message that was received from this queue maxReceives times already (0: no
// limit) is removed and returned as a dead letter instead.
func (q *queue) receive(now time.Time, limit int, visibility time.Duration, maxReceives int) (received, dead []*message) {
	q.advance(now)
	for len(received) < limit {
		l, ok := q.ready.first()
		if !ok {
			break
		}
		q.ready.remove(l) // until the messages it gives are back or gone
		end := l.end()    // not counting those that are taken now
		for len(received) < limit {
			m, ok := l.next(end)
			if !ok {
				break
			}
			if maxReceives > 0 && int(m.Receipt) >= maxReceives {
				l.waiting.remove(m)
				dead = append(dead, m)
				continue
			}
			q.take(now, m, visibility)
			received = append(received, m)
		}
		q.settle(l)
	}
	for _, m := range dead {
		q.remove(m)
	}
	return received, dead
}

func (q *queue) take(now time.Time, m *message, visibility time.Duration) {
	m.lane.waiting.remove(m)
	m.lane.held.put(m)
	q.inFlight++
	m.InFlight = true
	m.VisibleAt = now.Add(visibility)
	m.Receipt++
	m.ReceiveCount++
	m.ReceivedAt = now
	if m.FirstReceivedAt.IsZero() {
		m.FirstReceivedAt = now
	}
	q.hidden.put(m)
	q.dirty = append(q.dirty, mutation{received: m})
}

// delete removes the message of a receipt handle.
//
// A handle of a message that is gone is accepted, in either kind of queue. A
// standard queue accepts an old handle too, but keeps a message that was
// received again since ("If you use an old ReceiptHandle, the request will
// succeed, but the message might not be deleted", API reference,
// DeleteMessage); with the newest handle it deletes also after the visibility
// timeout. A FIFO queue refuses both as expired (AWS knowledge centre,
// "sqs-receipt-handle-error").
func (q *queue) delete(now time.Time, handle string) error {
	q.advance(now)
	m, current, err := q.find(handle)
	switch {
	case err != nil:
		return err
	case m == nil:
		return nil
	case q.attributes.fifo && (!current || !m.InFlight):
		return errReceiptHandleExpired(handle)
	case current:
		q.remove(m)
		q.wake() // its group may go on
	}
	return nil
}

// changeVisibility sets when a message in flight becomes visible again,
// counted from now. Zero gives it back at once. The total since the receive is
// capped at 12 hours.
//
// A handle that is not the newest is refused, in both kinds of queue: AWS does
// not say what becomes of it, and one consumer must not hold or give back what
// another has received since. A message past its timeout is not in flight, as
// the API reference says; AWS itself has been seen to answer OK and do nothing.
func (q *queue) changeVisibility(now time.Time, handle string, timeout int) error {
	q.advance(now)
	if timeout < 0 || timeout > int(maxVisibility/time.Second) {
		return errOutOfRange("VisibilityTimeout", timeout, 0, int(maxVisibility/time.Second))
	}
	m, current, err := q.find(handle)
	switch {
	case err != nil:
		return err
	case m == nil, m.InFlight && !current:
		return errInvalidParameter("Value %s for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change.", handle)
	case !m.InFlight:
		return errMessageNotInflight()
	}
	visibleAt := now.Add(time.Duration(timeout) * time.Second)
	if visibleAt.Sub(m.ReceivedAt) > maxVisibility {
		return errInvalidParameter("Value %d for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message is beyond the limit [%d seconds]", timeout, int(maxVisibility/time.Second))
	}
	q.reveal(m, visibleAt)
	q.advance(now)
	return nil
}

func (q *queue) reveal(m *message, at time.Time) {
	m.VisibleAt = at
	q.hidden.put(m)
	q.dirty = append(q.dirty, mutation{received: m})
	q.wake()
}

// purge removes all messages, delayed and in flight included, and forgets what
// it knows for deduplication.
func (q *queue) purge(now time.Time) error {
	if !q.purgedAt.IsZero() && now.Before(q.purgedAt.Add(purgeInterval)) {
		return errPurgeQueueInProgress(q.Name)
	}
	q.purgedAt = now
	for _, m := range q.messages {
		q.remove(m)
	}
	for key := range q.dedup {
		q.dirty = append(q.dirty, mutation{dedupKey: key})
	}
	clear(q.dedup)
	return nil
}

func (q *queue) remove(m *message) {
	delete(q.messages, m.Seq)
	q.age.remove(m)
	switch {
	case m.InFlight:
		q.inFlight--
	case m.inHidden >= 0:
		q.delayed--
	}
	q.hidden.remove(m)
	if m.lane.inReady >= 0 { // its order depends on the first message
		q.ready.remove(m.lane)
	}
	m.lane.waiting.remove(m)
	m.lane.held.remove(m)
	q.settle(m.lane)
	q.dirty = append(q.dirty, mutation{removed: m.Seq})
}

// counts are the three approximate numbers of GetQueueAttributes; here they
// are exact.
func (q *queue) counts(now time.Time) (visible, inFlight, delayed int) {
	q.advance(now)
	return len(q.messages) - q.inFlight - q.delayed, q.inFlight, q.delayed
}

// wake makes waiting polls look again: a message came, a group is free, or the
// next message becomes visible earlier than they know.
func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// handle names one receive of one message: the queue, the message and the
// count of its receives.
func (q *queue) handle(m *message) string {
	b := append([]byte(nil), q.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = binary.BigEndian.AppendUint32(b, m.Receipt)
	return base64.StdEncoding.EncodeToString(append(b, m.ID...))
}

// find reads a handle. The message is nil when it is gone; current says that
// the handle is of its last receive.
func (q *queue) find(handle string) (m *message, current bool, err error) {
	b, err := base64.StdEncoding.DecodeString(handle)
	const fixed = 16 + 8 + 4
	if err != nil || len(b) != fixed+36 {
		return nil, false, errReceiptHandleIsInvalid("The input receipt handle %q is not a valid receipt handle.", handle)
	}
	if uuid.UUID(b[:16]) != q.ID {
		return nil, false, errReceiptHandleIsInvalid("The receipt handle %q is not valid for this queue.", handle)
	}
	m, ok := q.messages[binary.BigEndian.Uint64(b[16:])]
	if !ok || m.ID != string(b[fixed:]) {
		return nil, false, nil
	}
	return m, binary.BigEndian.Uint32(b[24:]) == m.Receipt, nil
}

// sequenceNumber is how a FIFO queue shows a Seq: 20 digits, growing.
func sequenceNumber(seq uint64) string { return fmt.Sprintf("%020d", seq) }
