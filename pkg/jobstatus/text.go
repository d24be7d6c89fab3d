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

// lastLines is the end of s within limit bytes, from the beginning of a line; of a
// last line that is longer its end. Line ends stay, a tab becomes a space, other
// control characters and invalid UTF-8 go.
func lastLines(s string, limit int) string {
	if len(s) > limit {
		s = s[len(s)-limit-1:] // with the byte before: a line may begin at the limit
		cut := strings.IndexByte(s, '\n') + 1
		if cut == 0 || cut == len(s) {
			cut = 1
		}
		s = s[cut:]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r) && r != '\n':
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Trim(s, "\n")
}

// sentence ends s with one full stop.
func sentence(s string) string {
	s = strings.TrimRight(s, ". ")
	if s == "" {
		return ""
	}
	return s + "."
}
