package jobstatus

import (
	"strings"
	"unicode"
)

// Bounds of what is quoted from Kubernetes, in bytes before cleaning.
const (
	maxTermination = 1 << 10 // a termination message; Kubernetes allows 4 KiB a container
	maxQuote       = 512     // any other message
)

// quote is the first limit bytes of s as one line: control characters and white
// space become single spaces, invalid UTF-8 goes.
func quote(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] // a rune cut in two is invalid and goes with the rest
	}
	s = strings.ToValidUTF8(s, "")
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r)
	}), " ")
}

// sentence ends s with one full stop.
func sentence(s string) string {
	s = strings.TrimRight(s, ". ")
	if s == "" {
		return ""
	}
	return s + "."
}
