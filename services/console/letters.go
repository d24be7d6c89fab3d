package console

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

const (
	// maxLetters bounds the dead letters that are held, the newest ones, some 400 bytes
	// each.
	maxLetters = 20_000
	// lettersFresh is how old what is held may be when it is shown.
	lettersFresh = time.Second
)

// Letter is a dead letter without what nobody needs to see: its body, and the
// webhook's whole address.
type Letter struct {
	LogKey, ID, Service, Endpoint, Reason string
	N, Status                             int
	At                                    time.Time
	Attempts                              int
	Last                                  delivery.Attempt
	Replayed                              *delivery.Replayed
	Place                                 uint64
}

// letterSource is DEADLETTERS, read by places.
type letterSource interface {
	LetterPlaces(ctx context.Context) (first, last uint64, err error)
	ScanLetters(ctx context.Context, from uint64, each func(uint64, delivery.Letter)) (next uint64, err error)
}

// letters holds the dead letters. It reads what is new when somebody looks, and
// nothing while nobody does.
type letters struct {
	source    letterSource
	now       func() time.Time
	reachable func() error

	mu    sync.Mutex
	held  map[string]Letter // by log key and ordinal
	next  uint64            // place
	tried time.Time
	err   error // of the last try
	more  bool  // there are older ones
}

func newLetters(s letterSource) *letters {
	return &letters{source: s, now: time.Now, held: map[string]Letter{}}
}

// all are the letters, the newest first; more: there are older ones that are not held.
// With an error they are those that could be read before.
func (l *letters) all(ctx context.Context) (out []Letter, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err = l.reachable(); err == nil { // which is asked again with the next page
		if l.now().Sub(l.tried) > lettersFresh {
			l.err = l.read(ctx)
			l.tried = l.now()
		}
		err = l.err
	}
	out = slices.SortedFunc(maps.Values(l.held), func(a, b Letter) int { return cmp.Compare(b.Place, a.Place) })
	return out, l.more, err
}

func (l *letters) read(ctx context.Context) error {
	first, last, err := l.source.LetterPlaces(ctx)
	if err != nil {
		return err
	}
	if last+1 < l.next { // another stream than before
		l.held, l.next = map[string]Letter{}, 0
	}
	if l.next == 0 {
		l.next = first
		if last > maxLetters && first < last+1-maxLetters {
			l.next, l.more = last+1-maxLetters, true
		}
	}
	for l.next <= last {
		next, err := l.source.ScanLetters(ctx, l.next, func(place uint64, d delivery.Letter) {
			l.held[d.LogKey+"."+strconv.Itoa(d.N)] = newLetter(place, d)
		})
		if err != nil {
			return err
		}
		if next == l.next { // a replica that trails: the next look has it
			break
		}
		l.next = next
	}
	maps.DeleteFunc(l.held, func(_ string, d Letter) bool { return d.Place < first })
	for len(l.held) > maxLetters {
		l.more = true
		oldest := slices.SortedFunc(maps.Values(l.held), func(a, b Letter) int { return cmp.Compare(a.Place, b.Place) })
		for _, d := range oldest[:len(l.held)-maxLetters] {
			delete(l.held, d.LogKey+"."+strconv.Itoa(d.N))
		}
	}
	return nil
}

func newLetter(place uint64, d delivery.Letter) Letter {
	out := Letter{
		LogKey: strings.Clone(d.LogKey), ID: short(d.ID), Service: short(d.Service), Endpoint: short(d.Endpoint), Reason: short(d.Reason),
		N: d.N, Status: d.Status, At: d.At, Attempts: len(d.Attempts), Replayed: d.Replayed, Place: place,
	}
	if n := len(d.Attempts); n > 0 {
		out.Last = d.Attempts[n-1]
	}
	return out
}
