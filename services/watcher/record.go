package watcher

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// record is a Job or a Pod as it is kept: what jobstatus.Trim leaves of it, in
// protobuf, without what all have in common: some 200 bytes. What the view knows
// besides, its UID, a Job's version and a Pod's Job, is left out: as long as
// nothing changes that a decision reads, the record stays the same.
type record []byte

// encoded is what Jobs and Pods can do.
type encoded interface {
	Marshal() ([]byte, error)
	Unmarshal(b []byte) error
}

func newRecord(o encoded) (record, error) {
	b, err := o.Marshal()
	if err != nil {
		return nil, err
	}
	out, _ := scratch.Get().(*[]byte)
	defer scratch.Put(out)
	*out = common().Encode((*out)[:cap(*out)], b)
	return bytes.Clone(*out), nil
}

func (r record) into(o encoded) error {
	b, err := common().Decode(nil, r)
	if err == nil {
		err = o.Unmarshal(b)
	}
	if err != nil {
		return fmt.Errorf("a record of the watcher's own: %w", err)
	}
	return nil
}

func (r record) job(uid types.UID, version string) (*batchv1.Job, error) {
	job := &batchv1.Job{}
	err := r.into(job)
	job.UID, job.ResourceVersion = uid, version
	return job, err
}

func (r record) pod(uid types.UID, job *batchv1.Job) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := r.into(pod)
	pod.UID, pod.Namespace = uid, job.Namespace
	return pod, err
}

var scratch = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// common is what records have in common: a Job and a Pod such as most are. It
// lives as long as the records, so in no file: it may be changed at will.
var common = sync.OnceValue(func() *s2.Dict {
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: "job-00000000", Namespace: "default", CreationTimestamp: at,
			Labels:      map[string]string{kubejob.LabelApp: "service", kubejob.LabelKey: "", kubejob.LabelInstallation: "default"},
			Annotations: map[string]string{kubejob.AnnotationID: "", kubejob.AnnotationHash: "", kubejob.AnnotationQueuedAt: "2026-01-01T00:00:00.000Z"},
			Finalizers:  []string{kubejob.Finalizer},
		},
		Spec:   batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "service"}}}}},
		Status: batchv1.JobStatus{StartTime: &at, Active: 1},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "job-00000000-00000", CreationTimestamp: at},
		Spec:       corev1.PodSpec{NodeName: "node-1", TerminationGracePeriodSeconds: new(int64(30)), Containers: []corev1.Container{{Name: "service"}}},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "service", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}},
			}},
		},
	}
	var both []byte
	for _, o := range []encoded{job, pod} {
		b, err := o.Marshal()
		if err != nil {
			panic(err) // of constants
		}
		both = append(both, b...)
	}
	return s2.MakeDict(both, nil)
})

// packed is an object on its way from a watch into the view.
type packed struct {
	uid             types.UID
	job             types.UID // of a Pod's Job; empty: it has none
	namespace, name string
	version         string // of a Job: what a change or a deletion of it expects
	record          record
}

// GetObjectMeta makes it an object to client-go, which keeps it by its name until
// a list is complete.
func (p *packed) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, UID: p.uid}
}

// pack makes a Job or a Pod what is kept of it. The object is spent.
func pack(obj any) (any, error) {
	jobstatus.Trim(obj)
	var p *packed
	var err error
	switch o := obj.(type) {
	case *batchv1.Job:
		p = &packed{uid: o.UID, namespace: o.Namespace, name: o.Name, version: o.ResourceVersion}
		o.UID, o.ResourceVersion = "", ""
		p.record, err = newRecord(o)
	case *corev1.Pod:
		p = &packed{uid: o.UID, job: ownerOf(o), namespace: o.Namespace, name: o.Name}
		o.UID, o.ResourceVersion, o.Namespace, o.OwnerReferences = "", "", "", nil
		p.record, err = newRecord(o)
	default:
		return obj, nil
	}
	return p, err
}

func ownerOf(p *corev1.Pod) types.UID {
	if ref := jobstatus.JobOf(p); ref != nil {
		return ref.UID
	}
	return ""
}
