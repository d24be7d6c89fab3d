package jobrelay

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
)

// TestFinalizers lists and releases what is held in a real API server, and
// touches no other installation's.
func TestFinalizers(t *testing.T) {
	shared := kubedtest.Shared(t)
	namespace := shared.Namespace(t)
	client, err := cluster.Client(shared.Kubeconfig(), "test", "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ id, installation string }{{"a", namespace}, {"b", namespace}, {"foreign", "another"}} {
		job, err := kubejob.Build(&jobsv1.JobRequested{Id: c.id, Service: "s", Job: &jobsv1.Job{
			PrefixName: "p", Namespace: namespace, Image: "i", Command: []string{"c"}, ActiveDeadlineSeconds: 60,
		}}, c.installation, c.id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.BatchV1().Jobs(namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	jobs := held{Kubeconfig: shared.Kubeconfig(), Installation: namespace, Namespace: namespace}
	names := func() (names string) {
		t.Helper()
		out.Reset()
		if err := (&finalizersList{jobs}).Run(t.Context(), &console{out: &out, machine: encodings["json"]}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			var h cluster.Held
			if err := json.Unmarshal([]byte(line), &h); err != nil {
				t.Fatal(err)
			}
			names += h.Name + " "
		}
		return names
	}
	if got := names(); got != "a b " {
		t.Fatalf("%q are held", got)
	}
	release := func(all bool, jobsNamed ...string) error {
		out.Reset()
		f := finalizersRelease{held: jobs, Jobs: jobsNamed, All: all}
		if err := f.Validate(); err != nil {
			return err
		}
		return f.Run(t.Context(), &console{out: &out})
	}
	if err := release(false, "a", "nobody", "foreign"); err == nil || !strings.Contains(out.String(), "/a released (goes on)") || !strings.Contains(err.Error(), "2 were not") {
		t.Errorf("%v: %s", err, out.String())
	}
	if got := names(); got != "b " {
		t.Errorf("%q are held", got)
	}
	if err := release(true); err != nil || names() != "" {
		t.Errorf("%v: %s", err, out.String())
	}
	if err := (&finalizersList{jobs}).Run(t.Context(), &console{out: &out}); err != nil || out.String() != "no Job is held\n" {
		t.Errorf("%v: %s", err, out.String())
	}
	if release(true, "a") == nil || release(false) == nil {
		t.Error("names and --all, or neither, are taken")
	}
	foreign, err := client.BatchV1().Jobs(namespace).Get(t.Context(), "foreign", metav1.GetOptions{})
	if err != nil || len(foreign.Finalizers) != 1 {
		t.Errorf("%v %v", foreign.Finalizers, err)
	}
}
