// Package failpoint names the places between two durable effects of the
// notifier, so that a test can end or stop a process at exactly one of them.
//
// Only a binary built with the tag "failpoint" knows them; in any other Here is
// empty and inlined.
package failpoint

// Point is a place in the source.
type Point string

// The points, in the order in which a token comes to them.
const (
	Posting Point = "posting" // a slot is taken; the POST is next
	Posted  Point = "posted"  // the POST is answered; the ledger or the schedule is next

	Recorded Point = "recorded" // the end of a callback is in the ledger; its successor or the ack is next
	Conflict Point = "conflict" // somebody else wrote the ledger first; it is to be read again
	Lettered Point = "lettered" // a dead letter is stored; the ledger is next
	GaveUp   Point = "gave-up"  // the ledger says that the log is given up; its successor or the ack is next

	Surrendering Point = "surrendering" // a predecessor is undelivered; the ledger is next
	Surrendered  Point = "surrendered"  // the token is in the ledger; the ack is next
	Inheriting   Point = "inheriting"   // the ledger has the successor's token; its event is to be read
	Inherited    Point = "inherited"    // it is read; its POST is next

	Scheduling Point = "scheduling" // the POST failed; the schedule is next
	Scheduled  Point = "scheduled"  // the schedule has its PubAck; the ack is next
	Woken      Point = "woken"      // a wake-up's event is read; the ledger is next

	Acking Point = "acking" // all is recorded; the ack is next
	Acked  Point = "acked"  // the ack is written, and may not have left the process
)

// All are the points.
func All() []Point {
	return []Point{
		Posting, Posted, Recorded, Conflict, Lettered, GaveUp, Surrendering, Surrendered,
		Inheriting, Inherited, Scheduling, Scheduled, Woken, Acking, Acked,
	}
}
