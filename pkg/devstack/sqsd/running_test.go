package sqsd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

// TestStopDoesNotWaitForUnusedConnections is about connections on which nothing
// was sent: http.Server.Shutdown would give each of them 5 s.
func TestStopDoesNotWaitForUnusedConnections(t *testing.T) {
	e := newEndpoint(t)
	unused, err := net.Dial("tcp", e.Addr())
	check(t, err)
	defer func() { _ = unused.Close() }()
	e.queue("q", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	check(t, e.Stop(ctx))
}

func TestManyConsumersShareAQueue(t *testing.T) {
	s, err := sqsd.Start(sqsd.Config{Dir: t.TempDir()})
	check(t, err)
	e := endpoint{Server: s, Client: newClient(t, s.URL()), t: t}
	t.Cleanup(e.stop)
	url := e.queue("q", nil)
	const n = 200
	var senders, consumers sync.WaitGroup
	began := time.Now()
	for i := range 10 {
		senders.Go(func() {
			for j := range n / 10 {
				if _, err := e.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String(fmt.Sprintf("%d/%d", i, j))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	seen := map[string]int{}
	for range 5 {
		consumers.Go(func() {
			for ctx.Err() == nil {
				out, err := e.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, WaitTimeSeconds: 20})
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				for _, m := range out.Messages {
					if err := e.delete(url, m); err != nil {
						t.Error(err)
					}
					mu.Lock()
					seen[*m.Body]++
					if len(seen) == n {
						cancel()
					}
					mu.Unlock()
				}
			}
		})
	}
	senders.Wait()
	t.Logf("%d concurrent sends took %s", n, time.Since(began))
	consumers.Wait()
	for body, times := range seen {
		if times != 1 {
			t.Errorf("%s was received %d times", body, times)
		}
	}
}

func TestStartNamesATakenAddress(t *testing.T) {
	e := newEndpoint(t)
	if _, err := sqsd.Start(sqsd.Config{Addr: e.Addr()}); err == nil || !strings.Contains(err.Error(), e.Addr()) {
		t.Errorf("error %v, want one that names %s", err, e.Addr())
	}
}
