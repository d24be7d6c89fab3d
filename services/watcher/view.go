package watcher

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"unique"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

// maxVanished bounds the Jobs that went without an end and are to be looked back
// at; one that goes past it is left without.
const maxVanished = 4_000

// view is what the watches show of Jobs and their Pods, as records: less than
// 1 KiB for a Job with its Pod and the end of its log (row B4 of the bench). It
// holds what the cluster does, but for what is done with: a Job whose log has its
// end and that nothing holds. Such a Job is not looked at again.
type view struct {
	changed func(job types.UID) // asks for a look
	active  func() bool         // whether looks happen; else what goes is forgotten
	gone    jobstatus.Gone      // Pods that went before their Jobs

	mu       sync.Mutex
	jobs     map[types.UID]*entry // by the Job's UID
	vanished int                  // entries with that mark
	changes  float64              // that the watches have shown of what is kept
	listed   struct{ jobs, pods bool }
}

// entry is what is kept for a Job. Its Pods may be seen first.
type entry struct {
	job      record // nil: it was not seen
	version  string // of the Job, as it was last seen
	pods     []podRecord
	log      *known // as it was last read or written; nil: it was not
	vanished bool   // the Job is gone, and its log had no end
}

type podRecord struct {
	uid    types.UID
	record record
}

// known is what is kept of a job's log.
type known struct {
	service  string
	id       string
	trace    string
	span     string // that wrote the last event; empty where nobody traces
	sequence uint64 // in the stream, of the last event; 0: the log is empty
	ordinal  int    // of the last event
	log      jobstatus.Log
}

func newView(changed func(types.UID), active func() bool) *view {
	return &view{changed: changed, active: active, jobs: map[types.UID]*entry{}}
}

// knownOf is what is kept of a log that ends so.
func knownOf(service string, t broker.Tail) known {
	k := known{service: unique.Make(service).Value()}
	k.move(t)
	return k
}

// move is after an event was appended.
func (k *known) move(t broker.Tail) {
	k.sequence, k.ordinal, k.log = t.Sequence, t.Last.Sequence, jobstatus.Log{}
	if !t.Empty() {
		k.id, k.trace, k.span, k.log = t.Last.ID, t.Last.Trace, t.Last.Span, jobstatus.LogOf(&t.Last)
	}
}

// tail is what the next event goes behind.
func (k *known) tail() broker.Tail {
	return broker.Tail{Sequence: k.sequence, Last: event.Event{Sequence: k.ordinal}}
}

// ready reports whether all Jobs and Pods were seen once.
func (v *view) ready() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.listed.jobs && v.listed.pods
}

// size is how many Jobs there are.
func (v *view) size() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.jobs)
}

// shown is how many changes the watches have shown.
func (v *view) shown() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changes
}

// all are the Jobs that are there.
func (v *view) all() []types.UID {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]types.UID, 0, len(v.jobs))
	for uid, e := range v.jobs {
		if e.job != nil {
			out = append(out, uid)
		}
	}
	return out
}

// seen is a Job with its Pods; vanished: as they were before it went. A nil Job:
// there is none.
func (v *view) seen(uid types.UID) (job *batchv1.Job, pods []*corev1.Pod, vanished bool, err error) {
	v.mu.Lock()
	e := v.jobs[uid]
	if e == nil || e.job == nil {
		v.mu.Unlock()
		return nil, nil, false, nil
	}
	record, version, podRecords := e.job, e.version, slices.Clone(e.pods)
	vanished = e.vanished
	v.mu.Unlock()
	if job, err = record.job(uid, version); err != nil {
		return nil, nil, false, err
	}
	for _, p := range podRecords {
		pod, err := p.record.pod(p.uid, job)
		if err != nil {
			return nil, nil, false, err
		}
		pods = append(pods, pod)
	}
	return job, pods, vanished, nil
}

