package jobstatus

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Bounds of Gone. Past the first an arbitrary Job's Pods are forgotten, past
// the second a Job's later ones: evidence lost, never a wrong end.
const (
	maxGoneJobs = 4_000
	maxGonePods = 8 // of one Job
)

// Gone keeps Pods as they were last seen, for as long as their Job is there: a
// deadline deletes them before the Job says that it failed. The zero value is
// empty. Its methods may be called at once.
type Gone struct {
	mu    sync.Mutex
	byJob map[types.UID][]*corev1.Pod
}

// Of are the Pods of a Job that are remembered, in the order they went.
func (g *Gone) Of(job types.UID) []*corev1.Pod {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.byJob[job]
}

// Add remembers a Pod as it was last seen. Its Job must still be there: a Pod
// that goes after its Job is nobody's evidence.
func (g *Gone) Add(job types.UID, p *corev1.Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byJob == nil {
		g.byJob = map[types.UID][]*corev1.Pod{}
	}
	pods, known := g.byJob[job]
	if !known && len(g.byJob) >= maxGoneJobs {
		for other := range g.byJob {
			delete(g.byJob, other)
			break
		}
	}
	if len(pods) < maxGonePods {
		g.byJob[job] = append(pods[:len(pods):len(pods)], p)
	}
}

// Drop forgets the Pods of a Job that is gone itself.
func (g *Gone) Drop(job types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.byJob, job)
}
