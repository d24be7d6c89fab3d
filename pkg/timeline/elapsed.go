package timeline

import (
	"fmt"
	"time"
)

// Elapsed is a duration for people, in two units at the most, with gap between a
// number, its unit and the next number; one below zero is none. With a space: 6 ms,
// 1.6 s, 25 s, 2 m 5 s, 3 h 12 m, 2 d 3 h.
func Elapsed(d time.Duration, gap string) string {
	d = max(d, 0)
	const day = 24 * time.Hour
	two := func(n time.Duration, unit string, m time.Duration, next string) string {
		return fmt.Sprintf("%d%s%s%s%d%s%s", n, gap, unit, gap, m, gap, next)
	}
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d%sms", d.Milliseconds(), gap)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f%ss", d.Truncate(100*time.Millisecond).Seconds(), gap)
	case d < time.Minute:
		return fmt.Sprintf("%d%ss", d/time.Second, gap)
	case d < time.Hour:
		return two(d/time.Minute, "m", d%time.Minute/time.Second, "s")
	case d < day:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "m")
	default:
		return two(d/day, "d", d%day/time.Hour, "h")
	}
}
