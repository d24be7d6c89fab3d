package main

import (
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed/kubedtest"
	"github.com/jobrelay/jobrelay/pkg/recording"
)

// TestRecord: what is created is recorded, trimmed, and nothing but that: the end
// of the recording is no watch that broke off.
func TestRecord(t *testing.T) {
	shared := kubedtest.Shared(t)
	namespace := shared.Namespace(t)
	client, objects, err := (&clusterFlags{Kubeconfig: shared.Kubeconfig()}).clients()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "recording.jsonl")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	pods := make(chan struct{}, 100)
	r, err := record(t.Context(), objects, namespace, out, func(_ recording.Line, o *unstructured.Unstructured) {
		if o.GetKind() == "Pod" {
			pods <- struct{}{}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.BatchV1().Jobs(namespace).Create(t.Context(), job("exit 0"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	<-pods
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	kinds := map[string]int{}
	for l, err := range recording.Read(in) {
		if err != nil {
			t.Fatal(err)
		}
		var o unstructured.Unstructured
		if l.Type == recording.Action || o.UnmarshalJSON(l.Object) != nil {
			t.Fatalf("%s %s %s", l.Type, l.Note, l.Object)
		}
		if o.GetManagedFields() != nil {
			t.Errorf("%s %s is not trimmed", l.Type, o.GetKind())
		}
		kinds[o.GetKind()]++
	}
	if kinds["Job"] == 0 || kinds["Pod"] == 0 {
		t.Errorf("recorded: %v", kinds)
	}
}
