package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func sampleReport() report {
	m := measured{
		ID: "X1", Title: "posting", Ours: "ours", Bare: "a loop", Unit: "posts/s",
		goals: []goal{{"", atLeast, 0.9}, {"calls/post", exactly, 1}, {"not measured", atMost, 1}},
		Pairs: []pair{
			{result{Rate: 900, Counters: map[string]float64{"calls/post": 1}, JetStream: "file storage"}, result{Rate: 1000, Counters: map[string]float64{"calls/post": 1, "other": 2}}, 0.9},
			{result{Rate: 800, Counters: map[string]float64{"calls/post": 1.5}}, result{Rate: 1000, Counters: map[string]float64{"calls/post": 1, "other": 4}}, 0.8},
			{result{Rate: 1900, Counters: map[string]float64{"calls/post": 1}}, result{Rate: 2000, Counters: map[string]float64{"calls/post": 1, "other": 3}}, 0.95},
		},
	}
	m.summarize()
	return report{
		At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: machine{OS: "linux/amd64", CPU: "a CPU", Cores: 2, Go: "go1", Commit: "abc"}, Rows: []measured{m},
	}
}

func TestTable(t *testing.T) {
	want := `
X1  posting     ours  bare  ratio  min..max      quartiles     goal
    posts/s     900   1000  0.900  0.800..0.950  0.850..0.925  ≥ 0.90 met
    calls/post  1     1                                        = 1 MISSED
    other       –     3

X1  ours: ours; bare: a loop; 3 pairs; JetStream: file storage
2026-01-02T03:04:05Z  a CPU, 2 cores, linux/amd64, go1, commit abc
`
	var got strings.Builder
	for line := range strings.Lines("\n" + sampleReport().table()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if got.String() != want {
		t.Errorf("got:%swant:%s", got.String(), want)
	}
}

func TestMissedGoals(t *testing.T) {
	r := sampleReport()
	if !r.missed() {
		t.Error("a counter that is not exact, and one that is not there, miss no goal")
	}
	for i := range r.Rows[0].Goals {
		r.Rows[0].Goals[i].Met = true
	}
	if r.missed() {
		t.Error("all goals are met, and one is missed")
	}
}

func TestFiles(t *testing.T) {
	r, dir := sampleReport(), t.TempDir()
	if err := r.save(filepath.Join(dir, "r.json")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(b, &back); err != nil || back.Rows[0].Ratio != r.Rows[0].Ratio || back.Machine != r.Machine {
		t.Errorf("%+v %v", back, err)
	}
	if err := r.plot(filepath.Join(dir, "r.svg")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "r.svg")); err != nil || !bytes.Contains(b, []byte("posting")) {
		t.Errorf("the plot does not name its row (%v)", err)
	}
}
