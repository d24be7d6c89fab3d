//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/rs/zerolog"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/faults"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

// Nodes of the scene, beside the two of the local Kubernetes.
const (
	playedNode = "played" // without a kubelet: the test says what one would
	lostNode   = "lost"   // simulated, to be tainted
	small      = "small"  // simulated, with room for one Pod
)

// smallNode is a message's job for the small node, which it fills.
const smallNode = `,"nodeSelector":{"matchKey":"small","matchValue":"yes"},"toleration":{"key":"small","value":"yes"},"resources":{"limits":{"cpu":"1"}}`

// template is a policy's template of the Pod.
func template(pod string) string {
	return "jobTemplate: {spec: {template: {spec: {" + pod + "}}}}"
}

// scene is a whole stack, and a cluster in which every end can happen.
type scene struct {
	*faults.Stack

	t      *testing.T
	dir    string
	dev    *dev // for what it sends and awaits
	hooks  *receiver
	broker *broker.Broker
}

// newScene starts the parts; set starts the services.
func newScene(t *testing.T) *scene {
	t.Helper()
	none := map[faults.Role]int{}
	for _, role := range faults.Services() {
		none[role] = 0
	}
	dir := t.TempDir()
	stack, err := faults.Start(t.Context(), faults.Config{Dir: dir, Replicas: none, Env: []string{
		"KUBECONFIG=" + filepath.Join(dir, "services.kubeconfig"), "JOBRELAY_POLICY_FILE=" + filepath.Join(dir, "policy.yaml"),
		"JOBRELAY_START_DEADLINE=10s", "JOBRELAY_IMAGE_PULL_DEADLINE=5s", "JOBRELAY_UNSTARTABLE_DEADLINE=3s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, stack)
	producer := &dev{t: t, out: &tail{}, queue: sqs.New(sqs.Options{
		BaseEndpoint: &stack.SQSEndpoint, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	})}
	producer.SQS.QueueURL = stack.QueueURL
	return &scene{Stack: stack, t: t, dir: dir, dev: producer, hooks: newReceiver(t)}
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// jobrelay runs a command of the operator's.
func (s *scene) jobrelay(args ...string) {
	s.t.Helper()
	if out, code := run(s.t.Context(), append(args, "--nats-url", s.NATSURL), nil); code != 0 {
		s.t.Fatalf("jobrelay %s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
}

func (s *scene) message(e end) string {
	namespace, image := e.namespace, e.image
	if namespace == "" {
		namespace = "default"
	}
	if image == "" {
		image = "sim/hang"
	}
	return in(namespace, e.service(), message(e.id(), image, s.hooks.URL(), e.job))
}

// set makes what the ends need, then starts the services.
func (s *scene) set(ends []end) {
	s.t.Helper()
	s.namespaces()
	s.nodes(ends)
	s.admission()
	s.conflict(string(jobstatus.NameConflict))
	policy := "services:\n  urgent: {" + template("priorityClassName: high") + "}\n"
	for _, e := range append(ends, apiAway) {
		if e.kubelet.status != nil && e.rules == "" {
			e.rules = template("nodeName: " + playedNode)
		}
		if e.rules != "" {
			policy += "  " + e.service() + ": {" + e.rules + "}\n"
		}
	}
	s.must(os.WriteFile(filepath.Join(s.dir, "policy.yaml"), []byte(policy), 0o600))
	s.credentials("")
	for _, role := range faults.Services() {
		s.must(s.Scale(s.t.Context(), role, 1))
	}
	s.must(s.AwaitReady(s.t.Context()))
	reader, err := broker.Open(s.t.Context(), broker.Config{URL: s.NATSURL, Topology: broker.Verify, Role: "e2e"}, zerolog.Nop())
	s.must(err)
	s.t.Cleanup(reader.Close)
	s.broker = reader
	s.jobrelay("pause", end{code: jobstatus.LaunchExpired}.service())
}

// credentials writes the services' kubeconfig: with the token, or without one the
// administrator's.
func (s *scene) credentials(token string) {
	s.t.Helper()
	config, err := clientcmd.LoadFromFile(s.Kubeconfig)
	s.must(err)
	if token != "" {
		for name := range config.AuthInfos {
			config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
		}
	}
	s.must(clientcmd.WriteToFile(*config, filepath.Join(s.dir, "services.kubeconfig")))
}

func (s *scene) namespaces() {
	s.t.Helper()
	ctx, core := s.t.Context(), s.Client.CoreV1()
	for _, name := range []string{"policed", "terminating", "full", "measured", "mutated", "doomed"} {
		_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		s.must(err)
	}
	_, err := core.ConfigMaps("terminating").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/held"}}}, metav1.CreateOptions{})
	s.must(err)
	s.must(core.Namespaces().Delete(ctx, "terminating", metav1.DeleteOptions{}))
	for namespace, hard := range map[string]corev1.ResourceList{
		"full":     {"count/jobs.batch": resource.MustParse("0")},
		"measured": {corev1.ResourceLimitsMemory: resource.MustParse("1Gi")},
	} {
		_, err := core.ResourceQuotas(namespace).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "quota"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
		s.must(err)
		s.dev.eventually("the quota of "+namespace, time.Minute, func() bool {
			q, err := core.ResourceQuotas(namespace).Get(ctx, "quota", metav1.GetOptions{})
			return err == nil && len(q.Status.Hard) > 0
		})
	}
	for _, namespace := range []string{"measured", "mutated", "doomed"} {
		s.dev.eventually("the service account of "+namespace, time.Minute, func() bool {
			_, err := core.ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
			return err == nil
		})
	}
}

// nodes makes the scene's nodes, which nothing is scheduled to that does not ask
// for them, and plays the kubelet of one until the test ends.
func (s *scene) nodes(ends []end) {
	s.t.Helper()
	ctx := s.t.Context()
	for _, n := range []struct{ name, simulated, cpu string }{{playedNode, "false", "100"}, {lostNode, "true", "100"}, {small, "true", "1"}} {
		room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(n.cpu), corev1.ResourceMemory: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("100")}
		_, err := s.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{corev1.LabelHostname: n.name, n.name: "yes", "jobrelay.dev/simulated": n.simulated}},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: n.name, Value: "yes", Effect: corev1.TaintEffectNoSchedule}}},
			Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
		}, metav1.CreateOptions{})
		s.must(err)
	}
	for name, value := range map[string]int32{"low": 1, "high": 1000} {
		_, err := s.Client.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}, metav1.CreateOptions{})
		s.must(err)
	}
	reports := map[string]report{}
	for _, e := range ends {
		if e.kubelet.status != nil {
			reports[e.service()] = e.kubelet
		}
	}
	playing, stop := context.WithCancel(ctx)
	var kubelet sync.WaitGroup
	kubelet.Go(func() { s.play(playing, reports) })
	s.t.Cleanup(func() { stop(); kubelet.Wait() })
}

