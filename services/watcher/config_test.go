package watcher

import (
	"slices"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/replica"
)

// TestLogTailPermission: the permission for logs is wanted where they are read.
func TestLogTailPermission(t *testing.T) {
	logs := cluster.Permission{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "billing"}
	for lines, want := range map[int]bool{0: false, 1: true} {
		c := Config{Namespace: "billing", LogTail: lines}
		if slices.Contains(c.Permissions(), logs) != want {
			t.Errorf("%d lines: %v", lines, c.Permissions())
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":                                func(*Config) {},
		"--log-tail takes 0 to 100 lines": func(c *Config) { c.LogTail = 101 },
		"--watch-workers takes 1 to 256":  func(c *Config) { c.Workers = 0 },
		"--lease-duration takes 3s to 2m": func(c *Config) { c.LeaseDuration = time.Second },
		"--start-deadline takes more than 0 and at most 24h0m0s":       func(c *Config) { c.Deadlines.Start = 25 * time.Hour },
		"--unstartable-deadline takes more than 0 and at most 24h0m0s": func(c *Config) { c.Deadlines.Unstartable = 0 },
	} {
		c := Config{
			Replica: replica.Config{Installation: "default", Broker: broker.Config{Replicas: 1}}, LeaseDuration: 15 * time.Second, Workers: 1, LogTail: 100,
			Deadlines: DeadlineConfig{Start: time.Hour, ImagePull: time.Minute, Unstartable: time.Minute},
		}
		change(&c)
		got := ""
		if err := c.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
