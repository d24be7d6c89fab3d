package sqsd_test

import (
	"bufio"
	"context"
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

func TestOneFolderHasOneEndpoint(t *testing.T) {
	dir := t.TempDir()
	startIn(t, dir, newClock())
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
	e := startIn(t, dir, clockAt(time.Now().Add(24*time.Hour)))
	left := map[string]bool{}
	for {
		got := e.receive(e.QueueURL("q"), visibleAfter(43200))
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

// BenchmarkASendToADisk is one send after the other, each on disk before its answer.
func BenchmarkASendToADisk(b *testing.B) {
	s, err := sqsd.Start(sqsd.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	url, err := s.CreateQueue("q", nil)
	if err != nil {
		b.Fatal(err)
	}
	client := newClient(b, s.URL())
	for b.Loop() {
		if _, err := client.SendMessage(b.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("m")}); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Stop(context.Background()); err != nil {
		b.Fatal(err)
	}
}
