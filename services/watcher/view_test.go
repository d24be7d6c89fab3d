package watcher

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

func aJob(uid string) *batchv1.Job {
	id, at := "id-of-"+uid, metav1.Unix(1_790_000_000, 0)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			UID: types.UID(uid), Name: kubejob.Name("job", id), Namespace: "ns", ResourceVersion: "12345", CreationTimestamp: at,
			Labels:      map[string]string{kubejob.LabelApp: "svc", kubejob.LabelKey: event.Key(id), kubejob.LabelInstallation: "default", "other": "label"},
			Annotations: map[string]string{kubejob.AnnotationID: id, kubejob.AnnotationHash: fmt.Sprintf("%064x", len(uid)), "other": "annotation"},
			Finalizers:  []string{kubejob.Finalizer},
		},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "svc", Image: "busybox", Args: slices.Repeat([]string{"long"}, 500)}},
		}}},
		Status: batchv1.JobStatus{StartTime: &at, Active: 1, Ready: new(int32(1))},
	}
}

func aPod(uid string, job *batchv1.Job) *corev1.Pod {
	at := metav1.Unix(1_790_000_001, 0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			UID: types.UID(uid), Name: job.Name + "-abcde", Namespace: "ns", ResourceVersion: "12346", CreationTimestamp: at,
			Labels:          map[string]string{batchv1.ControllerUidLabel: string(job.UID)},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: corev1.PodSpec{NodeName: "node-7", TerminationGracePeriodSeconds: new(int64(30)), Containers: []corev1.Container{{Name: "svc", Image: "busybox"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1",
			Conditions:        []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "svc", ContainerID: "containerd://0123456789", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}}},
		},
	}
}

