package jobrelay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
)

// stopTimeout bounds the stop of one part.
const stopTimeout = 10 * time.Second

type sqsCommand struct {
	Listen string   `name:"listen" default:"127.0.0.1:9324" help:"Address to serve on."`
	Dir    string   `name:"dir" help:"Folder that keeps the state; in memory without it."`
	Queues []string `name:"queue" default:"jobs" help:"Queue to make at the start; may be repeated."`

	Latency time.Duration `name:"latency" help:"Wait so long before each request's work, as a network does."`
}

func (s *sqsCommand) Run(ctx context.Context, c *console) error {
	server, err := sqsd.Start(sqsd.Config{Addr: s.Listen, Dir: s.Dir})
	if err != nil {
		return err
	}
	server.Faults().Set(sqsd.AllActions, sqsd.Fault{Latency: s.Latency})
	for _, name := range s.Queues {
		address, err := server.CreateQueue(name, nil)
		if err != nil {
			return err
		}
		if err := c.print(map[string]string{"queueUrl": address, "endpoint": server.URL()}, "queue "+address+"\n"); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return stopped(server.Stop)
}

type webhooksCommand struct {
	Listen string `name:"listen" default:"127.0.0.1:8080" help:"Address to listen on."`
}

func (w *webhooksCommand) Run(ctx context.Context, c *console) error {
	server, err := hookd.Start(hookd.Config{Addr: w.Listen, OnCall: showCalls(c, time.Time{})})
	if err != nil {
		return err
	}
	if err := c.print(map[string]string{"url": server.URL()}, "webhooks arrive at "+server.URL()+"\n"); err != nil {
		return err
	}
	<-ctx.Done()
	return stopped(server.Stop)
}

func stopped(stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return stop(ctx)
}

// showCalls prints each callback as it arrives: its time, or the time since
// start where that is set.
func showCalls(c *console, start time.Time) func(hookd.Call) {
	var mu sync.Mutex
	return func(call hookd.Call) {
		mu.Lock()
		defer mu.Unlock()
		at := call.At.Format("15:04:05.000")
		if !start.IsZero() {
			at = fmt.Sprintf("%6.2f s", call.At.Sub(start).Seconds())
		}
		_ = c.print(map[string]any{ // a closed terminal is nobody's to tell
			"at": call.At, "path": call.Path, "webhookId": call.Header.Get("Webhook-Id"),
			"body": string(call.Body), "answered": call.Status,
		}, fmt.Sprintf("%s  %-12s%s %s  %s\n", at, "webhook", call.Method, call.Path, call.Body))
	}
}