func (s *scene) taint(node string, taint corev1.Taint) {
	s.t.Helper()
	s.dev.eventually("the taint of "+node, time.Minute, func() bool {
		n, err := s.Client.CoreV1().Nodes().Get(s.t.Context(), node, metav1.GetOptions{})
		s.must(err)
		n.Spec.Taints = append(n.Spec.Taints, taint)
		_, err = s.Client.CoreV1().Nodes().Update(s.t.Context(), n, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) {
			s.t.Fatal(err)
		}
		return err == nil
	})
}

// admission refuses every Job in one namespace, and adds a rule to those of another.
func (s *scene) admission() {
	s.t.Helper()
	ctx, admission := s.t.Context(), s.Client.AdmissionregistrationV1()
	match := func(namespace string) *admissionv1.MatchResources {
		return &admissionv1.MatchResources{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{batchv1.GroupName}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}},
			}}},
		}
	}
	_, err := admission.ValidatingAdmissionPolicies().Create(ctx, &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "no-jobs"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: match("policed"), Validations: []admissionv1.Validation{{Expression: "false", Message: "no Jobs here"}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	_, err = admission.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "no-jobs"},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "no-jobs", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}, metav1.CreateOptions{})
	s.must(err)
	_, err = admission.MutatingAdmissionPolicies().Create(ctx, &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "fail-on-42"},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: match("mutated"), ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: `[JSONPatch{
				op: "add", path: "/spec/podFailurePolicy",
				value: Object.spec.podFailurePolicy{rules: [Object.spec.podFailurePolicy.rules{action: "FailJob",
					onExitCodes: Object.spec.podFailurePolicy.rules.onExitCodes{operator: "In", values: [42]}}]}},
				JSONPatch{op: "add", path: "/spec/podReplacementPolicy", value: "Failed"}]`}}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	_, err = admission.MutatingAdmissionPolicyBindings().Create(ctx, &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "fail-on-42"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "fail-on-42"},
	}, metav1.CreateOptions{})
	s.must(err)
	s.dev.eventually("the admission policies", time.Minute, func() bool {
		_, refused := s.Client.BatchV1().Jobs("policed").Create(ctx, nobodys("trial"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		mutated, err := s.Client.BatchV1().Jobs("mutated").Create(ctx, nobodys("trial"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return refused != nil && err == nil && mutated.Spec.PodFailurePolicy != nil
	})
}

// conflict takes both names of an id.
func (s *scene) conflict(id string) {
	s.t.Helper()
	for _, name := range names(id) {
		_, err := s.Client.BatchV1().Jobs("default").Create(s.t.Context(), nobodys(name), metav1.CreateOptions{})
		s.must(err)
	}
}

// nobodys is a Job that jobrelay has nothing to do with, and that never runs.
func nobodys(name string) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{
		Suspend: new(true),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "busybox"}},
		}},
	}}
}

