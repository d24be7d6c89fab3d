package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// Release takes our finalizer off the Job, and nothing else, whatever else has
// changed. A Job without it needs nothing. Its error is the API's: NotFound, or
// Invalid where the Job is not as it was seen.
func Release(ctx context.Context, client kubernetes.Interface, job *batchv1.Job) error {
	i := slices.Index(job.Finalizers, kubejob.Finalizer)
	if i < 0 {
		return nil
	}
	at := fmt.Sprintf("/metadata/finalizers/%d", i)
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": job.UID},
		{"op": "test", "path": at, "value": kubejob.Finalizer},
		{"op": "remove", "path": at},
	})
	if err != nil {
		return err
	}
	_, err = client.BatchV1().Jobs(job.Namespace).Patch(ctx, job.Name, types.JSONPatchType, patch, metav1.PatchOptions{})
	return err
}

// Held is a Job that our finalizer holds.
type Held struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	ID        string    `json:"id,omitempty"`
	Created   time.Time `json:"created"`
	Ended     bool      `json:"ended"`    // Kubernetes gave it its end
	Deleting  bool      `json:"deleting"` // somebody deleted it

	job *batchv1.Job
}

// Release takes the finalizer off.
func (h Held) Release(ctx context.Context, client kubernetes.Interface) error {
	return Release(ctx, client, h.job)
}

// heldPage is how many Jobs are read at once.
const heldPage = 500

// HeldJobs calls see with each Job of an installation that our finalizer holds,
// in a namespace or in all (empty), until see returns an error.
func HeldJobs(ctx context.Context, client kubernetes.Interface, installation, namespace string, see func(Held) error) error {
	options := metav1.ListOptions{LabelSelector: labels.Set{kubejob.LabelInstallation: installation}.String(), Limit: heldPage}
	for {
		page, err := client.BatchV1().Jobs(namespace).List(ctx, options)
		if err != nil {
			return fmt.Errorf("list Jobs: %w", err)
		}
		for i := range page.Items {
			job := &page.Items[i]
			if !slices.Contains(job.Finalizers, kubejob.Finalizer) {
				continue
			}
			if err := see(Held{
				Namespace: job.Namespace, Name: job.Name, ID: job.Annotations[kubejob.AnnotationID], Created: job.CreationTimestamp.UTC(),
				Ended: finished(job), Deleting: job.DeletionTimestamp != nil, job: job,
			}); err != nil {
				return err
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil
		}
	}
}

func finished(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed)
	})
}
