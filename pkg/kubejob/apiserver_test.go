package kubejob_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	batchv1 "k8s.io/client-go/kubernetes/typed/batch/v1"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// apiServer is a real one, and a namespace there.
type apiServer struct {
	kubernetes.Interface

	jobs      batchv1.JobInterface
	namespace string
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	shared := kubedtest.Shared(t)
	client, err := cluster.Client(shared.Kubeconfig(), "kubejob", process.Version())
	if err != nil {
		t.Fatal(err)
	}
	namespace := shared.Namespace(t)
	return &apiServer{client, client.BatchV1().Jobs(namespace), namespace}
}

// create makes the Job that is built of the request; dry, it only asks.
func (s *apiServer) create(ctx context.Context, r *jobsv1.JobRequested, dry bool) error {
	job, err := kubejob.Build(r, "default", kubejob.Name(r.GetJob().GetPrefixName(), r.GetId()))
	if err != nil {
		return err
	}
	job.Finalizers = nil // nobody would take it off
	var options metav1.CreateOptions
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err = s.jobs.Create(ctx, job, options)
	return err
}

// TestAPIServerTakesWhatIsAccepted: some 300 drawn messages.
func TestAPIServerTakesWhatIsAccepted(t *testing.T) {
	server := newAPIServer(t)
	asked := 0
	rapid.Check(t, func(rt *rapid.T) {
		for range 6 { // of rapid's 100
			body := draw(rt, server.namespace)
			r := request.Parse(body, request.Options{}).Request
			if r == nil {
				continue
			}
			asked++
			if err := server.create(t.Context(), r, true); err != nil {
				rt.Fatalf("accepted, but Kubernetes refuses it: %v\n%s", err, body)
			}
		}
	})
	if t.Logf("%d messages", asked); asked == 0 {
		t.Error("none was accepted")
	}
}

// verdict is who takes a message.
type verdict string

const (
	both     verdict = "both take it"
	neither  verdict = "neither takes it"
	stricter verdict = "only Kubernetes takes it"
	looser   verdict = "only validation takes it"
)

