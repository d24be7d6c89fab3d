package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// nodeFlags name the node.
type nodeFlags struct {
	Node string `name:"node" env:"-" default:"real-node" help:"The node's name."`
}

type kubeconfigCommand struct {
	clusterFlags `embed:""`
	nodeFlags    `embed:""`

	Out string `name:"out" env:"-" required:"" placeholder:"FILE" help:"Where to write."`
}

// Run writes a kubeconfig with the administrator's credentials that impersonates
// the node: the API server then sees user system:node:NAME of group
// system:nodes, and the Node authorizer limits it.
func (k *kubeconfigCommand) Run() error {
	config, err := clientcmd.LoadFromFile(k.Kubeconfig)
	if err != nil {
		return err
	}
	if err := clientcmd.ResolveLocalPaths(config); err != nil {
		return err
	}
	current, ok := config.Contexts[config.CurrentContext]
	if !ok {
		return fmt.Errorf("%s has no current context", k.Kubeconfig)
	}
	user, ok := config.AuthInfos[current.AuthInfo]
	if !ok {
		return fmt.Errorf("%s has no user %q", k.Kubeconfig, current.AuthInfo)
	}
	user.Impersonate, user.ImpersonateGroups = "system:node:"+k.Node, []string{"system:nodes"}
	if err := os.MkdirAll(filepath.Dir(k.Out), 0o700); err != nil {
		return err
	}
	return clientcmd.WriteToFile(*config, k.Out)
}

type waitCommand struct {
	clusterFlags `embed:""`
	nodeFlags    `embed:""`

	Taint   string        `name:"taint" env:"-" placeholder:"KEY=VALUE:EFFECT" help:"The one taint that the node is to have."`
	Timeout time.Duration `name:"timeout" env:"-" default:"90s" help:"How long to wait."`
	Since   int64         `name:"since" env:"-" help:"When the kubelet began, in Unix seconds: older news of the node do not count."`
	PID     int           `name:"pid" env:"-" help:"The kubelet's: give up when it is gone."`
}

func (w *waitCommand) Run(ctx context.Context) error {
	client, _, err := w.clients()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	last := "it is not there"
	for ; ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		n, err := client.CoreV1().Nodes().Get(ctx, w.Node, metav1.GetOptions{})
		if err == nil {
			var ready bool
			if ready, last = w.ready(n); ready {
				return setTaint(ctx, client, n, w.Taint)
			}
		}
		if w.PID > 0 && syscall.Kill(w.PID, 0) != nil {
			return errors.New("the kubelet has ended")
		}
	}
	return fmt.Errorf("node %s is not ready: %s", w.Node, last)
}

// ready reports whether a node says so now, and may take Pods; else why not.
// The node of an earlier run may still say Ready.
func (w *waitCommand) ready(n *corev1.Node) (bool, string) {
	for _, t := range n.Spec.Taints {
		if strings.HasPrefix(t.Key, lifecycleTaints) {
			return false, "it has the taint " + t.Key
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(time.Unix(w.Since, 0)), c.Message
		}
	}
	return false, "it does not say"
}

// lifecycleTaints begins the taints of a node that Kubernetes itself sets.
const lifecycleTaints = "node.kubernetes.io/"

// setTaint makes a node have the taint asked for, or none.
func setTaint(ctx context.Context, client kubernetes.Interface, n *corev1.Node, want string) error {
	taints := []corev1.Taint{}
	if want != "" {
		name, effect, ok := strings.Cut(want, ":")
		if !ok {
			return fmt.Errorf("--taint %s is not KEY=VALUE:EFFECT", want)
		}
		key, value, _ := strings.Cut(name, "=")
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": taints}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
