package nats_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/services/console"
)

// pages are shown by a console with the key of a user: each page has its text, and NATS
// refuses it nothing.
func pages(t *testing.T, s *secured, user string, want map[string]string) {
	t.Helper()
	said := &await.Text{}
	var cfg console.Config
	flags := []string{"--nats-url=" + s.nats.URL(), "--nats-nkey=" + s.seed(user), "--nats-api-prefix=" + s.api, "--nats-ca=" + s.ca, "--topology=verify", "--metrics-addr=127.0.0.1:0", "--listen=127.0.0.1:0"}
	if user == broker.RoleActions {
		flags = append(flags, "--allow-actions")
	}
	mustDo(t, "flags", process.Parse(&cfg, nil, flags...))
	listens := make(chan string, 1)
	cfg.OnListen = func(address string) { listens <- address }
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := console.Run(ctx, cfg, zerolog.New(said)); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v\n%s", user, err, said)
			close(listens)
		}
	})
	defer running.Wait()
	defer cancel()
	url := "http://" + <-listens
	for path, text := range want {
		await.That(t, user+": "+path+" shows "+text, func() bool {
			res, err := http.Get(url + path)
			if err != nil {
				return false
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			return err == nil && res.StatusCode == http.StatusOK && strings.Contains(string(body), text)
		})
	}
	if strings.Contains(strings.ToLower(said.String()), "permissions violation") {
		t.Errorf("NATS refused %s something:\n%s", user, said)
	}
}

// whatHappened is on the pages after allServices.
func whatHappened() map[string]string {
	return map[string]string{
		"/": `data-count="completed"`, "/jobs?service=s": `href="/jobs/` + event.Key("one"), "/jobs/" + event.Key("one"): "busybox",
		"/jobs/" + event.Key("cancelled"): "CANCELLED", "/refused": `href="/refused/` + event.Key("refused"), "/undelivered": "Everything is delivered",
	}
}
