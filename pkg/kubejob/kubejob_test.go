package kubejob_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
)

var update = flag.Bool("update", false, "write the golden files")

const sampleID = "31a89a91-43d8-4786-a195-9b25cec28a44"

func sample(t testing.TB) *jobsv1.JobRequested {
	t.Helper()
	res := request.Parse(request.Sample, request.Options{})
	if res.Request == nil {
		t.Fatal(res.Problems)
	}
	return res.Request
}

func TestNames(t *testing.T) {
	if got := kubejob.Name("bb", sampleID); got != "bb-fbe70e59" {
		t.Errorf("%s is not the original's name", got)
	}
	for prefix, want := range map[string]string{
		"bb":                                 "bb-fbe70e599335ef43",
		strings.Repeat("p", 54):              strings.Repeat("p", 46) + "-fbe70e599335ef43",
		strings.Repeat("p", 44) + "--x-yyyy": strings.Repeat("p", 44) + "-fbe70e599335ef43",
	} {
		if got := kubejob.LongName(prefix, sampleID); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestNamesAreLabels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.StringMatching(`[a-z]([a-z0-9-]{0,52}[a-z0-9])?`).Draw(t, "prefix")
		id := rapid.String().Draw(t, "id")
		for _, name := range []string{kubejob.Name(prefix, id), kubejob.LongName(prefix, id)} {
			if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
				t.Fatalf("%s: %v", name, errs)
			}
		}
	})
}

func TestSampleJob(t *testing.T) {
	r := sample(t)
	job, err := kubejob.Build(r, "default", kubejob.Name(r.GetJob().GetPrefixName(), r.GetId()))
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "sample.job.yaml")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), -update writes it:\n%s", path, diff)
	}
}

func TestQueuedAt(t *testing.T) {
	r := sample(t)
	r.QueuedAt = timestamppb.New(time.Date(2026, 11, 23, 22, 5, 7, 120e6, time.UTC))
	job, err := kubejob.Build(r, "default", "n")
	if err != nil || job.Annotations[kubejob.AnnotationQueuedAt] != "2026-11-23T22:05:07.120Z" {
		t.Errorf("%v (%v)", job.Annotations, err)
	}
}

func TestBuildOfTheLeast(t *testing.T) {
	res := request.Parse([]byte(`{"id":"a","service":"A_b","job":{"prefixName":"p","namespace":"n","image":"i",
		"command":["c"],"args":["$(N)"],"env":[{"name":"N","value":"1"},{"name":"N","value":"$(M)"}]}}`), request.Options{})
	job, err := kubejob.Build(res.Request, "", "p-1")
	if err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	want := corev1.PodSpec{
		RestartPolicy:      corev1.RestartPolicyNever,
		ServiceAccountName: "default",
		Containers: []corev1.Container{{
			Name: "job", Image: "i", Command: []string{"c"}, Args: []string{"$(N)"},
			Env: []corev1.EnvVar{{Name: "N", Value: "1"}, {Name: "N", Value: "$(M)"}},
		}},
	}
	if diff := cmp.Diff(want, pod); diff != "" {
		t.Error(diff)
	}
	if *job.Spec.BackoffLimit != 0 || *job.Spec.ActiveDeadlineSeconds != 86400 || *job.Spec.TTLSecondsAfterFinished != 60 {
		t.Errorf("%+v", job.Spec)
	}
	if job.Spec.Completions != nil || job.Spec.Parallelism != nil {
		t.Error("completions and parallelism are Kubernetes' to fill in")
	}
}

