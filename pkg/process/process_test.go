package process_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/process"
)

type flags struct {
	Queues []string      `name:"queues" sep:","`
	Wait   time.Duration `name:"wait" default:"${wait}"`
	Other  string        `name:"other" default:"unset"`
}

func TestArgumentsWinOverTheEnvironment(t *testing.T) {
	t.Setenv("JOBRELAY_QUEUES", "a,b")
	t.Setenv("JOBRELAY_WAIT", "7s")
	t.Setenv("JOBRELAY_OTHER", "env")
	var f flags
	if err := process.Parse(&f, map[string]string{"wait": "1s"}, "--queues=c"); err != nil {
		t.Fatal(err)
	}
	if len(f.Queues) != 1 || f.Queues[0] != "c" || f.Wait != 7*time.Second || f.Other != "env" {
		t.Errorf("%+v", f)
	}
	t.Setenv("JOBRELAY_WAIT", "soon")
	if err := process.Parse(&f, map[string]string{"wait": "1s"}); err == nil || !strings.Contains(err.Error(), "wait") {
		t.Errorf("a bad value: %v", err)
	}
}

func TestReadiness(t *testing.T) {
	s, err := process.Listen(t.Context(), "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	get := func(path string) (int, string) {
		res, err := http.Get("http://" + s.Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "starting") {
		t.Errorf("at first: %d %s", code, body)
	}
	broken := errors.New("not connected")
	var now error
	s.Add("nats", func() error { return now })
	if code, body := get("/readyz"); code != http.StatusOK || !strings.Contains(body, `"nats":"ok"`) {
		t.Errorf("ready: %d %s", code, body)
	}
	if err := process.AwaitReady(t.Context(), s.Address()); err != nil {
		t.Error(err)
	}
	now = broken
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, broken.Error()) {
		t.Errorf("broken: %d %s", code, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := process.AwaitReady(ctx, s.Address()); err == nil || !strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("it waits without saying for what: %v", err)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if _, body := get("/metrics"); !strings.Contains(body, "jobrelay_build_info{") || !strings.Contains(body, "go_goroutines") {
		t.Error("metrics are missing")
	}
	if _, err := process.Listen(t.Context(), s.Address(), nil); err == nil || !strings.Contains(err.Error(), "--metrics-addr") {
		t.Errorf("a taken address: %v", err)
	}
}

func TestLogForms(t *testing.T) {
	for form, want := range map[string]string{"json": `"message":"hello"`, "auto": `"message":"hello"`, "text": "hello"} {
		var out bytes.Buffer
		log := process.Log{Level: "info", Format: form}.Logger(&out, "ingest")
		log.Debug().Msg("quiet")
		log.Info().Msg("hello")
		if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "quiet") {
			t.Errorf("%s: %s", form, out.String())
		}
	}
}

// TestProfilesAreAskedFor: without Profile there are none, and the command line,
// where a login may stand, is never told.
func TestProfilesAreAskedFor(t *testing.T) {
	s, err := process.Listen(t.Context(), "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	get := func(path string) int {
		res, err := http.Get("http://" + s.Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	if code := get("/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("without it: %d", code)
	}
	s.Profile()
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/goroutine": 200, "/debug/pprof/profile?seconds=1": 200,
		"/debug/pprof/cmdline": 404,
	} {
		if code := get(path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
}
