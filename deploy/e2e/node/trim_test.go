package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTrim(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"who wrote what, and others' annotations",
			`{"kind":"Job","metadata":{"name":"a","managedFields":[{}],"annotations":{"x":"1","jobrelay.dev/id":"2"}},"spec":{"podIP":"kept"}}`,
			`{"kind":"Job","metadata":{"name":"a","annotations":{"jobrelay.dev/id":"2"}},"spec":{"podIP":"kept"}}`},
		{"no annotation is left", `{"kind":"Event","metadata":{"annotations":{"x":"1"}}}`, `{"kind":"Event","metadata":{}}`},
		{"a Pod's addresses and token",
			`{"kind":"Pod","metadata":{},"spec":{"volumes":[{"name":"kube-api-access-x"}],"containers":[{"name":"main","volumeMounts":[{"name":"kube-api-access-x"},{"name":"work"}]}]},
			  "status":{"phase":"Running","hostIP":"1","hostIPs":[1],"podIP":"2","podIPs":[2],"containerStatuses":[{"name":"main","volumeMounts":[{"name":"kube-api-access-x"}]}]}}`,
			`{"kind":"Pod","metadata":{},"spec":{"containers":[{"name":"main","volumeMounts":[{"name":"work"}]}]},"status":{"phase":"Running","containerStatuses":[{"name":"main"}]}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got, want map[string]any
			if err := json.Unmarshal([]byte(c.in), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			trim(got)
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Every recording that is kept is trimmed: to trim it again changes nothing.
func TestKeptRecordingsAreTrimmed(t *testing.T) {
	files, err := filepath.Glob("../../../pkg/jobstatus/testdata/recordings/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d recordings: %v", len(files), err)
	}
	dir := t.TempDir()
	for _, name := range files {
		again := filepath.Join(dir, filepath.Base(name))
		if err := trimFile(name, again); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(again)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is not trimmed", name)
		}
	}
}

// Each recording that is kept is one of a case that can be recorded again, but
// for the one that was begun in the middle of another.
func TestKeptRecordingsAreCases(t *testing.T) {
	known := map[string]bool{"node-wiped-two-containers": true}
	for _, c := range cases() {
		if known[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		known[c.name] = true
	}
	files, err := filepath.Glob("../../../pkg/jobstatus/testdata/recordings/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d recordings: %v", len(files), err)
	}
	for _, f := range files {
		if name := filepath.Base(f[:len(f)-len(".jsonl")]); !known[name] {
			t.Errorf("%s cannot be recorded again", name)
		}
	}
}