// job is a Job alone; nil: there is none.
func (v *view) job(uid types.UID) (*batchv1.Job, error) {
	v.mu.Lock()
	e := v.jobs[uid]
	if e == nil || e.job == nil {
		v.mu.Unlock()
		return nil, nil //nolint:nilnil // none is an answer
	}
	record, version := e.job, e.version
	v.mu.Unlock()
	return record.job(uid, version)
}

// log is what is known of a Job's log; false: nothing.
func (v *view) log(uid types.UID) (known, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.jobs[uid]; e != nil && e.log != nil {
		return *e.log, true
	}
	return known{}, false
}

// remember keeps what is known of a Job's log, for as long as the Job is kept.
func (v *view) remember(uid types.UID, k known) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if k.log.JobID == uid {
		k.log.JobID = uid // one string for both
	}
	if e := v.jobs[uid]; e != nil {
		e.log = &k
	}
}

// doubt drops what is known of a Job's log.
func (v *view) doubt(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.jobs[uid]; e != nil {
		e.log = nil
	}
}

// forget drops all that is kept for a Job.
func (v *view) forget(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.jobs[uid]; e != nil && e.vanished {
		v.vanished--
	}
	delete(v.jobs, uid)
	v.gone.Drop(uid)
}

// has reports whether anything is kept for a Job.
func (v *view) has(uid types.UID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.jobs[uid] != nil
}

func (v *view) entry(uid types.UID) *entry {
	e := v.jobs[uid]
	if e == nil {
		e = &entry{}
		v.jobs[uid] = e
	}
	return e
}

// putJob keeps a Job as it is now. A change of what no decision reads, and most
// that a kubelet and the Job controller write are such, asks for no look.
func (v *view) putJob(p *packed) {
	v.mu.Lock()
	v.changes++
	e := v.entry(p.uid)
	e.version = p.version
	same := bytes.Equal(e.job, p.record)
	if !same {
		e.job = p.record
	}
	v.mu.Unlock()
	if !same {
		v.changed(p.uid)
	}
}

// jobGone is when a Job went. Where its log has its end, that is all; else it is
// kept to be looked back at.
func (v *view) jobGone(uid types.UID) {
	active := v.active()
	v.mu.Lock()
	v.changes++
	e := v.jobs[uid]
	if e != nil && e.vanished {
		v.mu.Unlock()
		return
	}
	keep := active && e != nil && e.job != nil && (e.log == nil || !e.log.log.Ended) && v.vanished < maxVanished
	if keep {
		e.vanished = true
		v.vanished++
	}
	v.mu.Unlock()
	if keep {
		v.changed(uid)
	} else {
		v.forget(uid)
	}
}

// putPod keeps a Pod as it is now, and asks for a look as putJob does.
func (v *view) putPod(p *packed) {
	v.mu.Lock()
	v.changes++
	e := v.entry(p.job)
	same := false
	if i := e.index(p.uid); i < 0 {
		e.pods = append(e.pods[:len(e.pods):len(e.pods)], podRecord{p.uid, p.record})
	} else if same = bytes.Equal(e.pods[i].record, p.record); !same {
		e.pods[i].record = p.record
	}
	v.mu.Unlock()
	if !same {
		v.changed(p.job)
	}
}

// podGone is when a Pod went, as it was last seen. One that goes after its Job is
// nobody's evidence.
func (v *view) podGone(job types.UID, p *corev1.Pod) {
	v.mu.Lock()
	v.changes++
	e := v.jobs[job]
	there := e != nil && e.job != nil && !e.vanished
	if e != nil {
		if i := e.index(p.UID); i >= 0 {
			e.pods = slices.Concat(e.pods[:i], e.pods[i+1:])
		}
		if e.job == nil && len(e.pods) == 0 {
			delete(v.jobs, job)
		}
	}
	if there {
		v.gone.Add(job, p)
	}
	v.mu.Unlock()
	if there {
		v.changed(job)
	}
}

