package kubed_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/recording"
)

// TestStagesAreThoseOfARealKubelet: Pods on a simulated node go through the
// states that were recorded of a real one, in their order and with their
// conditions and reasons. How long each takes differs.
func TestStagesAreThoseOfARealKubelet(t *testing.T) {
	shared := kubedtest.Shared(t)
	client := clientOf(t, shared.Kubeconfig())
	for name, c := range map[string]struct {
		image  string
		change func(*batchv1.JobSpec)
		remove bool // the Pod, once it runs
		states int  // of one that never ends: as many are compared
	}{
		"success-fast":           {image: "sim/succeed:500ms"},
		"exit-3":                 {image: "sim/exit:3"},
		"oom":                    {image: "sim/oom"},
		"pod-evicted-by-kubelet": {image: "sim/evict"},
		"pod-deleted-obeys":      {image: "sim/hang", remove: true},
		"image-not-found":        {image: "sim/pull-fail", states: 6},
		"image-invalid-name":     {image: "sim/bad-name", states: 4},
		"config-missing":         {image: "sim/config-error", states: 4},
		"deadline-image-pull":    {image: "sim/pull-fail", change: func(j *batchv1.JobSpec) { j.ActiveDeadlineSeconds = new(int64(1)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := recordedStates(t, name)
			if c.states > 0 {
				want = want[:c.states]
			}
			namespace := shared.Namespace(t)
			pods := client.CoreV1().Pods(namespace)
			list, err := pods.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			seen, err := pods.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, TimeoutSeconds: new(int64(30))})
			if err != nil {
				t.Fatal(err)
			}
			defer seen.Stop()
			spec := batchv1.JobSpec{BackoffLimit: new(int32), Template: corev1.PodTemplateSpec{Spec: oneContainer(c.image)}}
			if c.change != nil {
				c.change(&spec)
			}
			if _, err := client.BatchV1().Jobs(namespace).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: spec}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for e := range seen.ResultChan() {
				pod, ok := e.Object.(*corev1.Pod)
				if !ok {
					t.Fatalf("%v", e.Object)
				}
				if got = after(got, pod); len(got) >= len(want) {
					break
				}
				if c.remove && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
					if err := pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("recorded (-), simulated (+):\n%s", d)
			}
		})
	}
}

// recordedStates are the states of a recording's Pod.
func recordedStates(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open("../../jobstatus/testdata/recordings/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	for l, err := range recording.Read(f) {
		if err != nil {
			t.Fatal(err)
		}
		var pod corev1.Pod
		if l.Object == nil || json.Unmarshal(l.Object, &pod) != nil || pod.Kind != "Pod" {
			continue // an object of another kind
		}
		out = after(out, &pod)
	}
	return out
}

// after adds a Pod's state where it is another than the last.
func after(states []string, p *corev1.Pod) []string {
	s := state(p)
	if len(states) > 0 && states[len(states)-1] == s {
		return states
	}
	return append(states, s)
}

// state is what a Pod's status says, without names and times. Two steps of a real
// kubelet are one of the simulated: the sandbox is made, the containers start.
func state(p *corev1.Pod) string {
	lines := []string{fmt.Sprintf("%s %s, deleting %v, began %v", p.Status.Phase, p.Status.Reason, p.DeletionTimestamp != nil, p.Status.StartTime != nil)}
	for _, c := range p.Status.Conditions {
		if c.Type != corev1.PodReadyToStartContainers {
			lines = append(lines, fmt.Sprintf("%s %s %s %s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	slices.Sort(lines[1:])
	for _, c := range p.Status.ContainerStatuses {
		line := fmt.Sprintf("%s ready %v, started %v, restarts %d, container %v, image %v: ", c.Name, c.Ready, *c.Started, c.RestartCount,
			strings.HasPrefix(c.ContainerID, "containerd://"), c.ImageID != "")
		switch s := c.State; {
		case s.Waiting != nil:
			message, _, _ := strings.Cut(s.Waiting.Message, ": repository name") // what is wrong with an image's name
			line += "waiting " + s.Waiting.Reason + " " + message
		case s.Running != nil:
			line += fmt.Sprintf("running, began %v", !s.Running.StartedAt.IsZero())
		case s.Terminated != nil:
			e := s.Terminated
			line += fmt.Sprintf("terminated %d %s %s, began %v, ended %v, container %v", e.ExitCode, e.Reason, e.Message, !e.StartedAt.IsZero(), !e.FinishedAt.IsZero(), e.ContainerID == c.ContainerID)
		}
		lines = append(lines, strings.ReplaceAll(line, p.Spec.Containers[0].Image, "IMAGE"))
	}
	return strings.Join(lines, "\n") + "\n"
}
