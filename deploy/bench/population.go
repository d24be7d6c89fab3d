package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// population is Jobs in a cluster that no controller touches: what happens to
// them is what the bench writes.
type population struct {
	*kube

	requests []*jobsv1.JobRequested
	jobs     []*batchv1.Job
	pods     []*corev1.Pod // one of each Job where they are asked for
}

// managedBy keeps the Job controller off a Job.
const managedBy = "jobrelay.dev/bench"

// populate makes n Jobs of an installation, each with a running Pod or without.
func (k *kube) populate(ctx context.Context, s *stage, installation string, n int, phase corev1.PodPhase) (*population, error) {
	defer s.during("creating %d Jobs", n)()
	p := &population{kube: k, requests: make([]*jobsv1.JobRequested, n), jobs: make([]*batchv1.Job, n)}
	if phase != "" {
		p.pods = make([]*corev1.Pod, n)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creationInFlight)
	for i := range n {
		group.Go(func() (err error) {
			if p.requests[i], err = requestOf(i, k.namespace); err != nil {
				return err
			}
			p.jobs[i], err = k.job(ctx, p.requests[i], installation, phase == corev1.PodRunning)
			if err == nil && phase != "" {
				p.pods[i], err = k.pod(ctx, p.jobs[i], phase)
			}
			return err
		})
	}
	return p, group.Wait()
}

func (k *kube) job(ctx context.Context, r *jobsv1.JobRequested, installation string, active bool) (*batchv1.Job, error) {
	job, err := kubejob.Build(r, installation, kubejob.LongName(r.GetJob().GetPrefixName(), r.GetId())) // 100,000 short ones are not all different
	if err != nil {
		return nil, err
	}
	job.Spec.ManagedBy = new(managedBy)
	jobs := k.client.BatchV1().Jobs(k.namespace)
	if job, err = jobs.Create(ctx, job, metav1.CreateOptions{}); err != nil || !active {
		return job, err
	}
	now := metav1.Now()
	job.Status = batchv1.JobStatus{StartTime: &now, Active: 1, Ready: new(int32(1)), UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}}
	return jobs.UpdateStatus(ctx, job, metav1.UpdateOptions{})
}

// pod is a Job's Pod as the Job controller makes it, on no node.
func (k *kube) pod(ctx context.Context, job *batchv1.Job, phase corev1.PodPhase) (*corev1.Pod, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: job.Name + "-", Labels: job.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: *job.Spec.Template.Spec.DeepCopy(),
	}
	pod.Spec.SchedulerName = "none"
	pods := k.client.CoreV1().Pods(k.namespace)
	pod, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil || phase != corev1.PodRunning {
		return pod, err
	}
	return pods.UpdateStatus(ctx, running(pod), metav1.UpdateOptions{})
}

// running is a Pod as the kubelet shows it once its container runs.
func running(p *corev1.Pod) *corev1.Pod {
	p = p.DeepCopy()
	now := metav1.Now()
	p.Status.Phase, p.Status.StartTime, p.Status.PodIP, p.Status.HostIP = corev1.PodRunning, &now, "10.0.0.7", "192.0.2.2"
	p.Status.Conditions = nil
	for _, t := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	p.Status.ContainerStatuses = nil
	for _, c := range p.Spec.Containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: new(true),
			ImageID: "docker.io/library/busybox@sha256:" + fmt.Sprintf("%064x", 7), ContainerID: "containerd://" + fmt.Sprintf("%064x", 8),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return p
}

// logged writes what the pipeline would have written until now: the requests and
// the events of Jobs that exist, and of their Pods where those run.
func (p *population) logged(ctx context.Context, s *stage, nats natsServer, podsRun bool) error {
	defer s.during("writing %d logs", len(p.jobs))()
	b, err := broker.Open(ctx, broker.Config{URL: nats.url, Role: "bench", Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		return err
	}
	defer b.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i, job := range p.jobs {
		group.Go(func() error {
			r := p.requests[i]
			key := event.Key(r.GetId())
			accepted, err := event.New(key, event.SourceOfQueue(installation, queueName), r.GetId(), 0, time.Now(), r)
			if err != nil {
				return err
			}
			if err := b.Accept(ctx, accepted); err != nil {
				return err
			}
			data := []jobstatus.Event{jobstatus.Started(job, r)}
			if podsRun {
				pod := p.pods[i]
				data = append(data, &jobsv1.PodStarted{
					JobId: string(job.UID), JobName: job.Name, Namespace: job.Namespace, PodId: string(pod.UID), PodName: pod.Name,
				})
			}
			var tail broker.Tail
			for _, d := range data {
				e, err := event.New(key, event.SourceOfNamespace(installation, job.Namespace), r.GetId(), 0, time.Now(), d)
				if err != nil {
					return err
				}
				if tail, err = b.Append(ctx, r.GetService(), tail, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
