package jobrelay

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

type devCommand struct {
	StateDir     string `name:"state-dir" default:".jobrelay" help:"Folder that keeps everything; a start on it goes on where it was."`
	Kubeconfig   string `name:"kubeconfig" placeholder:"FILE" env:"-" help:"A cluster of your own instead of the local one."`
	WebhookAllow string `name:"webhook-allow" default:"${loopback}" placeholder:"CIDR|HOST,…" help:"Internal addresses that callbacks may go to."`
}

// Run keeps the stack up until a signal.
func (d *devCommand) Run(ctx context.Context, c *console) error {
	progress := c.progress()
	s, err := startStack(ctx, stackConfig{
		Dir: d.StateDir, Kubeconfig: d.Kubeconfig, WebhookAllow: d.WebhookAllow,
		Progress: progress, OnCall: showCalls(c, time.Time{}), Log: c.log.Logger(os.Stderr, ""),
	})
	if err != nil {
		return err
	}
	s.say("ready", "%s; callbacks may go to %s", s.cfg.Dir+"/"+descriptionFile, d.WebhookAllow)
	next(progress, d.StateDir, s.description.Console.URL)
	err = s.wait(ctx)
	s.say("stopping", "the services, then their parts")
	s.stop()
	s.say("stopped", "%s keeps everything", s.cfg.Dir)
	return err
}

// next says what to type now.
func next(out io.Writer, dir, console string) {
	flag := ""
	if dir != ".jobrelay" {
		flag = " --state-dir " + dir
	}
	fmt.Fprintf(out, "\nsend a message from another terminal:\n  jobrelay send%s MESSAGE.json\nand look at %s\n\n", flag, console)
}
