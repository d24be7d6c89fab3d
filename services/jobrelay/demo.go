package jobrelay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/hookd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// demoTimeout bounds the way of the sample from the queue to callback 2.
const demoTimeout = time.Minute

type demoCommand struct {
	Keep bool `help:"Keep the folder with the state and the services' log."`
}

// Run is the whole pipeline in one go: it ends with success after callback 2.
func (d *demoCommand) Run(ctx context.Context, c *console) error {
	dir, err := os.MkdirTemp("", "jobrelay-demo-")
	if err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(dir, "services.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	start := time.Now()
	show := showCalls(c, start)
	calls := make(chan hookd.Call, 16)
	s, err := startStack(ctx, stackConfig{
		Dir: dir, WebhookAllow: webhook.Loopback, Progress: c.progress(), Log: c.log.Logger(logFile, ""),
		OnCall: func(call hookd.Call) {
			show(call)
			select {
			case calls <- call:
			default: // more than the demo asks for
			}
		},
	})
	if err == nil {
		err = d.follow(ctx, s, calls)
		s.stop()
	}
	if err != nil {
		return fmt.Errorf("the demo failed: %w; the services' log is %s", err, logFile.Name())
	}
	s.say("done", "callbacks 0, 1 and 2 arrived, in order; everything is stopped")
	s.say("look", "`jobrelay dev` keeps such a stack up, and says the address of its console, which shows it in a browser")
	if d.Keep {
		s.say("kept", "%s", dir)
		return nil
	}
	return os.RemoveAll(dir)
}

// follow sends the sample and waits for its callbacks.
func (d *demoCommand) follow(ctx context.Context, s *stack, calls <-chan hookd.Call) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoTimeout, fmt.Errorf("callback 2 did not come in %s", demoTimeout))
	defer cancel()
	b, err := broker.OpenAdmin(ctx, broker.Access{URL: s.description.NATS.URL}, s.cfg.Log)
	if err != nil {
		return err
	}
	defer b.Close()
	var tap sync.WaitGroup
	tapping, stopTap := context.WithCancel(ctx)
	defer tap.Wait()
	defer stopTap()
	tap.Go(func() {
		if err := b.Tap(tapping, func(e broker.Stored) { s.sayEvent(e) }); err != nil {
			s.say("event", "%v", err)
		}
	})
	message, err := sampleTo(s.description.Webhooks.URL)
	if err != nil {
		return err
	}
	q, err := sqsqueue.Open(ctx, sqsqueue.Config{QueueURL: s.description.SQS.QueueURL, Endpoint: s.description.SQS.Endpoint, Region: devRegion})
	if err != nil {
		return err
	}
	id, err := q.Send(ctx, message)
	if err != nil {
		return err
	}
	s.say("sent", "the original's sample message, as %s", id)
	return expect(ctx, s, calls, 0, 1, 2)
}

// expect waits for callbacks of these statuses, in this order.
func expect(ctx context.Context, s *stack, calls <-chan hookd.Call, statuses ...int) error {
	failed := make(chan error, 1)
	go func() { failed <- s.wait(ctx) }()
	for _, want := range statuses {
		select {
		case call := <-calls:
			var body struct {
				Status int `json:"status"`
			}
			if err := json.Unmarshal(call.Body, &body); err != nil {
				return fmt.Errorf("callback %s: %w", call.Body, err)
			}
			if body.Status != want {
				return fmt.Errorf("callback %d was expected, %s came", want, call.Body)
			}
		case err := <-failed:
			return errors.Join(err, context.Cause(ctx))
		}
	}
	return nil
}

// sampleTo is the sample with only its webhook's address changed.
func sampleTo(address string) ([]byte, error) {
	const original = "http://webhook.com"
	if bytes.Count(request.Sample, []byte(original)) != 1 {
		return nil, fmt.Errorf("the sample does not name %s once", original)
	}
	return bytes.Replace(request.Sample, []byte(original), []byte(address), 1), nil
}

// sayEvent prints an event as a tap sees it.
func (s *stack) sayEvent(e broker.Stored) {
	subject := event.Subject(e.Service, e.LogKey, e.Type)
	data, err := event.DataJSON(e.Event)
	if err != nil {
		s.say("event", "%s: %v", subject, err)
		return
	}
	s.say("event", "%s  %s", e.Type, data)
}
