//go:build browser

package console

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

const (
	manyJobs   = 100_000
	firstMost  = time.Second
	memoryMost = 200 << 20
)

// TestManyJobs: with 100,000 jobs in the log the first list is there within a second,
// and the console stays below 200 MB, from its start on.
func TestManyJobs(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	begin := time.Now()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(512)
	for i := range manyJobs {
		group.Go(func() error {
			v := services[i%len(services)]
			j := &job{w: w, id: fmt.Sprintf("many/%s/%07d", v.name, i), service: v.name, namespace: v.namespace, image: v.image, prefix: v.prefix, queued: begin.Add(time.Duration(i-manyJobs) * 30 * time.Millisecond)}
			end := proto.Message(&jobsv1.JobCompleted{JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, DurationSeconds: 30, Times: j.times(0, time.Second, 31*time.Second)})
			if i%25 == 0 {
				end = &jobsv1.JobFailed{JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, Error: &jobsv1.Error{ErrorCode: "CONTAINER_EXIT_NONZERO", Message: "it exited with code 1"}, Times: j.times(0, time.Second, 31*time.Second)}
			}
			for n, data := range []proto.Message{j.startedData(0), &jobsv1.PodStarted{JobId: j.uid(), JobName: j.name(), Namespace: j.namespace, PodId: j.uid(), PodName: j.pod(), NodeName: "worker-1"}, end} {
				if i%1000 == 0 && n == 2 {
					return nil // it runs
				}
				if err := j.tryAppend(ctx, time.Duration(n)*time.Second, data); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.must(group.Wait())
	t.Logf("%d jobs with their events were appended in %s", manyJobs, time.Since(begin).Round(time.Second))

	begin = time.Now()
	c := s.startConsole()
	c.answers(t, c.url+"/")
	b := open(t, c.url)
	filling := 0
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for c.sample(t, "jobrelay_console_filled") < 1 {
		if path := []string{"/", "/jobs"}; filling < len(path) {
			if b.shows(path[filling]); eval[bool](b, fillingJS) {
				b.sound("filling " + path[filling])
				filling++
			}
		}
		if !c.Running() {
			t.Fatalf("the console ended: %s", c.LastLines())
		}
		<-tick.C
	}
	if filling < 2 {
		t.Error("the pages did not say that the index was being filled")
	}
	t.Logf("the index was filled %s after the start; the pages say so until then", time.Since(begin).Round(10*time.Millisecond))

	var all []time.Duration
	for _, path := range []string{"/jobs", "/", "/jobs?service=mail&state=failed", "/jobs?code=CONTAINER_EXIT_NONZERO", "/jobs?id=many/reports/", "/jobs?state=running"} {
		b.shows(path)
		b.await("the page is whole", `document.readyState === 'complete'`)
		took := time.Duration(eval[float64](b, `performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd`) * float64(time.Millisecond))
		if path != "/" && eval[int](b, `document.querySelectorAll('main a[href^="/jobs/"]').length`) == 0 {
			t.Errorf("%s lists no job", path)
		}
		t.Logf("%s: %s", path, took)
		all = append(all, took)
		if took > firstMost {
			t.Errorf("%s: %s, and it may take %s", path, took, firstMost)
		}
	}
	b.shows("/jobs")
	b.reads("100\u202f000 jobs")
	w.mustFind(b, fmt.Sprintf("many/%s/%07d", services[3].name, 3))

	cpu, resident, err := c.Usage()
	w.must(err)
	peak, err := c.Peak()
	w.must(err)
	t.Logf("the console's memory with %d jobs: %d MB resident, %d MB at most; CPU since its start %s", manyJobs, resident>>20, peak>>20, cpu.Round(10*time.Millisecond))
	if peak > memoryMost {
		t.Errorf("the console had %d MB, and may have %d", peak>>20, memoryMost>>20)
	}
	report(t, "pages of the large index", all)
}

// mustFind finds a job by its id in the page's form.
func (w *writer) mustFind(b *tab, id string) {
	w.t.Helper()
	b.find(id)
	b.reads(id)
}
