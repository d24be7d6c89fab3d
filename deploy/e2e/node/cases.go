package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// labCase is something that happens to a Job, named as its recording.
type labCase struct {
	name  string
	alone bool // it stops the kubelet, so nothing else may run
	run   func(*scene) error
}

// What a container's shell does. PID 1 of a container ignores SIGTERM unless it
// traps it.
const (
	obeys  = `trap 'echo got SIGTERM; exit 143' TERM; sleep 300 & wait`
	obeys0 = `trap 'exit 0' TERM; sleep 300 & wait`
	deaf   = `sleep 300; exit 0`
)

func cases() []labCase {
	return []labCase{
		{name: "success", run: func(s *scene) error { // until the TTL controller has deleted it
			if err := s.create(job("echo Hello World; sleep 2; exit 0", ttl(60))); err != nil {
				return err
			}
			s.finished()
			s.went("Job")
			return nil
		}},
		ends("success-fast", job("exit 0")),
		ends("exit-3", job("echo no luck >&2; exit 3")),
		// PID 1 cannot SIGKILL itself, so the Pod shares one PID namespace.
		// Kubernetes turns $$ of a command into $, hence $$$$.
		ends("exit-137-self-kill", job("sleep 1; kill -9 $$$$", podSpec(func(p *corev1.PodSpec) { p.ShareProcessNamespace = new(true) }))),
		ends("oom", job("sleep 1; exec dd if=/dev/zero of=/dev/null bs=64M count=1", memory("16Mi"))),
		ends("oom-child", job("sleep 1; dd if=/dev/zero of=/dev/null bs=64M count=1; echo child ended with $?; exit 5", memory("16Mi"))),
		ends("command-missing", job("", container(func(c *corev1.Container) { c.Command = []string{"/no/such/program"} }))),
		ends("termination-message", job(`echo '{"why":"disk full"}' > /dev/termination-log; exit 4`)),
		ends("termination-message-from-log", job("echo line 1; echo the last words >&2; exit 4", container(func(c *corev1.Container) {
			c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		}))),
		ends("init-fails", job("exit 0", podSpec(func(p *corev1.PodSpec) {
			first := *p.Containers[0].DeepCopy()
			first.Name, first.Command = "prepare", shell("exit 7")
			p.InitContainers = []corev1.Container{first}
		}))),
		ends("two-containers-one-fails", job("exit 3", podSpec(func(p *corev1.PodSpec) {
			other := *p.Containers[0].DeepCopy()
			other.Name, other.Command = "other", shell("sleep 6; exit 0")
			p.Containers = append(p.Containers, other)
		}))),
		ends("image-pull-always", job("echo pulled; exit 0", image("busybox", corev1.PullAlways))),
		{name: "seed-job", run: seedJob},

		waits("image-unreachable", 90*time.Second, job("exit 0", image("unreachable.invalid/team/tool:1", corev1.PullIfNotPresent))),
		waits("image-not-found", 90*time.Second, job("exit 0", image("team/nosuch:1", corev1.PullIfNotPresent))),
		waits("image-never", 30*time.Second, job("exit 0", image("team/nosuch:1", corev1.PullNever))),
		waits("image-invalid-name", 30*time.Second, job("exit 0", image("Busy_Box:::1", corev1.PullIfNotPresent))),
		waits("config-missing", 30*time.Second, job("exit 0", variable("nosuch", "a"))),
		waits("config-missing-key", 40*time.Second, job("exit 0", variable("conf", "nosuch")), func(s *scene) error {
			conf := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf"}, Data: map[string]string{"a": "b"}}
			_, err := s.client.CoreV1().ConfigMaps(s.namespace).Create(s.ctx, conf, metav1.CreateOptions{})
			return err
		}),
		waits("volume-missing-configmap", 30*time.Second, job("exit 0", volume(corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "nosuch"}},
		}))),
		waits("pvc-missing", 20*time.Second, job("exit 0", claim("nosuch"))),
		waits("unschedulable", 20*time.Second, job("exit 0", nowhere)),
		waits("unschedulable-taint", 10*time.Second, job("exit 0", podSpec(func(p *corev1.PodSpec) { p.Tolerations = nil }))),
		waits("service-account-missing", 35*time.Second, job("exit 0", podSpec(func(p *corev1.PodSpec) { p.ServiceAccountName = "nosuch" }))),
		waits("quota", 35*time.Second, job("exit 0"), noPods),

		ends("deadline-running", job(deaf, deadline)),
		ends("deadline-running-obeys", job(obeys, deadline)),
		ends("deadline-running-exits-0", job(obeys0, deadline)),
		ends("deadline-image-pull", job("exit 0", image("team/nosuch:1", corev1.PullIfNotPresent), deadline)),
		ends("deadline-unschedulable", job("exit 0", nowhere, deadline)),

		whileRunning("job-deleted-background", job(deaf), deleteJob(metav1.DeletePropagationBackground), podWent),
		whileRunning("job-deleted-foreground", job(obeys), deleteJob(metav1.DeletePropagationForeground), podWent),
		whileRunning("pod-deleted", job(deaf), deletePod, (*scene).finished),
		whileRunning("pod-deleted-obeys", job(obeys), deletePod, (*scene).finished),
		whileRunning("pod-deleted-exits-0", job(obeys0), deletePod, (*scene).finished),
		whileRunning("pod-evicted", job(obeys), func(s *scene, p *corev1.Pod) error {
			s.recorder.action("evict pod (policy/v1 Eviction)")
			return s.client.CoreV1().Pods(s.namespace).EvictV1(s.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: s.namespace}})
		}, (*scene).finished),
		// The kubelet looks at what is used each 10 s.
		ends("pod-evicted-by-kubelet", job("dd if=/dev/zero of=/tmp/much bs=1M count=20; trap 'exit 143' TERM; sleep 300 & wait", container(func(c *corev1.Container) {
			c.Resources.Limits[corev1.ResourceEphemeralStorage] = resource.MustParse("1Mi")
		}))),
		whileRunning("suspended-while-running", job(obeys), func(s *scene, _ *corev1.Pod) error {
			s.recorder.action("set suspend true")
			return s.patchJob(types.MergePatchType, `{"spec":{"suspend":true}}`)
		}, podWent),
		{name: "suspended-deleted", run: func(s *scene) error {
			if err := s.create(job("exit 0", func(j *batchv1.Job) { j.Spec.Suspend = new(true) })); err != nil {
				return err
			}
			pause(s.ctx, 5*time.Second)
			err := deleteJob(metav1.DeletePropagationBackground)(s, nil)
			pause(s.ctx, 3*time.Second)
			return err
		}},
		whileRunning("namespace-deleted", job(obeys), func(s *scene, _ *corev1.Pod) error {
			s.recorder.action("delete namespace")
			return s.client.CoreV1().Namespaces().Delete(s.ctx, s.namespace, metav1.DeleteOptions{})
		}, func(s *scene) { s.went("Job") }),

		{name: "finalizer-ttl", run: finalizerTTL},
		finalizerDeleted("finalizer-job-deleted-background", metav1.DeletePropagationBackground),
		finalizerDeleted("finalizer-job-deleted-foreground", metav1.DeletePropagationForeground),

		{name: "node-lost", alone: true, run: func(s *scene) error { return nodeLost(s, true) }},
		{name: "node-lost-for-good", alone: true, run: func(s *scene) error { return nodeLost(s, false) }},
		{name: "kubelet-restart", alone: true, run: kubeletStandsStill},
	}
}

