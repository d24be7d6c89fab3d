//go:build e2e

package callbacks

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// change is one place of the source, replaced for a build.
type change struct {
	file     string // below the module's root
	old, new string // old stands there exactly once
}

// ackWait of these tests' notifiers: what a killed or frozen one had in hand is
// handed out again after 3 s instead of 45.
func ackWait() []change {
	const file = "pkg/broker/topology.go"
	return []change{
		{file, `{StreamEvents, "notifier", []string{"events.*.*.*"}, 45 * time.Second,`, `{StreamEvents, "notifier", []string{"events.*.*.*"}, 3 * time.Second,`},
		{file, `{StreamWakeups, "notifier", []string{"wakeups.callback.>"}, 45 * time.Second,`, `{StreamWakeups, "notifier", []string{"wakeups.callback.>"}, 3 * time.Second,`},
	}
}

// build builds the notifier with its failpoints and with the changes, into dir.
func build(dir string, changes ...change) (binary string, err error) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	texts := map[string]string{}
	for _, c := range changes {
		path := filepath.Join(root, c.file)
		if _, there := texts[path]; !there {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			texts[path] = string(b)
		}
		if n := strings.Count(texts[path], c.old); n != 1 {
			return "", fmt.Errorf("%s holds %d times, not once: %s", c.file, n, c.old)
		}
		texts[path] = strings.Replace(texts[path], c.old, c.new, 1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range texts {
		replaced := filepath.Join(dir, fmt.Sprintf("%d-%s", len(overlay.Replace), filepath.Base(path)))
		if err := os.WriteFile(replaced, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = replaced
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "notifier")
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-overlay", list, "-o", binary, "./services/notifier/cmd/notifier")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	return binary, nil
}
