package main

import (
	"encoding/json"
	"maps"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/jobrelay/jobrelay/pkg/recording"
)

// trim takes from an object what says nothing about a job's life: who wrote
// which field, others' annotations, addresses, and the token that every Pod has
// mounted. All else stays as the API server gave it.
func trim(o map[string]any) {
	unstructured.RemoveNestedField(o, "metadata", "managedFields")
	if annotations, ok, _ := unstructured.NestedMap(o, "metadata", "annotations"); ok {
		maps.DeleteFunc(annotations, func(name string, _ any) bool { return !strings.HasPrefix(name, "jobrelay.dev/") })
		unstructured.RemoveNestedField(o, "metadata", "annotations")
		if len(annotations) > 0 {
			_ = unstructured.SetNestedMap(o, annotations, "metadata", "annotations")
		}
	}
	if o["kind"] != "Pod" {
		return
	}
	for _, address := range []string{"hostIP", "hostIPs", "podIP", "podIPs"} {
		unstructured.RemoveNestedField(o, "status", address)
	}
	without(o, "spec", "volumes")
	for _, path := range [][]string{{"spec", "containers"}, {"spec", "initContainers"}, {"status", "containerStatuses"}, {"status", "initContainerStatuses"}} {
		containers, _, _ := unstructured.NestedFieldNoCopy(o, path...)
		list, _ := containers.([]any)
		for _, c := range list {
			if container, ok := c.(map[string]any); ok {
				without(container, "volumeMounts")
			}
		}
	}
}

// tokenVolume begins the name of the volume of a Pod's own token.
const tokenVolume = "kube-api-access-"

// without takes the token's volume from a list of volumes or mounts.
func without(o map[string]any, path ...string) {
	value, _, _ := unstructured.NestedFieldNoCopy(o, path...)
	list, ok := value.([]any)
	if !ok {
		return
	}
	var rest []any
	for _, e := range list {
		entry, _ := e.(map[string]any)
		if name, _ := entry["name"].(string); !strings.HasPrefix(name, tokenVolume) {
			rest = append(rest, e)
		}
	}
	unstructured.RemoveNestedField(o, path...)
	if len(rest) > 0 {
		_ = unstructured.SetNestedSlice(o, rest, path...)
	}
}

// trimFile writes a recording anew, each of its objects trimmed.
func trimFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for l, err := range recording.Read(in) {
		if err != nil {
			return err
		}
		if l.Object != nil {
			o := map[string]any{}
			if err := json.Unmarshal(l.Object, &o); err != nil {
				return err
			}
			trim(o)
			if l.Object, err = json.Marshal(o); err != nil {
				return err
			}
		}
		if err := recording.Write(out, l); err != nil {
			return err
		}
	}
	return out.Close()
}
