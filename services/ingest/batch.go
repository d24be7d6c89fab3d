package ingest

import (
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

const (
	// batchWait is how long a message waits for others, so that one call is for
	// up to 10.
	batchWait = 50 * time.Millisecond
	// batchCalls bounds the calls of one kind at once: one that is slow does not
	// hold up the others.
	batchCalls = 4
)

// batches calls do with the messages of in, up to 10 at a time and batchCalls
// at once, until in is closed and all is done.
func batches(in <-chan *sqsqueue.Message, do func([]*sqsqueue.Message)) {
	var calls errgroup.Group
	calls.SetLimit(batchCalls)
	for m := range in {
		batch := []*sqsqueue.Message{m}
		timer := time.NewTimer(batchWait)
	fill:
		for len(batch) < maxPolled {
			select {
			case m, open := <-in:
				if !open {
					break fill
				}
				batch = append(batch, m)
			case <-timer.C:
				break fill
			}
		}
		timer.Stop()
		calls.Go(func() error {
			do(batch)
			return nil
		})
	}
	_ = calls.Wait() // none has an error
}
