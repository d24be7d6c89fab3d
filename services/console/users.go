package console

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"

	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	// leastCost of a bcrypt hash: less is guessed too quickly.
	leastCost = 8
	maxUsers  = 1000
	// bcryptAtOnce bounds the hashes being computed: each takes a CPU some 50 ms.
	bcryptAtOnce = 2
	// triesEvery and triesBurst bound the passwords that are looked at of one user, and
	// of all names together that are no user's.
	triesEvery = 2 * time.Second
	triesBurst = 10
	// believed is how long a password that was right is not computed again.
	believed = 5 * time.Minute
)

// users are the hashes by name.
type users map[string][]byte

// openUsers reads the file of who may look; without a name there is nobody.
func openUsers(name string, log zerolog.Logger) (*process.File[users], error) {
	f, err := process.OpenFile(name, func(text []byte) (users, error) {
		if name == "" {
			return nil, nil //nolint:nilnil // no file: nobody
		}
		return parseUsers(text)
	}, log)
	if err != nil {
		return nil, fmt.Errorf("--users-file: %w", err)
	}
	return f, nil
}

// parseUsers reads lines NAME:BCRYPT, as htpasswd -B writes them. Its errors name the
// line, never what is in it.
func parseUsers(text []byte) (users, error) {
	out := users{}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(string(line), ":")
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case !ok || name == "" || err != nil:
			return nil, fmt.Errorf("line %d is not NAME:BCRYPT; write it with htpasswd -B", n)
		case cost < leastCost:
			return nil, fmt.Errorf("line %d: its bcrypt has a cost of %d, and must have at least %d; write it with htpasswd -B -C 10", n, cost, leastCost)
		case out[name] != nil:
			return nil, fmt.Errorf("line %d: the name was there before", n)
		}
		out[name] = []byte(hash)
	}
	if len(out) == 0 {
		return nil, errors.New("it names nobody; add a line with htpasswd -B")
	}
	if len(out) > maxUsers {
		return nil, fmt.Errorf("it names %d people, and may name %d", len(out), maxUsers)
	}
	return out, nil
}

// passwords decides on names and passwords, in a time that does not tell which of the
// two was wrong.
type passwords struct {
	users *process.File[users]
	now   func() time.Time
	slots chan struct{}
	key   []byte // of the marks in taken

	mu    sync.Mutex
	of    users  // whose tries these are
	other []byte // what is compared with where there is no such user; as dear as theirs
	tries map[string]*rate.Limiter
	taken map[[sha256.Size]byte]time.Time // until when
}

func newPasswords(f *process.File[users]) *passwords {
	p := &passwords{users: f, now: time.Now, slots: make(chan struct{}, bcryptAtOnce), key: make([]byte, 32)}
	_, _ = rand.Read(p.key) // never fails
	p.reset(f.Get())
	return p
}

// reset forgets what was decided by other users.
func (p *passwords) reset(of users) {
	p.of, p.tries, p.taken = of, map[string]*rate.Limiter{}, map[[sha256.Size]byte]time.Time{}
	dearest := leastCost
	for _, hash := range of {
		if cost, err := bcrypt.Cost(hash); err == nil {
			dearest = max(dearest, cost)
		}
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)                                  // never fails
	p.other, _ = bcrypt.GenerateFromPassword(secret, dearest) // its cost is in range
}

// check is loginTaken, loginRefused or loginSlowed.
func (p *passwords) check(name, password string) string {
	hash, limiter, mark, known := p.prepare(name, password)
	if known {
		return loginTaken
	}
	if !limiter.AllowN(p.now(), 1) {
		return loginSlowed
	}
	p.slots <- struct{}{}
	defer func() { <-p.slots }()
	// bcrypt looks at 72 bytes, and refuses more: nobody's are longer.
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil {
		return loginRefused
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.taken) >= maxUsers {
		maps.DeleteFunc(p.taken, func(_ [sha256.Size]byte, until time.Time) bool { return !p.now().Before(until) })
	}
	if len(p.taken) < maxUsers {
		p.taken[mark] = p.now().Add(believed)
	}
	return loginTaken
}

// prepare is what a password is compared with, who bounds that, and whether it was
// right a moment ago.
func (p *passwords) prepare(name, password string) (hash []byte, limiter *rate.Limiter, mark [sha256.Size]byte, known bool) {
	sum := hmac.New(sha256.New, p.key)
	fmt.Fprintf(sum, "%d:%s%s", len(name), name, password)
	copy(mark[:], sum.Sum(nil))
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.users.Get()
	if !maps.EqualFunc(now, p.of, bytes.Equal) {
		p.reset(now)
	}
	hash, bucket := now[name], name
	if hash == nil {
		hash, bucket = p.other, ""
	}
	if p.tries[bucket] == nil {
		p.tries[bucket] = rate.NewLimiter(rate.Every(triesEvery), triesBurst)
	}
	return hash, p.tries[bucket], mark, p.now().Before(p.taken[mark])
}
