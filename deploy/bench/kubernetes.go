package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
	"github.com/jobrelay/jobrelay/pkg/process"
)

// kube is a cluster, and a namespace of the run in it.
type kube struct {
	kubeconfig, namespace string
	client                kubernetes.Interface
	metadata              metadata.Interface
	own                   bool // started by the run, and gone with it
}

// kubernetes starts a control plane for the run, or uses the one of
// --kubeconfig, and makes a namespace in which Pods can be created.
func (s *stage) kubernetes(ctx context.Context) (*kube, error) {
	k := &kube{kubeconfig: s.kubeconfig, own: s.kubeconfig == ""}
	if k.own {
		done := s.during("starting Kubernetes")
		c, err := kubed.Start(ctx, kubed.Config{Binary: filepath.Join(s.bin, "kubernetes"), Dir: filepath.Join(s.dir, "kubernetes")})
		done()
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, func() error { return c.Stop(context.Background()) })
		k.kubeconfig = c.Kubeconfig()
	}
	config, err := cluster.Config(k.kubeconfig, "bench", process.Version())
	if err != nil {
		return nil, err
	}
	if k.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if k.metadata, err = metadata.NewForConfig(config); err != nil {
		return nil, err
	}
	made, err := k.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	k.namespace = made.Name
	if !k.own {
		s.closers = append(s.closers, func() error { return k.clear(s) })
	}
	for {
		_, err := k.client.CoreV1().ServiceAccounts(k.namespace).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return k, err
		}
		if err := process.Sleep(ctx, look); err != nil {
			return nil, err
		}
	}
}

// forbidPods makes a quota that allows no Pods in the run's namespace, and waits
// until it holds.
func (k *kube) forbidPods(ctx context.Context) error {
	quotas := k.client.CoreV1().ResourceQuotas(k.namespace)
	q, err := quotas.Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "no-pods"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	for err == nil && len(q.Status.Hard) == 0 {
		if err := process.Sleep(ctx, look); err != nil {
			return err
		}
		q, err = quotas.Get(ctx, "no-pods", metav1.GetOptions{})
	}
	return err
}

// clearMost bounds the removal of a run's Jobs from a cluster of one's own.
const clearMost = 2 * time.Minute

// clear takes the finalizers off the run's Jobs, and deletes the namespace.
func (k *kube) clear(s *stage) error {
	defer s.during("removing the Jobs")()
	ctx, cancel := context.WithTimeout(context.Background(), clearMost)
	defer cancel()
	jobs := k.client.BatchV1().Jobs(k.namespace)
	list, err := jobs.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	group, inGroup := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, j := range list.Items {
		group.Go(func() error {
			_, err := jobs.Patch(inGroup, j.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			return err
		})
	}
	return errors.Join(group.Wait(), k.client.CoreV1().Namespaces().Delete(ctx, k.namespace, metav1.DeleteOptions{}))
}

// counts are the API server's own metrics.
func (k *kube) counts(ctx context.Context) (samples, error) {
	b, err := k.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	return readSamples(bytes.NewReader(b))
}

// writes are the calls that changed a Job as such; the Job controller's go to
// its status.
func (s samples) writes() float64 {
	total := 0.0
	for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY"} {
		total += s.sum("apiserver_request_total", "group", batchv1.GroupName, "resource", "jobs", "subresource", "", "verb", verb)
	}
	return total
}

// jobs counts the Jobs of the run's namespace by a list of one, which tells how
// many remain: it costs the API server little, and both sides the same.
func (k *kube) jobs(ctx context.Context) (int, error) {
	list, err := k.metadata.Resource(batchv1.SchemeGroupVersion.WithResource("jobs")).Namespace(k.namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	n := len(list.Items)
	if list.RemainingItemCount != nil {
		n += int(*list.RemainingItemCount)
	}
	return n, nil
}