// ends is a Job that ends by itself.
func ends(name string, j *batchv1.Job) labCase {
	return labCase{name: name, run: func(s *scene) error {
		if err := s.create(j); err != nil {
			return err
		}
		s.finished()
		return nil
	}}
}

// waits is a Job that never ends, recorded for a time. What it needs comes first.
func waits(name string, d time.Duration, j *batchv1.Job, needs ...func(*scene) error) labCase {
	return labCase{name: name, run: func(s *scene) error {
		for _, make := range needs {
			if err := make(s); err != nil {
				return err
			}
		}
		if err := s.create(j); err != nil {
			return err
		}
		pause(s.ctx, d)
		return nil
	}}
}

// whileRunning does something to a Job whose Pod runs, and waits for what comes
// of it.
func whileRunning(name string, j *batchv1.Job, do func(*scene, *corev1.Pod) error, then func(*scene)) labCase {
	return labCase{name: name, run: func(s *scene) error {
		if err := s.create(j); err != nil {
			return err
		}
		p, err := s.running()
		if err != nil {
			return err
		}
		if err := do(s, p); err != nil {
			return err
		}
		then(s)
		return nil
	}}
}

func podWent(s *scene) { s.went("Pod") }

func deletePod(s *scene, p *corev1.Pod) error {
	s.recorder.action("delete pod")
	return s.client.CoreV1().Pods(s.namespace).Delete(s.ctx, p.Name, metav1.DeleteOptions{})
}

