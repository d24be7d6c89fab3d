package cluster

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Limit bounds a client's requests in flight by what the API server takes: a 429
// halves the bound, at most once a second, and each answer that is none adds its
// share of one, so that a whole window of them adds one (AIMD, as in RFC 5681).
// client-go waits as long as the 429 says and sends it again by itself; this
// keeps the others from following it.
type Limit struct {
	most float64
	now  func() time.Time

	mu       sync.Mutex
	room     *sync.Cond
	bound    float64
	inFlight int
	cut      time.Time // of the last halving
}

// cutEvery is the least time between two halvings: the answers to what was sent
// together are one sign.
const cutEvery = time.Second

// NewLimit is a Limit that begins with its most, and keeps at least 1.
func NewLimit(most int) *Limit {
	l := &Limit{most: float64(most), bound: float64(most), now: time.Now}
	l.room = sync.NewCond(&l.mu)
	return l
}

// Bound is how many requests may be in flight now.
func (l *Limit) Bound() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bound
}

// Wrap puts the limit before a client's transport. It is not for clients that
// watch: a watch is in flight for as long as it lasts.
func (l *Limit) Wrap(next http.RoundTripper) http.RoundTripper { return limited{l, next} }

type limited struct {
	*Limit

	next http.RoundTripper
}

// RoundTrip waits for room as long as the request's context lives.
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := l.enter(r.Context()); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper's duty
		}
		return nil, err
	}
	res, err := l.next.RoundTrip(r)
	l.leave(res)
	return res, err
}

func (l *Limit) enter(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.room.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.inFlight >= int(l.bound) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.room.Wait()
	}
	l.inFlight++
	return nil
}

// leave judges by the answer; without one nothing is known of the load.
func (l *Limit) leave(res *http.Response) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight--
	switch {
	case res == nil:
	case res.StatusCode != http.StatusTooManyRequests:
		l.bound = min(l.most, l.bound+1/l.bound)
	case l.now().Sub(l.cut) >= cutEvery:
		l.bound, l.cut = max(1, l.bound/2), l.now()
	}
	l.room.Broadcast()
}
