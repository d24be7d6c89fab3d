package delivery_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func policy(t *testing.T) *delivery.Policy {
	t.Helper()
	unwell, err := delivery.ParseSchedule(delivery.DefaultUnwell)
	if err != nil {
		t.Fatal(err)
	}
	refused, err := delivery.ParseSchedule(delivery.DefaultRefused)
	if err != nil {
		t.Fatal(err)
	}
	return &delivery.Policy{Unwell: unwell, Refused: refused, Random: func() float64 { return 0.5 }}
}

func attempts(classes ...delivery.Class) []delivery.Attempt {
	out := make([]delivery.Attempt, len(classes))
	for i, c := range classes {
		out[i] = delivery.Attempt{At: now, Class: c}
	}
	return out
}

func repeat(c delivery.Class, n int) []delivery.Class {
	out := make([]delivery.Class, n)
	for i := range out {
		out[i] = c
	}
	return out
}

func TestClassOfStatus(t *testing.T) {
	for class, codes := range map[delivery.Class][]int{
		delivery.Delivered: {200, 201, 204, 299},
		delivery.Unwell:    {404, 408, 409, 425, 429, 500, 502, 503, 599},
		delivery.Refused:   {300, 301, 302, 308, 400, 401, 403, 405, 413, 422, 499},
		delivery.Gone:      {410},
	} {
		for _, code := range codes {
			if got := delivery.ClassOfStatus(code); got != class {
				t.Errorf("%d is %s, want %s", code, got, class)
			}
		}
	}
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		classes    []delivery.Class
		age        time.Duration // since it first became due
		retryAfter time.Duration
		want       delivery.Decision
	}{
		"a 2xx ends it":                    {classes: attemptsOf(delivery.Unwell, delivery.Delivered), want: delivery.Decision{Verdict: delivery.Done2xx}},
		"410 gives the log up":             {classes: attemptsOf(delivery.Gone), want: delivery.Decision{Verdict: delivery.GiveUpWhole, Reason: delivery.ReasonGone}},
		"unwell once":                      {classes: repeat(delivery.Unwell, 1), want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(5 * time.Second)}},
		"unwell twice":                     {classes: repeat(delivery.Unwell, 2), want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(30 * time.Second)}},
		"attempts spent":                   {classes: repeat(delivery.Unwell, 12), want: delivery.Decision{Verdict: delivery.GiveUpWhole, Reason: delivery.ReasonExhausted}},
		"a day is over":                    {classes: repeat(delivery.Unwell, 8), age: 24 * time.Hour, want: delivery.Decision{Verdict: delivery.GiveUpWhole, Reason: delivery.ReasonExhausted}},
		"the last attempt is at its end":   {classes: repeat(delivery.Unwell, 8), age: 23 * time.Hour, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Hour)}},
		"refused has its own schedule":     {classes: repeat(delivery.Refused, 1), want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Minute)}},
		"refused five times":               {classes: repeat(delivery.Refused, 5), want: delivery.Decision{Verdict: delivery.GiveUpOne, Reason: delivery.ReasonRefused}},
		"classes are counted apart":        {classes: append(repeat(delivery.Unwell, 4), delivery.Refused), want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Minute)}},
		"all classes together are bounded": {classes: append(repeat(delivery.Refused, 4), append(repeat(delivery.Unwell, 11), delivery.Refused)...), want: delivery.Decision{Verdict: delivery.GiveUpOne, Reason: delivery.ReasonNoSpace}},
		"so is the other, after it":        {classes: append(repeat(delivery.Refused, 4), delivery.Unwell), want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(5 * time.Second)}},
		"refused, spent between unwell":    {classes: append(repeat(delivery.Refused, 4), delivery.Unwell, delivery.Unwell, delivery.Refused), want: delivery.Decision{Verdict: delivery.GiveUpOne, Reason: delivery.ReasonRefused}},
		"410 after others":                 {classes: attemptsOf(delivery.Unwell, delivery.Refused, delivery.Gone), want: delivery.Decision{Verdict: delivery.GiveUpWhole, Reason: delivery.ReasonGone}},
		"a 2xx past the day":               {classes: attemptsOf(delivery.Delivered), age: 25 * time.Hour, want: delivery.Decision{Verdict: delivery.Done2xx}},
		"refused past the day":             {classes: repeat(delivery.Refused, 1), age: 24 * time.Hour, want: delivery.Decision{Verdict: delivery.GiveUpOne, Reason: delivery.ReasonRefused}},
		"a moment before the day's end":    {classes: repeat(delivery.Unwell, 1), age: 24*time.Hour - time.Nanosecond, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Nanosecond)}},
		"Retry-After past the day's end":   {classes: repeat(delivery.Unwell, 1), age: 24*time.Hour - time.Minute, retryAfter: time.Hour, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Minute)}},
		"Retry-After of who refuses":       {classes: repeat(delivery.Refused, 1), retryAfter: 2 * time.Minute, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(2 * time.Minute)}},
		"Retry-After saves no spent one":   {classes: repeat(delivery.Unwell, 12), retryAfter: time.Minute, want: delivery.Decision{Verdict: delivery.GiveUpWhole, Reason: delivery.ReasonExhausted}},
		"Retry-After lengthens":            {classes: repeat(delivery.Unwell, 1), retryAfter: time.Minute, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Minute)}},
		"Retry-After does not shorten":     {classes: repeat(delivery.Unwell, 3), retryAfter: time.Second, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(2 * time.Minute)}},
		"Retry-After is at most an hour":   {classes: repeat(delivery.Unwell, 1), retryAfter: 10 * time.Hour, want: delivery.Decision{Verdict: delivery.Retry, At: now.Add(time.Hour)}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := policy(t).Decide(attempts(c.classes...), now.Add(-c.age), c.retryAfter, now); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestSchedules: each wait of the defaults, ±20 %.
func TestSchedules(t *testing.T) {
	for class, waits := range map[delivery.Class][]time.Duration{
		delivery.Unwell: {
			5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute,
			time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 8 * time.Hour,
		},
		delivery.Refused: {time.Minute, 5 * time.Minute, 15 * time.Minute, 40 * time.Minute},
	} {
		for tried, wait := range waits {
			for dice, share := range map[float64]float64{0: 0.8, 0.5: 1, 1: 1.2} {
				p := policy(t)
				p.Random = func() float64 { return dice }
				got := p.Decide(attempts(repeat(class, tried+1)...), now, 0, now)
				off := got.At.Sub(now.Add(time.Duration(float64(wait) * share))).Abs()
				if got.Verdict != delivery.Retry || off > time.Microsecond {
					t.Errorf("%s after %d attempts, dice %v: %+v, want a retry %v × %s later", class, tried+1, dice, got, share, wait)
				}
			}
		}
		if got := policy(t).Decide(attempts(repeat(class, len(waits)+1)...), now, 0, now); got.Verdict == delivery.Retry {
			t.Errorf("%s after %d attempts: %+v", class, len(waits)+1, got)
		}
	}
}

func attemptsOf(c ...delivery.Class) []delivery.Class { return c }

func TestAnyHistoryOfFailuresEnds(t *testing.T) {
	p := policy(t)
	p.Random = nil
	rapid.Check(t, func(t *rapid.T) {
		var history []delivery.Class
		clock := now
		for {
			history = append(history, rapid.SampledFrom([]delivery.Class{delivery.Unwell, delivery.Refused}).Draw(t, "class"))
			after := time.Duration(rapid.IntRange(0, 7200).Draw(t, "retryAfter")) * time.Second
			d := p.Decide(attempts(history...), now, after, clock)
			if d.Verdict != delivery.Retry {
				return
			}
			if d.At.Before(clock) || d.At.After(now.Add(delivery.MaxAge)) {
				t.Fatalf("retry at %s, now %s", d.At, clock)
			}
			clock = d.At
			if len(history) > delivery.MaxAttempts {
				t.Fatalf("%d attempts", len(history))
			}
		}
	})
}

func TestParseSchedule(t *testing.T) {
	s, err := delivery.ParseSchedule("0s, 5s,1m30s")
	if err != nil || len(s) != 3 || s[2] != 90*time.Second {
		t.Errorf("%v %v", s, err)
	}
	for _, bad := range []string{"", "5", "-1s", "25h", "0s,,1s", "0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s,0s"} {
		if _, err := delivery.ParseSchedule(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
