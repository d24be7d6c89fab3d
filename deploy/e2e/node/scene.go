package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/jobrelay/jobrelay/pkg/recording"
)

type casesCommand struct {
	clusterFlags `embed:""`
	nodeFlags    `embed:""`

	Out      string   `name:"out" env:"-" required:"" placeholder:"DIR" help:"The folder that the recordings are written to."`
	State    string   `name:"node-dir" env:"-" required:"" placeholder:"DIR" help:"The folder that up.sh was given."`
	Only     []string `name:"only" env:"-" sep:"," placeholder:"CASE" help:"The cases to record, with commas; default: all."`
	Parallel int      `name:"parallel" env:"-" default:"3" help:"Cases at a time; those that stop the kubelet run alone."`
}

// Validate says what is wrong with the flags; kong calls it.
func (c *casesCommand) Validate() error {
	if c.Parallel < 1 {
		return errors.New("--parallel takes 1 or more")
	}
	for _, name := range c.Only {
		if !slices.ContainsFunc(cases(), func(k labCase) bool { return k.name == name }) {
			return fmt.Errorf("there is no case %s", name)
		}
	}
	return nil
}

// Run records the cases, then those that need the node for themselves.
func (c *casesCommand) Run(ctx context.Context) error {
	client, objects, err := c.clients()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o750); err != nil {
		return err
	}
	var mu sync.Mutex
	var failed []error
	one := func(k labCase) {
		began := time.Now()
		err := c.record(ctx, client, objects, k)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", k.name, err))
		}
		fmt.Printf("%-32s %6.1fs %v\n", k.name, time.Since(began).Seconds(), err)
	}
	slots := make(chan struct{}, c.Parallel)
	var others sync.WaitGroup
	var alone []labCase
	for _, k := range cases() {
		switch {
		case len(c.Only) > 0 && !slices.Contains(c.Only, k.name):
		case k.alone:
			alone = append(alone, k)
		default:
			slots <- struct{}{}
			others.Go(func() { defer func() { <-slots }(); one(k) })
		}
	}
	others.Wait()
	for _, k := range alone {
		one(k)
	}
	return errors.Join(failed...)
}

// record makes one case happen, in a namespace of its own that is watched from
// before the first object.
func (c *casesCommand) record(ctx context.Context, client kubernetes.Interface, objects dynamic.Interface, k labCase) error {
	s := &scene{
		ctx: ctx, client: client, namespace: "lab-" + k.name, node: c.Node, state: c.State,
		pods: map[string]*corev1.Pod{}, gone: map[string]bool{},
	}
	if err := s.makeNamespace(); err != nil {
		return err
	}
	defer s.clean()
	file, err := os.Create(filepath.Join(c.Out, k.name+".jsonl"))
	if err != nil {
		return err
	}
	if s.recorder, err = record(ctx, objects, s.namespace, file, s.see); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(k.run(s), s.recorder.close())
}

// scene is where a case happens.
type scene struct {
	ctx       context.Context
	client    kubernetes.Interface
	namespace string
	node      string
	state     string // the folder of up.sh
	recorder  *recorder

	mu   sync.Mutex
	job  *batchv1.Job // as last seen
	pods map[string]*corev1.Pod
	gone map[string]bool // kinds of which the last object went
}

func (s *scene) see(l recording.Line, o *unstructured.Unstructured) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone[o.GetKind()] = l.Type == recording.Deleted
	switch o.GetKind() {
	case "Job":
		var job batchv1.Job
		if json.Unmarshal(l.Object, &job) == nil {
			s.job = &job
		}
	case "Pod":
		var pod corev1.Pod
		if json.Unmarshal(l.Object, &pod) == nil {
			s.pods[pod.Name] = &pod
		}
	}
}

// most is how long is waited for what is to come.
const most = 2 * time.Minute

