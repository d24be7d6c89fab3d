package main

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

const (
	// simulatedLabel is "true" on the nodes whose kubelet is kwok.
	simulatedLabel = "jobrelay.dev/simulated"

	claimNamespace = "default"
	claimName      = "ps-pvc"
	volumeName     = "jobrelay-dev-ps-pvc"
)

// simulatedNodes are the nodes and their taints. The sample request selects the
// first by its host name and tolerates its taint; all else runs on the second.
var simulatedNodes = []struct {
	name   string
	taints []corev1.Taint
}{
	{"k8s-node-1", []corev1.Taint{{Key: "key", Value: "value", Effect: corev1.TaintEffectNoSchedule}}},
	{"k8s-node-2", nil},
}

// ensureObjects makes the nodes and the sample's claim, or mends those that
// are there.
func ensureObjects(ctx context.Context, client kubernetes.Interface, dir folder) error {
	for _, node := range simulatedNodes {
		if err := ensureNode(ctx, client, node.name, node.taints); err != nil {
			return fmt.Errorf("node %s: %w", node.name, err)
		}
	}
	if err := ensureClaim(ctx, client, dir); err != nil {
		return fmt.Errorf("claim %s/%s: %w", claimNamespace, claimName, err)
	}
	return nil
}

// objectsReady reports whether the nodes can take Pods, the claim is bound, and
// Pods can be created in the default namespace.
func objectsReady(ctx context.Context, client kubernetes.Interface) (bool, error) {
	for _, want := range simulatedNodes {
		node, err := client.CoreV1().Nodes().Get(ctx, want.name, metav1.GetOptions{})
		if err != nil || slices.ContainsFunc(node.Spec.Taints, isNotReadyTaint) {
			return false, err
		}
		if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return false, nil
		}
	}
	claim, err := client.CoreV1().PersistentVolumeClaims(claimNamespace).Get(ctx, claimName, metav1.GetOptions{})
	if err != nil || claim.Status.Phase != corev1.ClaimBound {
		return false, err
	}
	_, err = client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// ensureNode makes a node that admission then marks as not ready. That taint is
// taken off at once, so that the first Pod need not wait for a controller.
func ensureNode(ctx context.Context, client kubernetes.Interface, name string, taints []corev1.Taint) error {
	nodes := client.CoreV1().Nodes()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("4Ti"),
		corev1.ResourceEphemeralStorage: resource.MustParse("10Ti"), corev1.ResourcePods: resource.MustParse("10000"),
	}
	labels := map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", simulatedLabel: "true",
	}
	_, err := nodes.Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.NodeSpec{Taints: taints},
		Status:     corev1.NodeStatus{Capacity: capacity, Allocatable: capacity},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		for key, value := range labels {
			node.Labels[key] = value
		}
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, isNotReadyTaint)
		for _, taint := range taints {
			if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
				node.Spec.Taints = append(node.Spec.Taints, taint)
			}
		}
		_, err = nodes.Update(ctx, node, metav1.UpdateOptions{})
		return err
	})
}

func isNotReadyTaint(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }

// ensureClaim makes the claim of the sample request and a volume for it, since
// nothing here provisions volumes. A volume whose claim was deleted is freed
// for the new one.
func ensureClaim(ctx context.Context, client kubernetes.Interface, dir folder) error {
	noClass := ""
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	create := corev1.HostPathDirectoryOrCreate
	volumes := client.CoreV1().PersistentVolumes()
	_, err := volumes.Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volumeName},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claimNamespace, Name: claimName},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: dir.path("volumes/" + claimName), Type: &create},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = client.CoreV1().PersistentVolumeClaims(claimNamespace).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claimName},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &noClass, VolumeName: volumeName, AccessModes: modes,
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		volume, err := volumes.Get(ctx, volumeName, metav1.GetOptions{})
		if err != nil || volume.Status.Phase != corev1.VolumeReleased || volume.Spec.ClaimRef == nil {
			return err
		}
		volume.Spec.ClaimRef.UID, volume.Spec.ClaimRef.ResourceVersion = "", ""
		_, err = volumes.Update(ctx, volume, metav1.UpdateOptions{})
		return err
	})
}
