package hookd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg hookd.Config) (*hookd.Server, *http.Client) {
	t.Helper()
	s, err := hookd.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		client.CloseIdleConnections()
	})
	return s, client
}

func post(t *testing.T, client *http.Client, url, body string) (status int, header http.Header, answer string) {
	t.Helper()
	resp, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestACallIsRecordedBeforeItIsAnswered(t *testing.T) {
	var seen []hookd.Call
	s, client := start(t, hookd.Config{OnCall: func(c hookd.Call) { seen = append(seen, c) }})
	if status, _, _ := post(t, client, s.URL()+"/a/b?q=1", `{"n":1}`); status != http.StatusNoContent {
		t.Errorf("status %d, want 204", status)
	}
	calls := s.Calls()
	if len(calls) != 1 || len(seen) != 1 {
		t.Fatalf("%d calls recorded, OnCall saw %d, want 1 each", len(calls), len(seen))
	}
	c := calls[0]
	if c.Method != http.MethodPost || c.Path != "/a/b" || string(c.Body) != `{"n":1}` || c.Status != 204 ||
		c.Header.Get("Content-Type") != "application/json" || c.At.IsZero() {
		t.Errorf("recorded %+v", c)
	}
}

func TestAnswersAsItIsTold(t *testing.T) {
	s, client := start(t, hookd.Config{Answer: func(c hookd.Call) hookd.Answer {
		switch c.Path {
		case "/429":
			return hookd.Answer{Status: 429, Header: http.Header{"retry-after": {"7"}}, Body: []byte("later")}
		case "/body":
			return hookd.Answer{Body: []byte("hello"), Delay: time.Millisecond}
		}
		return hookd.Answer{Hangup: true}
	}})
	if status, header, body := post(t, client, s.URL()+"/429", ""); status != 429 || header.Get("Retry-After") != "7" || body != "later" {
		t.Errorf("got %d %v %q", status, header, body)
	}
	if status, _, body := post(t, client, s.URL()+"/body", ""); status != 200 || body != "hello" {
		t.Errorf("got %d %q, want 200 hello", status, body)
	}
	if resp, err := client.Post(s.URL()+"/hangup", "", nil); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a hangup answered %s", resp.Status)
	}
	if last := s.Calls()[2]; last.Status != 0 {
		t.Errorf("a hangup is recorded with status %d, want 0", last.Status)
	}
}

func TestABodyOverTheLimitIsAnswered413(t *testing.T) {
	s, client := start(t, hookd.Config{Answer: func(hookd.Call) hookd.Answer {
		t.Error("Answer was asked")
		return hookd.Answer{}
	}})
	resp, err := client.Post(s.URL(), "", bytes.NewReader(make([]byte, 1<<20+1)))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if c := s.Calls(); resp.StatusCode != http.StatusRequestEntityTooLarge || len(c) != 1 || c[0].Status != http.StatusRequestEntityTooLarge || len(c[0].Body) != 1<<20 {
		t.Errorf("answered %s, %d calls", resp.Status, len(c))
	}
}

func TestKeepDropsTheOldest(t *testing.T) {
	s, client := start(t, hookd.Config{Keep: 3})
	for i := range 10 {
		post(t, client, fmt.Sprintf("%s/%d", s.URL(), i), "")
	}
	var paths []string
	for _, c := range s.Calls() {
		paths = append(paths, c.Path)
	}
	if got := strings.Join(paths, " "); got != "/7 /8 /9" {
		t.Errorf("kept %s", got)
	}
}

func TestWaitWakesOnArrival(t *testing.T) {
	s, client := start(t, hookd.Config{})
	asked := make(chan int, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.Wait(t.Context(), func(calls []hookd.Call) bool {
			asked <- len(calls)
			return len(calls) == 2
		})
	}()
	if n := <-asked; n != 0 {
		t.Fatalf("first asked with %d calls", n)
	}
	post(t, client, s.URL(), "")
	if n := <-asked; n != 1 {
		t.Fatalf("asked with %d calls, want 1", n)
	}
	post(t, client, s.URL(), "")
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Wait(ctx, func([]hookd.Call) bool { return false })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "2 calls") {
		t.Errorf("error %v", err)
	}
}

func TestStopEndsDelaysWaitsAndUnusedConnections(t *testing.T) {
	s, client := start(t, hookd.Config{Answer: func(hookd.Call) hookd.Answer { return hookd.Answer{Delay: time.Hour} }})
	unused, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unused.Close() }()
	answered := make(chan error, 1)
	go func() {
		resp, err := client.Get(s.URL())
		if err == nil {
			_ = resp.Body.Close()
		}
		answered <- err
	}()
	if err := s.Wait(t.Context(), func(c []hookd.Call) bool { return len(c) == 1 }); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	asked := make(chan struct{}, 1)
	go func() {
		waited <- s.Wait(context.Background(), func([]hookd.Call) bool {
			asked <- struct{}{}
			return false
		})
	}()
	<-asked
	began := time.Now()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Stop took %s", took)
	}
	if err := <-answered; err == nil {
		t.Error("the delayed call was answered")
	}
	if err := <-waited; err == nil {
		t.Error("the wait returned nil")
	}
	if len(s.Calls()) != 1 {
		t.Error("the calls are gone after Stop")
	}
}

func TestATakenAddressIsNamed(t *testing.T) {
	s, _ := start(t, hookd.Config{})
	if _, err := hookd.Start(hookd.Config{Addr: s.Addr()}); err == nil || !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("error %v, want one that names %s", err, s.Addr())
	}
}