// edges are hostile but plausible values, as parts of a job (service apart). The
// comments say why validation is stricter; looser it is nowhere.
var edges = map[verdict][]string{
	both: {
		`{"service":"S63"}`,
		`{"service":"A_b.c"}`,
		`{"service":"a--b"}`,
		`{"service":"123"}`,
		`{"prefixName":"p54"}`,
		`{"prefixName":"a--b"}`,
		`{"image":"busybox:LATEST"}`,
		`{"command":["$(A)","$$(A)","\t\n\u0001\u007f","é \ud83d\ude00","-","\\"]}`,
		`{"command":["\u2028\ufffd\uffff"]}`,
		`{"args":[""," ","--x=\"y\""]}`,
		`{"env":[{"name":"a.b-c_d"}]}`,
		`{"env":[{"name":"1A"}]}`,
		`{"env":[{"name":" "}]}`,
		`{"env":[{"name":"A B","value":"$(A B)"}]}`,
		`{"env":[{"name":"~!@#%^&*()"}]}`,
		`{"env":[{"name":"A","value":"1"},{"name":"A","value":"2"}]}`,
		`{"env":[{"name":".."}]}`,
		`{"env":[{"name":"."}]}`,
		`{"env":[{"name":"..a"}]}`,
		`{"env":[{"name":"N300"}]}`,
		`{"serviceAccount":"a.b-c"}`,
		`{"serviceAccount":"s253"}`,
		`{"ttlSecondsAfterFinished":60}`,
		`{"ttlSecondsAfterFinished":2147483647}`,
		`{"backoffLimit":6}`,
		`{"activeDeadlineSeconds":1}`,
		`{"activeDeadlineSeconds":86400}`,
		`{"resources":{"limits":{"cpu":"0"}}}`,
		`{"resources":{"limits":{"cpu":"1n","memory":"1n"},"requests":{"cpu":"0.1n","memory":"0.000000001"}}}`,
		`{"resources":{"limits":{"cpu":"0.0001"},"requests":{"cpu":"0.00009"}}}`,
		`{"resources":{"limits":{"cpu":"1P","memory":"1P"}}}`,
		`{"resources":{"limits":{"cpu":"+1.","memory":".5Ki"}}}`,
		`{"resources":{"limits":{"cpu":"1E3"}}}`,
		`{"resources":{"limits":{"cpu":"1e-9"}}}`,
		`{"resources":{"limits":{"memory":"1e15"},"requests":{"memory":"0.9P"}}}`,
		`{"resources":{"limits":{"memory":"888Ti"}}}`,
		`{"resources":{"limits":{"cpu":"-0"}}}`,
		`{"resources":{"requests":{"cpu":"2"}}}`,
		`{"nodeSelector":{"matchKey":"k63","matchValue":"v63"}}`,
		`{"nodeSelector":{"matchKey":"d253/k63","matchValue":""}}`,
		`{"nodeSelector":{"matchKey":"kubernetes.io/hostname","matchValue":"node.example"}}`,
		`{"nodeSelector":{"matchKey":"metadata.name","matchValue":"n"}}`,
		`{"toleration":{"key":"node-role.kubernetes.io/control-plane"}}`,
		`{"toleration":{"key":"node.kubernetes.io/unreachable","value":""}}`,
		`{"toleration":{"key":"k","value":"v63"}}`,
		`{"volume":{"mountPath":"a b/é/~","pvc":"a.b"}}`,
		`{"volume":{"mountPath":" ","pvc":"a"}}`,
		`{"volume":{"mountPath":"...","pvc":"a"}}`,
		`{"volume":{"mountPath":"/dev/termination-log","pvc":"a"}}`,
		`{"volume":{"mountPath":"/proc","pvc":"a"}}`,
		`{"volume":{"mountPath":"C\\x","pvc":"a"}}`,
		`{"volume":{"mountPath":"M4096","pvc":"a"}}`,
		`{"volume":{"mountPath":"a","pvc":"s253"}}`,
		`{"image":"registry.example:5000/a/b@sha256:a64"}`,
	},
	neither: {
		`{"service":"S64"}`,
		`{"service":"a."}`,
		`{"prefixName":"p55"}`,
		`{"prefixName":"A"}`,
		`{"image":""}`,
		`{"env":[{"name":"A\n"}]}`,
		`{"env":[{"name":"A\u007f"}]}`,
		`{"env":[{"name":"A=B"}]}`,
		`{"env":[{"name":""}]}`,
		`{"env":[{"name":"é"}]}`,
		`{"serviceAccount":"s254"}`,
		`{"serviceAccount":"A"}`,
		`{"serviceAccount":"a_b"}`,
		`{"serviceAccount":"a..b"}`,
		`{"serviceAccount":"-a"}`,
		`{"ttlSecondsAfterFinished":-1}`,
		`{"backoffLimit":-1}`,
		`{"activeDeadlineSeconds":-1}`,
		`{"resources":{"limits":{"memory":"1m"},"requests":{"memory":"2m"}}}`,
		`{"resources":{"limits":{"memory":"1Pi"}}}`,
		`{"resources":{"limits":{"memory":"1E"}}}`,
		`{"resources":{"limits":{"memory":"16Ei"}}}`,
		`{"resources":{"limits":{"cpu":"1e99"}}}`,
		`{"resources":{"limits":{"cpu":"-1n"}}}`,
		`{"resources":{"limits":{"cpu":"-0.0000000000001"}}}`,
		`{"resources":{"limits":{"cpu":"1k"},"requests":{"cpu":"1K"}}}`,
		`{"resources":{"limits":{"cpu":"1i"}}}`,
		`{"resources":{"limits":{"cpu":"0x1"}}}`,
		`{"resources":{"limits":{"cpu":"1 "}}}`,
		`{"resources":{"limits":{"cpu":"١"}}}`,
		`{"resources":{"limits":{"cpu":"NaN"}}}`,
		`{"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"2"}}}`,
		`{"nodeSelector":{"matchKey":"d254/k","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"k64","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"k","matchValue":"v64"}}`,
		`{"nodeSelector":{"matchKey":"A/b","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"a/b/c","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"a/","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"/a","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"","matchValue":"v"}}`,
		`{"nodeSelector":{"matchKey":"k","matchValue":"-v"}}`,
		`{"nodeSelector":{"matchKey":"k","matchValue":"a b"}}`,
		`{"nodeSelector":{"matchKey":"k.","matchValue":"v"}}`,
		`{"toleration":{"key":"k","value":"v64"}}`,
		`{"toleration":{"key":"","value":""}}`,
		`{"toleration":{"key":"k","value":"-"}}`,
		`{"toleration":{"key":"a b"}}`,
		`{"toleration":{"key":"k","value":"a/b"}}`,
		`{"volume":{"mountPath":"a","pvc":""}}`,
	},
	stricter: {
		// the app label is how people find their Jobs
		`{"service":""}`,
		// the name has to be a label: the Pod gets it as host name
		`{"prefixName":"9a"}`,
		`{"prefixName":"a.b"}`,
		`{"prefixName":"a-"}`,
		// a Pod of it would wait forever
		`{"image":" busybox"}`,
		`{"image":"busybox "}`,
		`{"image":"Busybox"}`,
		`{"image":"busybox:"}`,
		`{"image":"https://r/a"}`,
		`{"image":"a b"}`,
		`{"image":"$(A)"}`,
		// an image has no program of its own to fall back to; no process is given a NUL
		`{"command":["a\u0000"]}`,
		`{"command":[""]}`,
		`{"command":[]}`,
		`{"args":["\u0000"]}`,
		`{"env":[{"name":"A","value":"\u0000"}]}`,
		// Kubernetes would remove the Job before anybody could look
		`{"ttlSecondsAfterFinished":59}`,
		// the bounds are the contract's and the operator's
		`{"backoffLimit":7}`,
		`{"activeDeadlineSeconds":86401}`,
		`{"activeDeadlineSeconds":2147483647}`,
		// compared as written: Kubernetes rounds both up first
		`{"resources":{"limits":{"cpu":"100u"},"requests":{"cpu":"1m"}}}`,
		// the Pod would fail when it starts, or mount over its own root
		`{"volume":{"mountPath":"/a:b","pvc":"a"}}`,
		`{"volume":{"mountPath":"a:","pvc":"a"}}`,
		`{"volume":{"mountPath":"/","pvc":"a"}}`,
		`{"volume":{"mountPath":"","pvc":"a"}}`,
		`{"volume":{"mountPath":"a/../b","pvc":"a"}}`,
		`{"volume":{"mountPath":"../a","pvc":"a"}}`,
		`{"volume":{"mountPath":"a\u0000b","pvc":"a"}}`,
		`{"volume":{"mountPath":"a\nb","pvc":"a"}}`,
		`{"volume":{"mountPath":"a","pvc":"A"}}`,
		`{"volume":{"mountPath":"a","pvc":"a_b"}}`,
		`{"volume":{"mountPath":"a","pvc":"s254"}}`,
	},
}

