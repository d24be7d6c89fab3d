//go:build browser

package console

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// TestWholePipeline: what jobrelay dev prints leads to a console that follows a message
// from its queue to its last callback, and shows another that was not accepted.
func TestWholePipeline(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(os.Getenv("JOBRELAY_BIN_DIR"), "jobrelay")
	p := &child.Process{
		Name: "jobrelay dev", Binary: binary, Args: []string{"dev", "--state-dir", dir}, Log: filepath.Join(dir, "log"),
		Env: append(child.CleanEnvironment(), "JOBRELAY_KUBE_BIN="+os.Getenv("JOBRELAY_KUBE_BIN")),
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	var dev struct {
		Console  struct{ URL string }
		Webhooks struct{ URL string }
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); dev.Console.URL == ""; <-tick.C {
		if !p.Running() || time.Since(begin) > 3*time.Minute {
			t.Fatalf("jobrelay dev names no console: %s", p.LastLines())
		}
		if text, err := os.ReadFile(filepath.Join(dir, "dev.json")); err == nil {
			if err := json.Unmarshal(text, &dev); err != nil {
				t.Fatal(err)
			}
		}
	}
	b := open(t, dev.Console.URL)
	b.shows("/jobs")
	b.live()
	send := func(message string) {
		file := filepath.Join(t.TempDir(), "message.json")
		if err := os.WriteFile(file, []byte(message), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), binary, "send", "--state-dir", dir, file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const good, bad = "from-queue-to-callback", "not-to-be-accepted"
	send(`{"id":"` + good + `","service":"example","job":{"prefixName":"bb","namespace":"default","image":"busybox","command":["true"]},"webhook":{"url":"` + dev.Webhooks.URL + `/hook"}}`)
	b.reads(good)
	b.shows("/jobs/" + event.Key(good))
	b.reads("completed", "204")
	b.sound("a job of the whole pipeline")
	send(`{"id":"` + bad + `","service":"example","job":{"prefixName":"bb","namespace":"default","command":["true"]}}`)
	b.shows("/refused")
	b.reads(bad, "MESSAGE_INVALID")
	b.shows("/")
	b.reads("ingest", "launcher", "watcher", "notifier")
	b.sound("Now of the whole pipeline")
}
