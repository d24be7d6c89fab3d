package telemetry

import "regexp"

// traceparent is the form of W3C Trace Context, level 2, version 00 and later.
var traceparent = regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$`)

// IsTraceparent reports whether s is one.
func IsTraceparent(s string) bool { return traceparent.MatchString(s) }

// TraceID is the trace of a traceparent; empty where it is none.
func TraceID(s string) string {
	if parts := traceparent.FindStringSubmatch(s); parts != nil {
		return parts[1]
	}
	return ""
}
