// Package kubejob turns an accepted request into its Kubernetes Job, and holds
// the names that stand on it. It is pure, and panics on no input.
package kubejob

import (
	"errors"
	"fmt"
	"path"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// defaultContainer is the container's name where the service cannot be one.
const defaultContainer = "job"

// Build is the Job of a request, complete, under one of the names that Name and
// LongName give. Defaults are the request's: none is filled in here.
//
// A request that package request accepted is always built, unless the
// installation's name is no label value. Any other is an error where a quantity
// cannot be read or there is no job in it.
//
// Kubernetes expands $(VAR) in command, args and the values of env, with the
// variables of the same container; $$(VAR) is the way out. The text is handed
// through as it was sent, as the original does.
func Build(r *jobsv1.JobRequested, installation, name string) (*batchv1.Job, error) {
	j := r.GetJob()
	if j == nil {
		return nil, errors.New("kubejob: the request has no job")
	}
	if len(validation.IsValidLabelValue(installation)) > 0 {
		return nil, fmt.Errorf("kubejob: the installation's name %q must be a Kubernetes label value", installation)
	}
	resources, err := resourcesOf(j.GetResources())
	if err != nil {
		return nil, err
	}
	labels := func() map[string]string { // two maps: who changes one must not change the other
		return map[string]string{
			LabelApp:          r.GetService(),
			LabelKey:          event.Key(r.GetId()),
			LabelInstallation: installation,
		}
	}
	volumes, mounts := volumeOf(j.GetVolume())
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Namespace:   j.GetNamespace(),
			Labels:      labels(),
			Annotations: annotationsOf(r),
			Finalizers:  []string{Finalizer},
		},
		Spec: batchv1.JobSpec{
			BackoffLimit:            new(j.GetBackoffLimit()),
			ActiveDeadlineSeconds:   new(int64(j.GetActiveDeadlineSeconds())),
			TTLSecondsAfterFinished: new(j.GetTtlSecondsAfterFinished()),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels()},
				Spec: corev1.PodSpec{
					RestartPolicy:      corev1.RestartPolicyNever,
					ServiceAccountName: j.GetServiceAccount(),
					Containers: []corev1.Container{{
						Name:         containerName(r.GetService()),
						Image:        j.GetImage(),
						Command:      j.GetCommand(),
						Args:         j.GetArgs(),
						Env:          envOf(j.GetEnv()),
						Resources:    resources,
						VolumeMounts: mounts,
					}},
					Affinity:    affinityOf(j.GetNodeSelector()),
					Tolerations: tolerationsOf(j.GetToleration()),
					Volumes:     volumes,
				},
			},
		},
	}, nil
}

// Matches reports whether a Job, found under one of the request's names, is the
// one that Build makes of the request: then it is adopted. A label alone proves
// nothing; the namespace, the id, its key, the installation and the request's
// hash must all be equal, and a request without a hash matches nothing.
func Matches(job *batchv1.Job, r *jobsv1.JobRequested, installation string) bool {
	return job != nil && r.GetHash() != "" &&
		job.Namespace == r.GetJob().GetNamespace() &&
		job.Annotations[AnnotationID] == r.GetId() &&
		job.Annotations[AnnotationHash] == r.GetHash() &&
		job.Labels[LabelKey] == event.Key(r.GetId()) &&
		job.Labels[LabelInstallation] == installation
}

func annotationsOf(r *jobsv1.JobRequested) map[string]string {
	out := map[string]string{AnnotationID: r.GetId(), AnnotationHash: r.GetHash()}
	if at := r.GetQueuedAt(); at.IsValid() {
		out[AnnotationQueuedAt] = at.AsTime().Format("2006-01-02T15:04:05.000Z07:00")
	}
	return out
}

func containerName(service string) string {
	if len(validation.IsDNS1123Label(service)) > 0 {
		return defaultContainer
	}
	return service
}

func envOf(vars []*jobsv1.EnvVar) []corev1.EnvVar {
	var out []corev1.EnvVar
	for _, v := range vars {
		out = append(out, corev1.EnvVar{Name: v.GetName(), Value: v.GetValue()})
	}
	return out
}

func resourcesOf(r *jobsv1.Resources) (out corev1.ResourceRequirements, err error) {
	if out.Limits, err = quantitiesOf(r.GetLimits()); err != nil {
		return out, fmt.Errorf("kubejob: resources.limits: %w", err)
	}
	if out.Requests, err = quantitiesOf(r.GetRequests()); err != nil {
		return out, fmt.Errorf("kubejob: resources.requests: %w", err)
	}
	return out, nil
}

func quantitiesOf(q *jobsv1.Quantities) (corev1.ResourceList, error) {
	var out corev1.ResourceList
	add := func(name corev1.ResourceName, text string) error {
		if text == "" {
			return nil
		}
		amount, err := request.ParseQuantity(text)
		if err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		if out == nil {
			out = corev1.ResourceList{}
		}
		out[name] = amount
		return nil
	}
	return out, errors.Join(add(corev1.ResourceCPU, q.GetCpu()), add(corev1.ResourceMemory, q.GetMemory()))
}

func affinityOf(s *jobsv1.NodeSelector) *corev1.Affinity {
	if s == nil {
		return nil
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key:      s.GetMatchKey(),
					Operator: corev1.NodeSelectorOpIn,
					Values:   []string{s.GetMatchValue()},
				}},
			}},
		},
	}}
}

// tolerationsOf leaves the effect empty, which stands for every effect.
func tolerationsOf(t *jobsv1.Toleration) []corev1.Toleration {
	if t == nil {
		return nil
	}
	return []corev1.Toleration{{Key: t.GetKey(), Operator: corev1.TolerationOpEqual, Value: t.GetValue()}}
}

func volumeOf(v *jobsv1.Volume) ([]corev1.Volume, []corev1.VolumeMount) {
	if v == nil {
		return nil, nil
	}
	claim := corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: v.GetPvc()},
	}
	return []corev1.Volume{{Name: VolumeName, VolumeSource: claim}},
		[]corev1.VolumeMount{{Name: VolumeName, MountPath: path.Clean("/" + v.GetMountPath())}}
}