func (s *scene) awaitReused(id string) {
	s.t.Helper()
	s.dev.eventually("the record of the id that was used again", time.Minute, func() bool {
		all, err := s.broker.Rejections(s.t.Context(), broker.RejectionFilter{Code: string(jobstatus.IDReused), Limit: 2})
		s.must(err)
		return len(all) == 1 && all[0].ID == id
	})
}

// apiAway is what becomes of a request while the API server is away.
var apiAway = end{code: jobstatus.LaunchUnavailable, how: "the API server is killed, for a launch deadline of 3 s", rules: "launchDeadline: 3s", want: "99"}

// withoutTheAPI gives the ends that need another launcher, or no API server, one
// after the other: each is sent here.
func (s *scene) withoutTheAPI() []end {
	s.t.Helper()
	ctx, launcher := s.t.Context(), s.Process("launcher-1")
	_, err := s.Client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "powerless"}}, metav1.CreateOptions{})
	s.must(err)
	token, err := s.Client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "powerless", &authv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	s.credentials(token.Status.Token)
	s.must(launcher.Stop())
	s.must(launcher.Start())
	forbidden := end{code: jobstatus.LaunchForbidden, how: "a launcher whose service account has no role", want: "99"}
	s.dev.send(s.message(forbidden))
	s.hooks.await(s.dev, time.Minute, forbidden.id())

	s.must(s.Process("kubernetes-1").Kill())
	s.dev.send(s.message(apiAway))
	s.hooks.await(s.dev, time.Minute, apiAway.id())
	s.must(s.Process("kubernetes-1").Start())
	s.dev.eventually("the API server", time.Minute, func() bool { return s.Process("kubernetes-1").Ready() == nil })
	return []end{forbidden, apiAway}
}

// report is what a kubelet says of a Pod: its status, and an Event.
type report struct {
	words  string // of it, for the list
	status func(corev1.Pod) corev1.PodStatus
	event  string
}

// with is the report with an Event.
func (r report) with(event string) report {
	r.words, r.event = "the Event "+event, event
	return r
}

// waiting is a container that does not start.
func waiting(reason string) report {
	return report{words: "waiting, " + reason, status: func(p corev1.Pod) corev1.PodStatus {
		p.Status.ContainerStatuses = containers(p, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "as the kubelet says"}})
		return p.Status
	}}
}

// failedPod is a Pod that failed for a reason of its own, or none, with its
// container's end where it says one.
func failedPod(reason string, end *corev1.ContainerStateTerminated) report {
	words := "failed, " + reason
	if reason == "" && end != nil {
		words += end.Reason
	} else if reason == "" {
		words += "without a reason"
	}
	return report{words: words, status: func(p corev1.Pod) corev1.PodStatus {
		p.Status.Phase, p.Status.Reason = corev1.PodFailed, reason
		if end != nil {
			p.Status.ContainerStatuses = containers(p, corev1.ContainerState{Terminated: end})
		}
		return p.Status
	}}
}

func killed() *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error", StartedAt: metav1.Now(), FinishedAt: metav1.Now()}
}

var initFails = report{words: "an init container exits 3", status: func(p corev1.Pod) corev1.PodStatus {
	p.Status.Phase = corev1.PodFailed
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: p.Spec.InitContainers[0].Name, State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", StartedAt: metav1.Now(), FinishedAt: metav1.Now()},
	}}}
	p.Status.ContainerStatuses = containers(p, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}})
	return p.Status
}}

func containers(p corev1.Pod, state corev1.ContainerState) []corev1.ContainerStatus {
	return []corev1.ContainerStatus{{Name: p.Spec.Containers[0].Name, Image: p.Spec.Containers[0].Image, State: state}}
}

// play is the kubelet of the played node: it reports on each Pod once, by the
// Pod's service, and lets go of those that are deleted.
func (s *scene) play(ctx context.Context, reports map[string]report) {
	reported := map[string]bool{}
	for ctx.Err() == nil {
		pods, err := s.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + playedNode})
		if err == nil {
			for _, p := range pods.Items {
				r := reports[p.Labels["app"]]
				switch {
				case p.DeletionTimestamp != nil:
					_ = s.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}) // else at the next look
				case !reported[p.Name] && r.status != nil:
					reported[p.Name] = s.report(ctx, p, r) == nil
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *scene) report(ctx context.Context, p corev1.Pod, r report) error {
	p.Status = r.status(p)
	if _, err := s.Client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, &p, metav1.UpdateOptions{}); err != nil || r.event == "" {
		return err
	}
	_, err := s.Client.CoreV1().Events(p.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%s", p.Name, strings.ToLower(r.event))},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Type:           corev1.EventTypeWarning, Reason: r.event, Message: "as the kubelet says", FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(), Count: 1,
	}, metav1.CreateOptions{})
	return err
}
