package watcher_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/services/watcher"
)

// cancel is the command as the broker delivers it.
func cancel(t *testing.T, id, reason string) broker.Message {
	t.Helper()
	data, err := json.Marshal(broker.Cancel{ID: id, Reason: reason, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return broker.Message{Subject: "commands.cancel." + event.Key(id), Data: data}
}

// TestRealCancel: before its Job exists, while it runs, after its end, again and
// again, on replicas that lead and that do not.
func TestRealCancel(t *testing.T) {
	p := newPlant(t)
	leader, _ := p.run(watcher.Options{Deadlines: quick()})
	standby, _ := p.run(watcher.Options{Deadlines: quick()})
	p.awaitCaches(leader, standby)
	for _, id := range []string{"waits", "runs", "over"} {
		if id == "waits" {
			p.accept(id)
			continue
		}
		p.submit(id, map[string]string{"runs": "sim/hang", "over": "sim/succeed:100ms"}[id])
	}
	p.awaitTail("runs", event.TypePodStarted)
	completed := p.awaitEnd("over")
	job := p.jobOf("runs")
	for range 2 { // twice, as after a lost acknowledgement
		var all sync.WaitGroup
		for _, w := range []*watcher.Watcher{leader, standby} {
			for _, id := range []string{"waits", "runs", "over", "nobody's"} {
				all.Go(func() {
					if err := w.Cancel(t.Context(), cancel(t, id, "a\nreason")); err != nil {
						t.Errorf("%s: %v", id, err)
					}
				})
			}
		}
		all.Wait()
	}
	for _, id := range []string{"waits", "runs"} {
		last := p.awaitEnd(id)
		if code, says := errorOf(last); last.Type != event.TypeJobException || code != jobstatus.Cancelled || says != "Cancelled by the operator: a reason." {
			t.Errorf("%s: %s %s %q", id, last.Type, code, says)
		}
	}
	if got := p.awaitEnd("over"); got.Type != event.TypeJobCompleted || got.Sequence != completed.Sequence {
		t.Errorf("over: %s", got.Type)
	}
	if got := p.awaitEnd("waits"); got.Sequence != 0 || jobstatus.JobID(got.Data) != "" {
		t.Errorf("waits: %v", got)
	}
	p.awaitGone(job)
}

// TestRealCancelWhileItIsLaunched: the Job is created and recorded while the
// cancel comes: one end, and no Job stays.
func TestRealCancelWhileItIsLaunched(t *testing.T) {
	p := newPlant(t)
	w, _ := p.run(watcher.Options{Deadlines: quick()})
	p.awaitCaches(w)
	const n = 20
	for i := range n {
		id := fmt.Sprint("raced ", i)
		r := p.accept(id)
		var both sync.WaitGroup
		both.Go(func() { // as the launcher does
			tail, err := p.broker.Tail(t.Context(), "svc", event.Key(id))
			if err != nil || !tail.Empty() {
				return // cancelled before: none is created
			}
			job, err := kubejob.Build(r, p.namespace, kubejob.Name("w", id))
			if err != nil {
				t.Error(err)
				return
			}
			if job, err = p.client.BatchV1().Jobs(p.namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
				t.Error(err)
				return
			}
			e, err := event.New(event.Key(id), "launcher", id, 0, time.Now(), jobstatus.Started(job, r))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := p.broker.Append(t.Context(), "svc", tail, e); err != nil && !errors.Is(err, broker.ErrConflict) {
				t.Error(err)
			}
		})
		both.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond) // from before the create to after the append
			if err := w.Cancel(t.Context(), cancel(t, id, "")); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
		both.Wait()
	}
	for i := range n {
		id := fmt.Sprint("raced ", i)
		if last := p.awaitEnd(id); last.Type != event.TypeJobException {
			t.Errorf("%s: %s", id, last.Type)
		} else if code, _ := errorOf(last); code != jobstatus.Cancelled {
			t.Errorf("%s: %s", id, code)
		}
	}
	p.awaitNoJobs()
}

// TestRealCancelOfAJobThatIsGone: its log gets its end all the same.
func TestRealCancelOfAJobThatIsGone(t *testing.T) {
	p := newPlant(t)
	job := p.submit("id", "sim/hang")
	r := p.request("id")
	started, err := event.New(event.Key("id"), "launcher", "id", 0, time.Now(), jobstatus.Started(job, r))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.broker.Append(t.Context(), "svc", broker.Tail{}, started); err != nil {
		t.Fatal(err)
	}
	p.strip(job)
	p.awaitGone(job)
	w, _ := p.run(watcher.Options{Deadlines: quick()})
	p.awaitCaches(w)
	if err := w.Cancel(t.Context(), cancel(t, "id", "")); err != nil {
		t.Fatal(err)
	}
	last := p.awaitEnd("id")
	if code, _ := errorOf(last); code != jobstatus.Cancelled || jobstatus.JobID(last.Data) != job.UID || last.Sequence != 1 {
		t.Errorf("%s as event %d, %v", code, last.Sequence, last.Data)
	}
}
