// Package delivery decides, from an attempt's outcome, the ledger and the
// clock, what happens to a callback next. It is pure: HTTP, NATS and clocks
// are at its edges.
package delivery

import (
	"maps"
	"strconv"
	"time"
)

// MaxAttempts bounds the attempts that a wake-up and a ledger remember, and so
// the attempts at one callback.
const MaxAttempts = 16

// Ledger is what is known of the delivery of one log. The zero value is a log
// of which nothing is known. It only moves forward: Next never falls.
type Ledger struct {
	// Next is the ordinal of the first event not yet delivered or given up.
	Next int `json:"next"`
	// Wait holds the surrendered tokens: who moves Next to an ordinal in it
	// inherits the duty to deliver that event. Ordinal to stream sequence.
	Wait map[int]uint64 `json:"wait,omitempty"`
	// Done says how each ordinal below Next ended.
	Done map[int]Done `json:"done,omitempty"`
	// GaveUp is set where the rest of the log is not to be delivered.
	GaveUp *GaveUp `json:"gaveUp,omitempty"`
}

// Done is the end of one callback.
type Done struct {
	At       time.Time `json:"at"`
	Attempts []Attempt `json:"attempts,omitempty"`
	// Code is the HTTP status of the last attempt; 0 without an answer.
	Code int `json:"code,omitempty"`
	// Reason is empty for a delivered callback, else why there was none:
	// one of the Reasons.
	Reason string `json:"reason,omitempty"`
}

// The reasons for which a callback ends without a 2xx.
const (
	ReasonNotWanted  = "not wanted"      // webhook.statuses leaves it out
	ReasonSuperseded = "superseded"      // the rejected id was accepted since
	ReasonRefused    = "refused"         // class B, attempts spent
	ReasonExhausted  = "exhausted"       // class A, attempts or time spent
	ReasonGone       = "gone"            // class C
	ReasonNoSpace    = "no attempt left" // MaxAttempts over all classes
	ReasonReplayed   = "replayed"        // of a letter: another replay has delivered it, or it is past its retention
)

// GaveUp says why the rest of a log is not delivered.
type GaveUp struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Attempt is one POST.
type Attempt struct {
	At    time.Time `json:"at"`
	Class Class     `json:"class"`
	// Code is the HTTP status; 0 without an answer.
	Code int `json:"code,omitempty"`
	// Milliseconds is how long it took.
	Milliseconds int64 `json:"ms"`
}

// Wakeup is the payload of a scheduled token: the duty to deliver the event at
// Sequence, and what was tried.
type Wakeup struct {
	Key      string    `json:"key"` // log key
	Sequence uint64    `json:"sequence"`
	N        int       `json:"n"`
	First    time.Time `json:"first"` // when it first became due
	Attempts []Attempt `json:"attempts,omitempty"`
	// Endpoint is where it is to go: scheme, host and port.
	Endpoint string `json:"endpoint,omitempty"`
	// Run is the replay that the token is of; nil: the log's own delivery.
	Run *Run `json:"run,omitempty"`
}

// LastCode is the HTTP status of the last attempt; 0 without an answer or attempt.
func (w Wakeup) LastCode() int {
	if len(w.Attempts) == 0 {
		return 0
	}
	return w.Attempts[len(w.Attempts)-1].Code
}

// Ledger names the ledger that the token goes by: <log key>, or <log key>.<run>.
func (w Wakeup) Ledger() string {
	if w.Run == nil {
		return w.Key
	}
	return w.Key + "." + w.Run.ID
}

// Token names the token among those that are parked: <ledger>.<n>.
func (w Wakeup) Token() string { return w.Ledger() + "." + strconv.Itoa(w.N) }

// Surrendered is the ledger after the token of event n, at the stream sequence,
// was left with it.
func (l Ledger) Surrendered(n int, sequence uint64) Ledger {
	l.Wait = maps.Clone(l.Wait)
	if l.Wait == nil {
		l.Wait = map[int]uint64{}
	}
	l.Wait[n] = sequence
	return l
}

// Advanced is the ledger after event n ended with d.
func (l Ledger) Advanced(n int, d Done) Ledger {
	l.Next = max(l.Next, n+1)
	l.Wait = maps.Clone(l.Wait)
	maps.DeleteFunc(l.Wait, func(k int, _ uint64) bool { return k < l.Next })
	l.Done = maps.Clone(l.Done)
	if l.Done == nil {
		l.Done = map[int]Done{}
	}
	l.Done[n] = d
	return l
}

// Abandoned is the ledger after the log was given up at event n.
func (l Ledger) Abandoned(n int, d Done) Ledger {
	l = l.Advanced(n, d)
	l.GaveUp = &GaveUp{Reason: d.Reason, At: d.At}
	return l
}
