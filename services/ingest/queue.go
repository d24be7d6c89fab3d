package ingest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// The bounds of one queue's options.
const (
	maxInFlight  = 5000
	maxReceivers = 16
)

// queue is a queue with its options.
type queue struct {
	url       string
	name      string // as it is called in /readyz, metrics and events
	receivers int    // long polls at once, at most
	inFlight  int    // messages held at once
	service   string // that all its messages must have; empty: any
}

// queues reads --sqs-queue-url: each URL may be followed by options, as in
// URL;receivers=8;in-flight=100;service=billing. Queues without in-flight share
// what the others leave of --ingest-in-flight.
func (c *Config) queues() ([]queue, error) {
	var out []queue
	seen := map[string]bool{}
	left, sharing := c.InFlight, 0
	for _, text := range c.QueueURLs {
		q, err := c.queue(text)
		if err != nil {
			return nil, err
		}
		if seen[q.name] {
			return nil, fmt.Errorf("--sqs-queue-url has queue %s twice", q.name)
		}
		seen[q.name] = true
		if left -= q.inFlight; q.inFlight == 0 {
			sharing++
		}
		out = append(out, q)
	}
	if left < sharing {
		return nil, fmt.Errorf("--ingest-in-flight is %d: too few for the in-flight of %d queues; raise it, or lower theirs", c.InFlight, len(out))
	}
	for i := range out {
		if out[i].inFlight == 0 {
			out[i].inFlight = left / sharing
		}
	}
	return out, nil
}

func (c *Config) queue(text string) (queue, error) {
	url, options, _ := strings.Cut(strings.TrimSpace(text), ";")
	name, err := sqsqueue.NameOf(url)
	if err != nil {
		return queue{}, fmt.Errorf("--sqs-queue-url: %w", err)
	}
	q := queue{url: url, name: name, receivers: c.Receivers}
	for option := range strings.SplitSeq(options, ";") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "":
			if value != "" {
				return queue{}, fmt.Errorf("--sqs-queue-url: queue %s has the value %s without an option", name, value)
			}
		case "receivers":
			q.receivers, err = number(value, maxReceivers)
		case "in-flight":
			q.inFlight, err = number(value, maxInFlight)
		case "service":
			if q.service = value; !request.IsService(value) {
				err = fmt.Errorf("takes what a message's service may be")
			}
		default:
			err = fmt.Errorf("is none of the options receivers, in-flight and service")
		}
		if err != nil {
			return queue{}, fmt.Errorf("--sqs-queue-url: queue %s: %s %w", name, key, err)
		}
	}
	return q, nil
}

func number(text string, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("takes 1 to %d", most)
	}
	return n, nil
}
