package watcher

import (
	"sync"

	batchv1 "k8s.io/api/batch/v1"
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

// maxVanished bounds the Jobs that are looked back at; past it an arbitrary one is
// left without an end.
const maxVanished = 4_000

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
	makeRoom(t.byJob, job, maxTails)
	t.byJob[job] = k
}

func (t *tails) drop(job types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byJob, job)
}

// vanishedJobs keeps Jobs that went as they were last seen, until it is known
// that their log has its end.
type vanishedJobs struct {
	mu    sync.Mutex
	byJob map[types.UID]*batchv1.Job
}

func newVanishedJobs() *vanishedJobs { return &vanishedJobs{byJob: map[types.UID]*batchv1.Job{}} }

func (v *vanishedJobs) add(job *batchv1.Job) {
	v.mu.Lock()
	defer v.mu.Unlock()
	makeRoom(v.byJob, job.UID, maxVanished)
	v.byJob[job.UID] = job
}

// of are those of a name; a name may be used again.
func (v *vanishedJobs) of(name types.NamespacedName) (out []*batchv1.Job) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, job := range v.byJob {
		if job.Namespace == name.Namespace && job.Name == name.Name {
			out = append(out, job)
		}
	}
	return out
}

func (v *vanishedJobs) drop(job *batchv1.Job) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.byJob, job.UID)
}

func makeRoom[V any](m map[types.UID]V, job types.UID, most int) {
	if _, ok := m[job]; ok || len(m) < most {
		return
	}
	for other := range m {
		delete(m, other)
		return
	}
}
