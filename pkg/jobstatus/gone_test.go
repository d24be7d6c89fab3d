package jobstatus_test

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

func TestGoneKeepsTheFirstPodsOfAJob(t *testing.T) {
	var g jobstatus.Gone
	for i := range 20 {
		g.Add("job", aPod(fmt.Sprint(i)))
	}
	g.Add("other", aPod("o"))
	if got := g.Of("job"); len(got) != 8 || got[0].Name != "0" || got[7].Name != "7" {
		t.Errorf("got %d Pods", len(got))
	}
	g.Drop("job")
	if len(g.Of("job")) != 0 || len(g.Of("other")) != 1 {
		t.Error("Drop forgets the Pods of one Job")
	}
}

func TestGoneIsBounded(t *testing.T) {
	var g jobstatus.Gone
	const jobs, most = 5_000, 4_000
	uid := func(i int) types.UID { return types.UID(fmt.Sprint(i)) }
	for i := range jobs {
		g.Add(uid(i), aPod("p"))
	}
	kept := 0
	for i := range jobs {
		kept += len(g.Of(uid(i)))
	}
	if kept != most || len(g.Of(uid(jobs-1))) != 1 {
		t.Errorf("%d Jobs are remembered, want %d and the last among them", kept, most)
	}
}
