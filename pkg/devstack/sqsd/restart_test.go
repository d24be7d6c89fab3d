package sqsd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

// childDir makes the test binary an endpoint on that folder; see TestMain.
const childDir = "SQSD_TEST_CHILD_DIR"

func serveUntilKilled(dir string) {
	s, err := sqsd.Start(sqsd.Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.URL())
	select {}
}

func TestARestartKeepsEverything(t *testing.T) {
	dir, clock := t.TempDir(), newClock()
	e := start(t, dir, clock)
	dead := e.queue("dead", nil)
	url := e.queue("q", map[string]string{"VisibilityTimeout": "30",
		"RedrivePolicy": `{"deadLetterTargetArn":"` + e.attributes(dead, "QueueArn")["QueueArn"] + `","maxReceiveCount":2}`})
	fifo := e.fifo("q.fifo", map[string]string{"ContentBasedDeduplication": "true"})
	gone := e.queue("gone", nil)

	e.send(url, "in flight")
	inFlight := e.receive(url)[0]
	e.send(url, "deleted")
	check(t, e.delete(url, e.receive(url)[0]))
	e.send(url, "delayed", func(in *sqs.SendMessageInput) { in.DelaySeconds = 60 })
	e.send(url, "waiting")
	e.send(gone, "gone")
	_, err := e.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &gone})
	check(t, err)
	for _, body := range []string{"1", "2"} {
		e.send(fifo, body, inGroup("g", ""))
	}
	first := e.receive(fifo, atMost(1))[0]
	before := e.attributes(url, "All")
	e.stop()

	clock.Advance(29 * time.Second)
	e = start(t, dir, clock)
	url, fifo = e.QueueURL("q"), e.QueueURL("q.fifo")
	after := e.attributes(url, "All")
	for name, value := range before {
		wantEqual(t, name, after[name], value)
	}
	wantEqual(t, "visible", e.bodies(url), "waiting")
	wantEqual(t, "the group is blocked", e.bodies(fifo), "")
	e.send(fifo, "2", inGroup("g", ""))
	check(t, e.delete(fifo, first)) // its handle is still good
	wantEqual(t, "order and deduplication", e.bodies(fifo), "2")
	clock.Advance(time.Second)
	wantEqual(t, "after its timeout", e.bodies(url), "in flight")
	check(t, e.delete(url, inFlight)) // an old handle now
	clock.Advance(30 * time.Second)
	wantEqual(t, "one is due, one comes again, one is dead", e.bodies(url), "delayed waiting")
	wantEqual(t, "dead letters", e.bodies(e.QueueURL("dead")), "in flight")
	_, err = e.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("gone")})
	wantCode(t, err, "AWS.SimpleQueueService.NonExistentQueue")
}

func TestOneFolderHasOneEndpoint(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, newClock())
	if _, err := sqsd.Start(sqsd.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another endpoint") {
		t.Errorf("error %v, want one that says why", err)
	}
}

// TestAKilledEndpointKeepsWhatItAcknowledged kills an endpoint while ten
// clients send and delete, three times over one folder.
func TestAKilledEndpointKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	sent, deleting, deleted := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for round := range 3 {
		child, url := startChild(t, dir)
		client := newClient(t, url)
		if _, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q")}); err != nil {
			t.Fatal(err)
		}
		queueURL := url + "/000000000000/q"
		enough := make(chan struct{})
		acknowledged := 0
		var clients sync.WaitGroup
		for i := range 10 {
			clients.Go(func() {
				for j := 0; ; j++ {
					body := fmt.Sprintf("%d/%d/%d", round, i, j)
					if _, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &queueURL, MessageBody: &body}); err != nil {
						return
					}
					mu.Lock()
					sent[body] = true
					if acknowledged++; acknowledged == 100 {
						close(enough)
					}
					mu.Unlock()
					if j%2 == 0 {
						continue
					}
					out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &queueURL, VisibilityTimeout: 43200})
					if err != nil {
						return
					}
					for _, m := range out.Messages {
						mu.Lock()
						deleting[*m.Body] = true
						mu.Unlock()
						if _, err := client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: m.ReceiptHandle}); err != nil {
							return
						}
						mu.Lock()
						deleted[*m.Body] = true
						mu.Unlock()
					}
				}
			})
		}
		<-enough
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // "signal: killed"
		clients.Wait()
	}

	// A day later nothing is in flight any more.
	e := start(t, dir, sqsd.NewManualClock(time.Now().Add(24*time.Hour)))
	left := map[string]bool{}
	for {
		got := e.receive(e.QueueURL("q"), func(in *sqs.ReceiveMessageInput) { in.VisibilityTimeout = 43200 })
		if len(got) == 0 {
			break
		}
		for _, m := range got {
			left[*m.Body] = true
		}
	}
	for body := range sent {
		if !left[body] && !deleting[body] {
			t.Errorf("%s was acknowledged and is lost", body)
		}
	}
	for body := range deleted {
		if left[body] {
			t.Errorf("%s was deleted and is back", body)
		}
	}
	t.Logf("%d sends and %d deletes acknowledged, %d messages left", len(sent), len(deleted), len(left))
}

func startChild(t *testing.T, dir string) (child *exec.Cmd, url string) {
	t.Helper()
	child = exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	t.Cleanup(func() { // when the test failed before it did
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return child, strings.TrimSpace(line)
}

func TestTwoHundredSendsToADiskAreFast(t *testing.T) {
	e := start(t, t.TempDir(), newClock())
	url := e.queue("q", nil)
	began := time.Now()
	for range 200 {
		e.send(url, "m")
	}
	took := time.Since(began)
	t.Logf("200 sends, one after the other, took %s", took)
	if took > 10*time.Second { // the bound is loose, for slow disks; the log has the number
		t.Errorf("200 sends took %s", took)
	}
}