// until waits for ok, and records where it did not come.
func (s *scene) until(what string, ok func() bool) {
	for end := time.Now().Add(most); time.Now().Before(end) && s.ctx.Err() == nil; pause(s.ctx, 20*time.Millisecond) {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
	}
	s.recorder.action("did not come in %s: %s", most, what)
}

// finished waits for the end of the Job and then for stragglers.
func (s *scene) finished() {
	s.until("the Job finished", func() bool {
		return s.job != nil && slices.ContainsFunc(s.job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		})
	})
	pause(s.ctx, 3*time.Second)
}

// went waits until there is no object of a kind any more, and then for
// stragglers.
func (s *scene) went(kind string) {
	s.until("the "+kind+" is gone", func() bool { return s.gone[kind] })
	pause(s.ctx, 3*time.Second)
}

var errNothingRuns = errors.New("no Pod runs")

// running waits for a Pod that runs.
func (s *scene) running() (*corev1.Pod, error) {
	var running *corev1.Pod
	s.until("a Pod runs", func() bool {
		for _, p := range s.pods {
			if p.Status.Phase == corev1.PodRunning {
				running = p
			}
		}
		return running != nil
	})
	if running == nil {
		return nil, errNothingRuns
	}
	pause(s.ctx, time.Second)
	return running, nil
}

func (s *scene) create(j *batchv1.Job) error {
	if s.node != "" && j.Spec.Template.Spec.NodeSelector == nil {
		j.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: s.node}
	}
	_, err := s.client.BatchV1().Jobs(s.namespace).Create(s.ctx, j, metav1.CreateOptions{})
	return err
}

func (s *scene) patchJob(t types.PatchType, patch string) error {
	_, err := s.client.BatchV1().Jobs(s.namespace).Patch(s.ctx, "job", t, []byte(patch), metav1.PatchOptions{})
	return err
}

// kubelet sends the kubelet a signal.
func (s *scene) kubelet(signal syscall.Signal) error {
	b, err := os.ReadFile(filepath.Join(s.state, "run", "kubelet.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("kubelet.pid has %q", b)
	}
	s.recorder.action("kubelet gets %s", signal)
	return syscall.Kill(pid, signal)
}

// nodeReady waits until Kubernetes holds nothing against the node any more.
func (s *scene) nodeReady() {
	s.until("the node is ready again", func() bool {
		n, err := s.client.CoreV1().Nodes().Get(s.ctx, s.node, metav1.GetOptions{})
		return err == nil && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return strings.HasPrefix(t.Key, lifecycleTaints) })
	})
}

// makeNamespace makes the namespace with what Pods need in it. One of an earlier
// run goes first.
func (s *scene) makeNamespace() error {
	ctx, cancel := context.WithTimeout(s.ctx, most)
	defer cancel()
	namespaces := s.client.CoreV1().Namespaces()
	for ; ; pause(ctx, 200*time.Millisecond) {
		_, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		if err := namespaces.Delete(ctx, s.namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	for ; ; pause(ctx, 50*time.Millisecond) {
		_, noAccount := s.client.CoreV1().ServiceAccounts(s.namespace).Get(ctx, "default", metav1.GetOptions{})
		_, noRoot := s.client.CoreV1().ConfigMaps(s.namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err := errors.Join(noAccount, noRoot); err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// clean takes away what the case left, as well as it can: the recording is over.
func (s *scene) clean() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 10*time.Second)
	defer cancel()
	_ = s.client.CoreV1().PersistentVolumes().Delete(ctx, s.volume(), metav1.DeleteOptions{})
	_, _ = s.client.BatchV1().Jobs(s.namespace).Patch(ctx, "job", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	_ = s.client.CoreV1().Namespaces().Delete(ctx, s.namespace, metav1.DeleteOptions{})
	for name := range s.pods {
		_ = s.client.CoreV1().Pods(s.namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))})
	}
}

// volume is the name of the volume that a case may make.
func (s *scene) volume() string { return "pv-" + s.namespace }