func TestBuildErrors(t *testing.T) {
	quantity := func(set func(*jobsv1.Resources)) *jobsv1.JobRequested {
		r := sample(t)
		set(r.Job.Resources)
		return r
	}
	for want, r := range map[string]*jobsv1.JobRequested{
		"no job":                  nil,
		"has no job":              {Id: "a"},
		"resources.limits: cpu":   quantity(func(r *jobsv1.Resources) { r.Limits.Cpu = "1e999999999" }),
		"resources.requests: mem": quantity(func(r *jobsv1.Resources) { r.Requests.Memory = "x" }),
	} {
		if job, err := kubejob.Build(r, "default", "n"); job != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := kubejob.Build(sample(t), "not a label", "n"); err == nil {
		t.Error("any installation name is taken")
	}
}

func TestMatches(t *testing.T) {
	r := sample(t)
	job, err := kubejob.Build(r, "default", "n")
	if err != nil {
		t.Fatal(err)
	}
	if !kubejob.Matches(job, r, "default") {
		t.Error("a Job does not match its own request")
	}
	if kubejob.Matches(job, r, "other") || kubejob.Matches(nil, r, "default") || kubejob.Matches(job, nil, "default") {
		t.Error("another installation, no Job or no request matches")
	}
	for name, change := range map[string]func(*jobsv1.JobRequested){
		"id":        func(r *jobsv1.JobRequested) { r.Id = "b" },
		"hash":      func(r *jobsv1.JobRequested) { r.Hash = "0" },
		"no hash":   func(r *jobsv1.JobRequested) { r.Hash = "" },
		"namespace": func(r *jobsv1.JobRequested) { r.Job.Namespace = "b" },
	} {
		other := proto.CloneOf(r)
		change(other)
		if kubejob.Matches(job, other, "default") {
			t.Errorf("another %s matches", name)
		}
	}
	for _, spoil := range []func(){
		func() { delete(job.Annotations, kubejob.AnnotationHash) },
		func() { job.Labels[kubejob.LabelKey] = "0" },
		func() { job.Labels, job.Annotations = nil, nil },
	} {
		spoil()
		if kubejob.Matches(job, r, "default") {
			t.Error("a Job with other labels or annotations matches")
		}
	}
}

func TestLabelsAreNotShared(t *testing.T) {
	job, err := kubejob.Build(sample(t), "default", "n")
	if err != nil {
		t.Fatal(err)
	}
	job.Labels["x"] = "y"
	if _, shared := job.Spec.Template.Labels["x"]; shared {
		t.Error("the Job and its Pods share one map")
	}
}

// draw is a message of values on the edges of the rules; not every one is valid.
func draw(t *rapid.T, namespace string) []byte {
	one := func(values ...any) *rapid.Generator[any] { return rapid.SampledFrom(values) }
	matching := func(expr string) *rapid.Generator[any] { return rapid.StringMatching(expr).AsAny() }
	const (
		label     = `[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?`
		subdomain = `[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?){0,3}`
	)
	character := rapid.Rune().Filter(func(c rune) bool { return !unicode.IsControl(c) })
	text := rapid.OneOf(rapid.StringOf(character), rapid.SampledFrom([]string{"", "$(A)", "$$(A)", "\t\n\x01", "\u2028"}))
	key := rapid.OneOf(matching(label), matching(subdomain+`/`+label))
	value := rapid.OneOf(matching(label), one(""))
	amount := rapid.OneOf(one("0", "1", "500m", "1P", "1e15", "1n", "0.0000000001", "1.5Gi", "7Ei", "-0", "+.5"),
		matching(`[0-9]{1,9}(\.[0-9]{0,9})?([numkMGTPE]|[KMGTPE]i|[eE]-?[0-9]{1,2})?`))
	object := func(name string, least int, fields map[string]*rapid.Generator[any]) map[string]any {
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(fields)) {
			if rapid.IntRange(0, 9).Draw(t, name+"."+k+" there") >= least {
				out[k] = fields[k].Draw(t, name+"."+k)
			}
		}
		return out
	}
	variable := rapid.Custom(func(t *rapid.T) any {
		return map[string]any{"name": rapid.StringMatching(`[ -<>-~]{1,40}`).Draw(t, "name"), "value": text.Draw(t, "value")}
	})
	job := object("job", 3, map[string]*rapid.Generator[any]{
		"args": rapid.SliceOfN(text, 0, 3).AsAny(),
		"env":  rapid.SliceOfN(variable, 0, 4).AsAny(),
		"volume": rapid.Custom(func(t *rapid.T) any {
			path := rapid.OneOf(one(".a/", "/", "...", " "), matching(`/?[a-z .~$-]{1,9}(/[A-Za-z0-9 ._é\\-]{0,9}){0,3}`))
			return map[string]any{"mountPath": path.Draw(t, "path"), "pvc": matching(subdomain).Draw(t, "pvc")}
		}),
		"nodeSelector": rapid.Custom(func(t *rapid.T) any {
			return map[string]any{"matchKey": key.Draw(t, "key"), "matchValue": value.Draw(t, "value")}
		}),
		"toleration": rapid.Custom(func(t *rapid.T) any {
			return map[string]any{"key": key.Draw(t, "key"), "value": value.Draw(t, "value")}
		}),
		"backoffLimit":            rapid.IntRange(0, 6).AsAny(),
		"ttlSecondsAfterFinished": rapid.IntRange(60, 2147483647).AsAny(),
		"activeDeadlineSeconds":   rapid.IntRange(1, 86400).AsAny(),
		"serviceAccount":          matching(subdomain),
	})
	job["resources"] = map[string]any{
		"limits":   object("limits", 5, map[string]*rapid.Generator[any]{"cpu": amount, "memory": amount}),
		"requests": object("requests", 5, map[string]*rapid.Generator[any]{"cpu": amount, "memory": amount}),
	}
	job["prefixName"] = rapid.StringMatching(`[a-z]([a-z0-9-]{0,52}[a-z0-9])?`).Draw(t, "prefix")
	job["image"] = rapid.OneOf(one("sim/exit:3", "[::1]:80/a"), matching(`([A-Za-z0-9]{1,5}\.io(:[0-9]{1,4})?/)?[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,2}(:\w[\w.-]{0,9})?`)).Draw(t, "image")
	job["namespace"], job["command"] = namespace, rapid.SliceOfN(text, 1, 3).Draw(t, "command")
	body, err := json.Marshal(map[string]any{
		"id":      rapid.StringOfN(character, 1, 256, -1).Draw(t, "id"),
		"service": rapid.StringMatching(label).Draw(t, "service"),
		"job":     job,
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestWhatIsAcceptedIsBuilt: whatever Parse takes of what is drawn is built, and
// matches.
func TestWhatIsAcceptedIsBuilt(t *testing.T) {
	made := 0
	rapid.Check(t, func(t *rapid.T) {
		body := draw(t, "n")
		r := request.Parse(body, request.Options{}).Request
		if r == nil {
			return
		}
		made++
		built, err := kubejob.Build(r, "default", kubejob.LongName(r.GetJob().GetPrefixName(), r.GetId()))
		if err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if _, err := json.Marshal(built); err != nil || !kubejob.Matches(built, r, "default") {
			t.Fatalf("%v: %s", err, body)
		}
	})
	if made == 0 {
		t.Error("no message was accepted")
	}
}
