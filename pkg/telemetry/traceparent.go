package telemetry

// The form of W3C Trace Context, level 2, version 00 and later:
// version, trace, parent and flags in lower-case hex, with dashes between.
const (
	traceparentLength = 55
	traceBegin        = 3
	traceEnd          = 35
	parentEnd         = 52
)

// IsTraceparent reports whether s is one.
func IsTraceparent(s string) bool {
	if len(s) != traceparentLength {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == traceBegin-1 || i == traceEnd || i == parentEnd:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

// TraceID is the trace of a traceparent; empty where it is none.
func TraceID(s string) string {
	if !IsTraceparent(s) {
		return ""
	}
	return s[traceBegin:traceEnd]
}