// lost are the Jobs with Pods that are not there.
func (v *view) lost(there map[types.UID]bool) (out []types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for uid, e := range v.jobs {
		if slices.ContainsFunc(e.pods, func(p podRecord) bool { return !there[p.uid] }) {
			out = append(out, uid)
		}
	}
	return out
}

func (e *entry) index(pod types.UID) int {
	return slices.IndexFunc(e.pods, func(p podRecord) bool { return p.uid == pod })
}

// jobWatch is the view to the watch of Jobs.
type jobWatch struct{ *view }

// Add is for a Job that is new to the watch.
func (w jobWatch) Add(obj any) error {
	p, err := packedOf(obj)
	if err == nil {
		w.putJob(p)
	}
	return err
}

// Update is for a Job that the watch has shown before: one that is not kept was
// done with.
func (w jobWatch) Update(obj any) error {
	if job, ok := obj.(*batchv1.Job); ok && !w.has(job.UID) {
		return nil
	}
	return w.Add(obj)
}

// Delete is for a Job that went.
func (w jobWatch) Delete(obj any) error {
	p, err := packedOf(obj)
	if err == nil {
		w.jobGone(p.uid)
	}
	return err
}

// Replace is for all that there are.
func (w jobWatch) Replace(list []any, _ string) error {
	there := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		p, err := packedOf(obj)
		if err != nil {
			return err
		}
		there[p.uid] = true
		w.putJob(p)
	}
	for _, uid := range w.all() {
		if !there[uid] {
			w.jobGone(uid)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listed.jobs = true
	return nil
}

// Resync asks for a look at each.
func (w jobWatch) Resync() error {
	for _, uid := range w.all() {
		w.changed(uid)
	}
	return nil
}

// Transformer packs what a list brings before it is complete.
func (w jobWatch) Transformer() cache.TransformFunc { return pack }

// podWatch is the view to the watch of Pods.
type podWatch struct{ *view }

// Add is for a Pod that is new to the watch.
func (w podWatch) Add(obj any) error {
	p, err := packedOf(obj)
	if err == nil && p.job != "" {
		w.putPod(p)
	}
	return err
}

// Update is for a Pod that the watch has shown before: its Job may be done with,
// or may have left it.
func (w podWatch) Update(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return w.Add(obj)
	}
	if job := ownerOf(pod); job == "" {
		w.podGone(types.UID(pod.Labels[batchv1.ControllerUidLabel]), pod)
	} else if w.has(job) {
		return w.Add(obj)
	}
	return nil
}

// Delete is for a Pod that went.
func (w podWatch) Delete(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("the watch of Pods shows a %T", obj)
	}
	job := ownerOf(pod)
	jobstatus.Trim(pod)
	w.podGone(job, pod)
	return nil
}

// Replace is for all that there are.
func (w podWatch) Replace(list []any, _ string) error {
	there := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		p, err := packedOf(obj)
		if err != nil {
			return err
		}
		if p.job != "" {
			there[p.uid] = true
			w.putPod(p)
		}
	}
	for _, uid := range w.lost(there) {
		job, pods, _, err := w.seen(uid)
		if err != nil {
			return err
		}
		if job == nil {
			w.forget(uid)
		}
		for _, p := range pods {
			if !there[p.UID] {
				w.podGone(uid, p)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listed.pods = true
	return nil
}

// Resync does nothing: that of the Jobs looks at their Pods too.
func (w podWatch) Resync() error { return nil }

// Transformer packs what a list brings before it is complete.
func (w podWatch) Transformer() cache.TransformFunc { return pack }

func packedOf(obj any) (*packed, error) {
	obj, err := pack(obj)
	if err != nil {
		return nil, err
	}
	p, ok := obj.(*packed)
	if !ok {
		return nil, fmt.Errorf("a watch shows a %T", obj)
	}
	return p, nil
}
