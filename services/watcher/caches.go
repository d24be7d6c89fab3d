package watcher

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

// maxTails bounds the Jobs whose tails are kept; a tail is about 1 KiB. Past it
// an arbitrary one is dropped, and read again where it is wanted.
const maxTails = 20_000

// known is a job's log as it was last read or written.
type known struct {
	service string
	tail    broker.Tail
}

// tails keeps the ends of logs by their Job's UID, so that a Job's changes do
// not read its log each. A stale one is found out by the append that conflicts.
type tails struct {
	mu    sync.Mutex
	byJob map[types.UID]known
}

func newTails() *tails { return &tails{byJob: map[types.UID]known{}} }

func (t *tails) get(job types.UID) (known, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.byJob[job]
	return k, ok
}

func (t *tails) put(job types.UID, k known) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.byJob[job]; !ok && len(t.byJob) >= maxTails {
		for other := range t.byJob {
			delete(t.byJob, other)
			break
		}
	}
	t.byJob[job] = k
}

func (t *tails) drop(job types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byJob, job)
}