// looks is a view whose asks for looks are counted.
func looks() (v *view, asked map[types.UID]int) {
	asked = map[types.UID]int{}
	return newView(func(uid types.UID) { asked[uid]++ }, func() bool { return true }), asked
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestARecordIsWhatDecisionsRead: what comes out of the view is what Trim leaves,
// in well under the 1,000 bytes that a job may take with the rest.
func TestARecordIsWhatDecisionsRead(t *testing.T) {
	v, _ := looks()
	do(t, jobWatch{v}.Add(aJob("11111111-2222-3333-4444-555555555555")))
	job := aJob("11111111-2222-3333-4444-555555555555")
	do(t, podWatch{v}.Add(aPod("66666666-7777-8888-9999-000000000000", job)))
	wantJob, wantPod := job.DeepCopy(), aPod("66666666-7777-8888-9999-000000000000", job)
	jobstatus.Trim(wantJob)
	jobstatus.Trim(wantPod)
	wantPod.OwnerReferences, wantPod.ResourceVersion = nil, ""
	gotJob, pods, vanished, err := v.seen(job.UID)
	if err != nil || vanished || len(pods) != 1 {
		t.Fatal(pods, vanished, err)
	}
	if d := cmp.Diff(wantJob, gotJob); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(wantPod, pods[0]); d != "" {
		t.Error(d)
	}
	e := v.jobs[job.UID]
	t.Logf("records of %d bytes for the Job and %d for the Pod", len(e.job), len(e.pods[0].record))
	if len(e.job)+len(e.pods[0].record) > 500 {
		t.Errorf("records of %d and %d bytes", len(e.job), len(e.pods[0].record))
	}
}

// TestWhatIsDoneWithStaysForgotten: changes of a Job that was dropped, and of its
// Pod, bring nothing back.
func TestWhatIsDoneWithStaysForgotten(t *testing.T) {
	v, asked := looks()
	job := aJob("a")
	do(t, jobWatch{v}.Add(aJob("a")))
	do(t, podWatch{v}.Add(aPod("p", job)))
	v.forget("a")
	before := asked["a"]
	do(t, jobWatch{v}.Update(aJob("a")))
	do(t, podWatch{v}.Update(aPod("p", job)))
	do(t, podWatch{v}.Delete(aPod("p", job)))
	do(t, jobWatch{v}.Delete(aJob("a")))
	if asked["a"] != before || len(v.jobs) != 0 || len(v.gone.Of("a")) != 0 {
		t.Errorf("%d looks more, %v", asked["a"]-before, v.jobs)
	}
}

// TestAListTellsWhatWent: what a new list does not have any more has gone, as if
// it had been watched.
func TestAListTellsWhatWent(t *testing.T) {
	v, asked := looks()
	ended := known{sequence: 7, log: jobstatus.Log{JobID: "ended", Started: true, Ended: true}}
	for _, uid := range []string{"stays", "goes", "ended"} {
		do(t, jobWatch{v}.Add(aJob(uid)))
		do(t, podWatch{v}.Add(aPod("pod-of-"+uid, aJob(uid))))
	}
	v.remember("ended", ended)
	clear(asked)
	do(t, podWatch{v}.Replace([]any{aPod("pod-of-goes", aJob("goes")), aPod("pod-of-ended", aJob("ended"))}, "9"))
	if gone := v.gone.Of("stays"); len(gone) != 1 || gone[0].UID != "pod-of-stays" || asked["stays"] == 0 {
		t.Errorf("the Pod that went: %v, %d looks", gone, asked["stays"])
	}
	stays, err := pack(aJob("stays")) // as a list that is streamed brings it
	do(t, err)
	for range 2 { // a second list changes nothing about what went before
		do(t, jobWatch{v}.Replace([]any{stays}, "9"))
		job, pods, vanished, err := v.seen("goes")
		if err != nil || job == nil || !vanished || len(pods) != 1 || asked["goes"] == 0 {
			t.Errorf("the Job that went: %v, vanished %v, %d Pods, %v", job, vanished, len(pods), err)
		}
		if job, _, _, _ := v.seen("ended"); job != nil {
			t.Error("a Job whose log has its end is kept after it went")
		}
	}
	v.forget("goes")
	if v.vanished != 0 || !v.ready() {
		t.Errorf("%d vanished, ready %v", v.vanished, v.ready())
	}
}

// TestAnOrphanedPodIsNotItsJobsAnyMore: whoever deletes a Job and leaves its Pods
// takes their owner from them.
func TestAnOrphanedPodIsNotItsJobsAnyMore(t *testing.T) {
	v, _ := looks()
	do(t, jobWatch{v}.Add(aJob("a")))
	do(t, podWatch{v}.Add(aPod("p", aJob("a"))))
	orphan := aPod("p", aJob("a"))
	orphan.OwnerReferences = nil
	do(t, podWatch{v}.Update(orphan))
	if _, pods, _, err := v.seen("a"); err != nil || len(pods) != 0 {
		t.Errorf("%v %v", pods, err)
	}
	do(t, podWatch{v}.Add(orphan.DeepCopy()))
	if len(v.jobs) != 1 {
		t.Error("a Pod of nobody is kept")
	}
}

// TestOnlyWhatDecisionsReadAsksForALook: a kubelet's and the Job controller's other
// writes move the version on, which what we write expects, and no more.
func TestOnlyWhatDecisionsReadAsksForALook(t *testing.T) {
	v, asked := looks()
	job := aJob("uid")
	do(t, jobWatch{v}.Add(aJob("uid")))
	do(t, podWatch{v}.Add(aPod("pod", job)))
	before := asked["uid"]
	idle, ready := aPod("pod", job), aJob("uid")
	idle.ResourceVersion, idle.Status.PodIP = "20000", "10.0.0.2"
	ready.ResourceVersion, ready.Status.Ready = "20001", new(int32(0))
	do(t, podWatch{v}.Update(idle))
	do(t, jobWatch{v}.Update(ready))
	if got, _, _, err := v.seen("uid"); err != nil || got.ResourceVersion != "20001" || asked["uid"] != before {
		t.Errorf("version %s, %d looks more (%v)", got.ResourceVersion, asked["uid"]-before, err)
	}
	ended, failed := aPod("pod", job), aJob("uid")
	ended.Status.Phase, failed.Status.Failed = corev1.PodFailed, 1
	do(t, podWatch{v}.Update(ended))
	do(t, jobWatch{v}.Update(failed))
	if asked["uid"] != before+2 || v.shown() != 6 {
		t.Errorf("%d looks more, %g changes", asked["uid"]-before, v.shown())
	}
}