// long is a text of some length in edges: "S63" is s 63 times.
var long = regexp.MustCompile(`["/:][SMNadkpsv]\d{2,4}\b`)

// TestEdgesAtTheAPIServer: what Kubernetes refuses for a reason that the message
// shows, validation refuses, too.
func TestEdgesAtTheAPIServer(t *testing.T) {
	server := newAPIServer(t)
	for want, parts := range edges {
		for _, part := range parts {
			message := struct {
				ID      string         `json:"id"`
				Service any            `json:"service"`
				Job     map[string]any `json:"job"`
			}{"a", "s", map[string]any{"prefixName": "p", "namespace": server.namespace, "image": "busybox", "command": []string{"c"}}}
			text := long.ReplaceAllStringFunc(part, func(s string) string {
				n, _ := strconv.Atoi(s[2:]) // a word of the pattern
				return s[:1] + strings.Repeat(strings.ToLower(s[1:2]), n)
			})
			if err := json.Unmarshal([]byte(text), &message.Job); err != nil {
				t.Fatalf("%s: %v", part, err)
			}
			if s, ok := message.Job["service"]; ok {
				message.Service = s
				delete(message.Job, "service")
			}
			body, err := json.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			accepted := request.Parse(body, request.Options{})
			r := accepted.Request
			if r == nil { // what Kubernetes would say of it as it is
				r = &jobsv1.JobRequested{}
				if err := protojson.Unmarshal(body, r); err != nil {
					t.Fatalf("%s: %v", part, err)
				}
			}
			refusal := server.create(t.Context(), r, true)
			got := map[[2]bool]verdict{{true, true}: both, {false, false}: neither, {false, true}: stricter, {true, false}: looser}[[2]bool{accepted.Request != nil, refusal == nil}]
			if got != want {
				t.Errorf("%s: %s (%v; %v)", part, got, accepted.Problems, refusal)
			}
		}
	}
}

// TestTheLargestJobIsStored: what validation takes is stored, however it grows
// in Kubernetes. Each shape is as large as validation lets it be.
func TestTheLargestJobIsStored(t *testing.T) {
	server := newAPIServer(t)
	for name, shape := range map[string]func(n int) map[string]any{
		"variables with short names": func(n int) map[string]any { return map[string]any{"env": variables(n, "", "")} },
		"names that JSON escapes":    func(n int) map[string]any { return map[string]any{"env": variables(n, "<<<<<<<<", "")} },
		"one variable n times":       func(n int) map[string]any { return map[string]any{"env": slices.Repeat(variables(1, "", ""), n)} },
		"one argument":               func(n int) map[string]any { return map[string]any{"args": []string{strings.Repeat("a", n)}} },
		"empty arguments":            func(n int) map[string]any { return map[string]any{"args": make([]string, n)} },
	} {
		t.Run(name, func(t *testing.T) {
			body := func(n int) []byte {
				job := shape(n)
				job["prefixName"], job["namespace"], job["image"], job["command"] = "p", server.namespace, "sim/succeed", []string{"c"}
				b, err := json.Marshal(map[string]any{"id": name, "service": "s", "job": job})
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			parse := func(n int) *jobsv1.JobRequested { return request.Parse(body(n), request.Options{}).Request }
			step := request.MaxBytes / (len(body(2)) - len(body(1))) / 64 // as exact as a 64th of a full message
			n := step * sort.Search(64, func(i int) bool { return parse((i+1)*step) == nil })
			r := parse(n)
			if r == nil || n < 1000 {
				t.Fatalf("%d are refused", n)
			}
			t.Logf("%d", n)
			if err := server.create(t.Context(), r, false); err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			await.That(t, "its Pod", func() bool {
				pods, err := server.CoreV1().Pods(server.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: kubejob.LabelKey + "=" + event.Key(name)})
				return err == nil && len(pods.Items) > 0
			})
		})
	}
}

// variables are n of different names.
func variables(n int, name, value string) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = map[string]any{"name": fmt.Sprintf("%x%s", i, name), "value": value}
	}
	return out
}