func deleteJob(how metav1.DeletionPropagation) func(*scene, *corev1.Pod) error {
	return func(s *scene, _ *corev1.Pod) error {
		s.recorder.action("delete job, propagationPolicy %s", how)
		return s.client.BatchV1().Jobs(s.namespace).Delete(s.ctx, "job", metav1.DeleteOptions{PropagationPolicy: &how})
	}
}

// noPods makes a quota of no Pods and waits until it is in force.
func noPods(s *scene) error {
	quotas := s.client.CoreV1().ResourceQuotas(s.namespace)
	_, err := quotas.Create(s.ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	s.until("the quota is in force", func() bool {
		q, err := quotas.Get(s.ctx, "none", metav1.GetOptions{})
		return err == nil && len(q.Status.Hard) > 0
	})
	return nil
}

// seedJob is the original's sample: it writes through a claim, with an image
// that has neither tag nor pull policy.
func seedJob(s *scene) error {
	dir := filepath.Join(s.state, "hostpath", s.namespace)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	_, err := s.client.CoreV1().PersistentVolumes().Create(s.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: s.volume()},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef:               &corev1.ObjectReference{Namespace: s.namespace, Name: "ps-pvc"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().PersistentVolumeClaims(s.namespace).Create(s.ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "ps-pvc"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: new(""), VolumeName: s.volume(), Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	limits := container(func(c *corev1.Container) {
		c.Resources = corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("512Mi")}}
	})
	if err := s.create(job("echo Hello World && touch /workdir/was-here && sleep 30 && exit 0", claim("ps-pvc"), image("busybox", ""), limits)); err != nil {
		return err
	}
	s.finished()
	_, err = os.Stat(filepath.Join(dir, "was-here"))
	s.recorder.action("file written through the volume: %v", err == nil)
	return nil
}

// finalizerTTL is a Job with our finalizer whose TTL passes; the finalizer goes
// 6 s later.
func finalizerTTL(s *scene) error {
	if err := s.create(job("exit 0", ttl(3), finalizer)); err != nil {
		return err
	}
	s.until("TTL marks the Job as deleted", func() bool { return s.job != nil && s.job.DeletionTimestamp != nil })
	pause(s.ctx, 6*time.Second)
	j, err := s.client.BatchV1().Jobs(s.namespace).Get(s.ctx, "job", metav1.GetOptions{})
	if err != nil {
		return err
	}
	s.recorder.action("remove the finalizer %s; the Job has %v", kubejob.Finalizer, j.Finalizers)
	if i := slices.Index(j.Finalizers, kubejob.Finalizer); i >= 0 {
		at := fmt.Sprintf("/metadata/finalizers/%d", i)
		if err := s.patchJob(types.JSONPatchType, fmt.Sprintf(`[{"op":"test","path":%q,"value":%q},{"op":"remove","path":%q}]`, at, kubejob.Finalizer, at)); err != nil {
			return err
		}
	}
	s.went("Job")
	return nil
}

// finalizerDeleted deletes a running Job that has our finalizer. Its Pod would
// end by itself after 12 s.
func finalizerDeleted(name string, how metav1.DeletionPropagation) labCase {
	return whileRunning(name, job("trap 'exit 143' TERM; sleep 12 & wait; exit 0", finalizer), deleteJob(how), func(s *scene) {
		pause(s.ctx, 20*time.Second)
		s.recorder.action("remove all finalizers of the Job")
		if err := s.patchJob(types.MergePatchType, `{"metadata":{"finalizers":null}}`); err != nil {
			s.recorder.action("patch failed: %v", err)
		}
		pause(s.ctx, 5*time.Second)
	})
}

// nodeLost stops the kubelet while a Pod runs that tolerates it for 5 s, until
// the Pod is marked as deleted; then the kubelet goes on, or the Pod is deleted
// by force as an operator would.
func nodeLost(s *scene, back bool) error {
	tolerates := podSpec(func(p *corev1.PodSpec) {
		for _, key := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
			p.Tolerations = append(p.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(5))})
		}
	})
	if err := s.create(job(obeys, tolerates)); err != nil {
		return err
	}
	p, err := s.running()
	if err != nil {
		return err
	}
	if err := s.kubelet(syscall.SIGSTOP); err != nil {
		return err
	}
	stopped := true
	goOn := func() error {
		if !stopped {
			return nil
		}
		stopped = false
		return s.kubelet(syscall.SIGCONT)
	}
	defer func() { _ = goOn(); s.nodeReady() }()
	s.until("the Pod is marked as deleted", func() bool { return s.pods[p.Name].DeletionTimestamp != nil })
	pause(s.ctx, 15*time.Second)
	if back {
		err = goOn()
	} else {
		s.recorder.action("delete pod by force (grace period 0)")
		err = s.client.CoreV1().Pods(s.namespace).Delete(s.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	}
	s.finished()
	return err
}

