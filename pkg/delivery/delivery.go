package delivery

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Class says what an attempt's outcome means.
type Class string

// The classes of outcomes.
const (
	Delivered Class = "delivered" // 2xx
	Unwell    Class = "unwell"    // A: the endpoint is unwell; retried for a day
	Refused   Class = "refused"   // B: this callback is refused; a few tries
	Gone      Class = "gone"      // C: final
)

// ClassOfStatus is the class of an HTTP status.
func ClassOfStatus(code int) Class {
	switch {
	case code >= 200 && code < 300:
		return Delivered
	case code == 410:
		return Gone
	case code == 404, code == 408, code == 409, code == 425, code == 429, code >= 500, code < 200:
		return Unwell
	default: // 3xx: redirects are never followed; other 4xx
		return Refused
	}
}

// Bounds of a retry.
const (
	// MaxAge bounds how long after it first became due a callback is tried, and
	// is the default.
	MaxAge = 24 * time.Hour
	// MaxRetryAfter bounds what a receiver may ask for with Retry-After.
	MaxRetryAfter = time.Hour
	// jitter is the share by which a wait varies either way.
	jitter = 0.2
)

// Schedule is the wait before each attempt; its length is the number of
// attempts.
type Schedule []time.Duration

// The schedules where the operator sets none (JOBRELAY_RETRY_SCHEDULE and
// JOBRELAY_RETRY_SCHEDULE_REFUSED).
const (
	DefaultUnwell  = "0s,5s,30s,2m,5m,15m,30m,1h,2h,4h,8h,8h"
	DefaultRefused = "0s,1m,5m,15m,40m"
)

// ParseSchedule reads "0s,5s,30s": 1 to MaxAttempts waits of 0 to 24 h each.
func ParseSchedule(s string) (Schedule, error) {
	parts := strings.Split(s, ",")
	if len(parts) > MaxAttempts {
		return nil, fmt.Errorf("a retry schedule has at most %d waits, this one has %d", MaxAttempts, len(parts))
	}
	out := make(Schedule, 0, len(parts))
	for _, p := range parts {
		d, err := time.ParseDuration(strings.TrimSpace(p))
		if err != nil || d < 0 || d > MaxAge {
			return nil, fmt.Errorf("%q in the retry schedule is not a wait between 0s and 24h; write it as 0s,5s,30s,2m", p)
		}
		out = append(out, d)
	}
	return out, nil
}

// UnmarshalText makes a Schedule a flag.
func (s *Schedule) UnmarshalText(text []byte) error {
	parsed, err := ParseSchedule(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// Policy is what Decide goes by.
type Policy struct {
	Unwell, Refused Schedule
	// MaxAge is how long after it first became due a callback is tried; 0: 24 h.
	MaxAge  time.Duration
	Breaker Breaker // the zero Breaker: DefaultBreaker
	// Random is in [0,1); nil means a random source.
	Random func() float64
}

// Verdict is what happens next to a callback.
type Verdict int

// The verdicts.
const (
	Done2xx     Verdict = iota // delivered
	Retry                      // again at Decision.At
	GiveUpOne                  // this callback alone is given up
	GiveUpWhole                // the callback and every later one of the log are given up
)

// Decision is the verdict on a callback.
type Decision struct {
	Verdict Verdict
	At      time.Time // of Retry
	Reason  string    // of the give-ups
}

// Decide says what happens after the last of the attempts, at least one, at a
// callback that first became due at first. retryAfter is what the receiver
// asked for, 0 for nothing.
func (p *Policy) Decide(attempts []Attempt, first time.Time, retryAfter time.Duration, now time.Time) Decision {
	last := attempts[len(attempts)-1]
	schedule, spent := p.Unwell, Decision{Verdict: GiveUpWhole, Reason: ReasonExhausted}
	switch last.Class {
	case Delivered:
		return Decision{Verdict: Done2xx}
	case Gone:
		return Decision{Verdict: GiveUpWhole, Reason: ReasonGone}
	case Refused:
		schedule, spent = p.Refused, Decision{Verdict: GiveUpOne, Reason: ReasonRefused}
	case Unwell:
	}
	if len(attempts) >= MaxAttempts {
		spent.Reason = ReasonNoSpace
		return spent
	}
	tried := 0
	for _, a := range attempts {
		if a.Class == last.Class {
			tried++
		}
	}
	if tried >= len(schedule) {
		return spent
	}
	wait := p.vary(schedule[tried])
	wait = max(wait, min(retryAfter, MaxRetryAfter))
	return p.again(first, now.Add(wait), now, spent)
}

// Hold says what happens to a callback that first became due at first and cannot
// be tried before at, since its endpoint's breaker is open: it spends no attempt,
// but its time runs, and past that it is given up as after its last attempt.
func (p *Policy) Hold(first, at, now time.Time) Decision {
	return p.again(first, at, now, Decision{Verdict: GiveUpWhole, Reason: ReasonExhausted})
}

// again is a Retry at the time, or at the end of the callback's time where that is
// sooner: its last attempt is then, not hours before. Past the end it is spent.
func (p *Policy) again(first, at, now time.Time, spent Decision) Decision {
	end := first.Add(cmp.Or(p.MaxAge, MaxAge))
	if !now.Before(end) {
		return spent
	}
	if at.After(end) {
		at = end
	}
	return Decision{Verdict: Retry, At: at}
}

// vary is d ±20 %.
func (p *Policy) vary(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*p.random()))
}

func (p *Policy) random() float64 {
	if p.Random == nil {
		return rand.Float64()
	}
	return p.Random()
}

// Step is what to do with the token of event n, given the ledger.
type Step int

// The steps of a token (docs/architecture.md, notifier).
const (
	Deliver   Step = iota // n is the head: deliver it
	Inherit               // n is done and the next one's token was surrendered: go on with that
	Finish                // n is done: ack
	Surrender             // a predecessor is undelivered: leave the token with the ledger
	Abandon               // n is the head of a log that was given up: so is this callback
)

// StepOf is what to do with the token of event n.
func StepOf(l Ledger, n int) Step {
	switch {
	case n < l.Next:
		if _, ok := l.Wait[l.Next]; ok {
			return Inherit
		}
		return Finish
	case n > l.Next:
		return Surrender
	case l.GaveUp != nil:
		return Abandon
	default:
		return Deliver
	}
}
