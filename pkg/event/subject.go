package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Unreadable stands in a subject for a service or a key that cannot be read.
const Unreadable = "_"

// Key is what subjects and labels carry for an id, which may hold any
// character: the first 32 hex characters of sha256(id).
func Key(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}

// RejectedLogKey is the log key of a message that was not accepted: the key of
// its id (Unreadable for none), and the first 16 hex characters of its body's
// sha256, so that it never claims the id's own log.
func RejectedLogKey(id string, body []byte) string {
	key := Unreadable
	if id != "" {
		key = Key(id)
	}
	sum := sha256.Sum256(body)
	return key + "-" + hex.EncodeToString(sum[:8])
}

// IDKey is the key of the id within a log key: what comes before the dash.
func IDKey(logKey string) string {
	key, _, _ := strings.Cut(logKey, "-")
	return key
}

// RequestSubject is where the accepted request of a key stands on REQUESTS.
func RequestSubject(key string) string { return "requests." + key }

// RejectionSubject is where the raw body of a rejected message stands on REJECTIONS.
func RejectionSubject(logKey string) string { return "rejections." + logKey }

// LogFilter is the one filter over a job's log. Every append must use this
// very string: on a replicated stream, writers with different filters are not
// kept apart (docs/adr/0002).
func LogFilter(service, logKey string) string {
	return "events." + ServiceToken(service) + "." + logKey + ".>"
}

// Subject is where an event of the type stands on EVENTS.
func Subject(service, logKey string, t Type) string {
	k, _ := t.kind()
	return "events." + ServiceToken(service) + "." + logKey + "." + k.token
}

// Token is the type as the last token of a subject on EVENTS.
func Token(t Type) string {
	k, _ := t.kind()
	return k.token
}

// ParseSubject takes a subject of EVENTS apart.
func ParseSubject(subject string) (service, logKey string, t Type, err error) {
	p := strings.Split(subject, ".")
	if len(p) == 4 && p[0] == "events" {
		if t, ok := TypeOfToken(p[3]); ok {
			return ServiceName(p[1]), p[2], t, nil
		}
	}
	return "", "", "", fmt.Errorf("event: %q is not a subject events.<service>.<log key>.<type>", subject)
}

var (
	toToken   = strings.NewReplacer("%", "%25", ".", "%2E")
	fromToken = strings.NewReplacer("%2E", ".", "%25", "%")
)

// ServiceToken keeps a service, a label value, one token of a subject.
func ServiceToken(service string) string {
	if service == "" {
		return Unreadable
	}
	return toToken.Replace(service)
}

// ServiceName is ServiceToken's inverse.
func ServiceName(token string) string {
	if token == Unreadable {
		return ""
	}
	return fromToken.Replace(token)
}