// kubeletStandsStill while a Pod ends, for less than the node's grace period.
func kubeletStandsStill(s *scene) error {
	if err := s.create(job("sleep 4; exit 3")); err != nil {
		return err
	}
	if _, err := s.running(); err != nil {
		return err
	}
	if err := s.kubelet(syscall.SIGSTOP); err != nil {
		return err
	}
	pause(s.ctx, 10*time.Second)
	err := s.kubelet(syscall.SIGCONT)
	s.finished()
	return err
}

// job is the usual Job: one busybox container with a command line for sh, as
// the original makes them.
func job(script string, change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(0)), TTLSecondsAfterFinished: new(int32(60)),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				Tolerations:   []corev1.Toleration{{Key: "key", Operator: corev1.TolerationOpEqual, Value: "value", Effect: corev1.TaintEffectNoSchedule}},
				Containers: []corev1.Container{{
					Name: "main", Image: "busybox", ImagePullPolicy: corev1.PullIfNotPresent, Command: shell(script),
					Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
						Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi")},
					},
				}},
			}},
		},
	}
	for _, c := range change {
		c(j)
	}
	return j
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

func podSpec(change func(*corev1.PodSpec)) func(*batchv1.Job) {
	return func(j *batchv1.Job) { change(&j.Spec.Template.Spec) }
}

func container(change func(*corev1.Container)) func(*batchv1.Job) {
	return func(j *batchv1.Job) { change(&j.Spec.Template.Spec.Containers[0]) }
}

func image(name string, policy corev1.PullPolicy) func(*batchv1.Job) {
	return container(func(c *corev1.Container) { c.Image, c.ImagePullPolicy = name, policy })
}

func memory(limit string) func(*batchv1.Job) {
	return container(func(c *corev1.Container) { c.Resources.Limits[corev1.ResourceMemory] = resource.MustParse(limit) })
}

// variable is one of the environment, from a key of a ConfigMap.
func variable(configMap, key string) func(*batchv1.Job) {
	return container(func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: configMap}, Key: key,
		}}}}
	})
}

func volume(source corev1.VolumeSource) func(*batchv1.Job) {
	return podSpec(func(p *corev1.PodSpec) {
		p.Volumes = []corev1.Volume{{Name: "workdir", VolumeSource: source}}
		p.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "workdir", MountPath: "/workdir"}}
	})
}

func claim(name string) func(*batchv1.Job) {
	return volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}})
}

// nowhere is a node selector that no node has.
func nowhere(j *batchv1.Job) {
	j.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "nosuch"}
}

func finalizer(j *batchv1.Job) { j.Finalizers = []string{kubejob.Finalizer} }

func ttl(seconds int32) func(*batchv1.Job) {
	return func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = &seconds }
}

// deadline is one of 5 s.
func deadline(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(5)) }
