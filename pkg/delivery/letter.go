package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// LetterVersion is the version of a Letter's JSON. A field may be added; what one
// means never changes within a version.
const LetterVersion = 1

// Letter is a callback that was given up, with what a replay needs after the
// request and the event are past their retention: a dead letter.
type Letter struct {
	Version int    `json:"v"`
	LogKey  string `json:"logKey"`
	N       int    `json:"n"` // ordinal of the event in its log
	ID      string `json:"id,omitempty"`
	Service string `json:"service,omitempty"`
	Type    string `json:"type"` // of the event
	Status  int    `json:"status"`
	Trace   string `json:"trace,omitempty"` // W3C traceparent
	// URL is the webhook's whole address, which may hold secrets; Endpoint is the
	// part of it that may be shown: scheme, host and port.
	URL       string    `json:"url,omitempty"`
	Endpoint  string    `json:"endpoint"`
	WebhookID string    `json:"webhookId"`
	Body      []byte    `json:"body,omitempty"` // base64
	Reason    string    `json:"reason"`         // one of the Reasons
	At        time.Time `json:"at"`             // when it was given up, the last time
	Attempts  []Attempt `json:"attempts,omitempty"`
	// Replayed is set once a replay has delivered it; then URL and Body are not kept.
	Replayed *Replayed `json:"replayed,omitempty"`
}

// Replayed says which replay has delivered a letter.
type Replayed struct {
	Run string    `json:"run"`
	At  time.Time `json:"at"`
	By  string    `json:"by,omitempty"` // who started it, where that is known
}

// Delivered is the letter after a replay has delivered it.
func (l Letter) Delivered(run string, at time.Time) Letter {
	l.Replayed, l.URL, l.Body = &Replayed{Run: run, At: at}, "", nil
	return l
}

// Run is a replay of some of a log's letters, in order. Its token is a Wakeup whose
// N counts the letters of the run, and its ledger is one of its own.
type Run struct {
	ID      string `json:"id"`
	Service string `json:"service,omitempty"`
	By      string `json:"by,omitempty"` // who started it, where that is known
	// Letters are the ordinals of the letters, rising; at most MaxLetters.
	Letters []int `json:"letters"`
}

// MaxLetters bounds the letters of a run: a log has fewer events.
const MaxLetters = 16

// NewRun is the replay of a log's letters. Its id is made of which letters they are
// and when each was given up: to start the same replay twice is to start it once.
func NewRun(letters []Letter) Run {
	letters = slices.Clone(letters)
	slices.SortFunc(letters, func(a, b Letter) int { return a.N - b.N })
	letters = letters[:min(len(letters), MaxLetters)]
	var run Run
	sum := sha256.New()
	for _, l := range letters {
		run.Service, run.Letters = l.Service, append(run.Letters, l.N)
		fmt.Fprintf(sum, "%s %d %s\n", l.LogKey, l.N, l.At.UTC().Format(time.RFC3339Nano))
	}
	run.ID = "r" + hex.EncodeToString(sum.Sum(nil)[:8])
	return run
}

// Ledger is the run's before anything was recorded: its first letter is next, and
// the tokens of the others are left with it.
func (r Run) Ledger() Ledger {
	var l Ledger
	for i := 1; i < len(r.Letters); i++ {
		l = l.Surrendered(i, uint64(i))
	}
	return l
}
