package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
)

func letterSubject(service, logKey string, n int) string {
	return "deadletters.callback." + event.ServiceToken(service) + "." + logKey + "." + strconv.Itoa(n)
}

// PutLetter stores a dead letter, in the place of what stood there before: there is
// one of each callback.
func (b *Broker) PutLetter(ctx context.Context, l delivery.Letter) error {
	l.Version = delivery.LetterVersion
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = b.publish(ctx, &nats.Msg{Subject: letterSubject(l.Service, l.LogKey, l.N), Data: data})
	return err
}

// Letter is the dead letter of a callback, or ErrNotFound, by the word of the stream's
// leader.
func (b *Broker) Letter(ctx context.Context, service, logKey string, n int) (delivery.Letter, error) {
	m, err := b.surely(ctx, StreamDeadLetters, letterSubject(service, logKey, n))
	if err != nil {
		return delivery.Letter{}, err
	}
	return decodeLetter(m.Subject, m.Data)
}

func decodeLetter(subject string, data []byte) (delivery.Letter, error) {
	var l delivery.Letter
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("%s: %w", subject, err)
	}
	if l.Version != delivery.LetterVersion {
		return l, fmt.Errorf("%s: a dead letter of version %d, which this jobrelay does not know", subject, l.Version)
	}
	return l, nil
}

// LetterFilter says which dead letters are read.
type LetterFilter struct {
	Service string // empty: any
	ID      string // empty: any
}

func (f LetterFilter) subject() string {
	service := "*"
	if f.Service != "" {
		service = event.ServiceToken(f.Service)
	}
	return "deadletters.callback." + service + ".*.*"
}

// lettersAhead is how many letters are fetched ahead: each has a body.
const lettersAhead = 200

// Letters hands every dead letter that fits to each, in the order in which they were
// stored, until there is none left, or each returns an error, which is returned. One
// that cannot be read is said in the log, and hides no other.
func (b *Broker) Letters(ctx context.Context, f LetterFilter, each func(delivery.Letter) error) error {
	consumer, err := b.js.OrderedConsumer(ctx, StreamDeadLetters, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{f.subject()}, DeliverPolicy: jetstream.DeliverAllPolicy, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return streamError(StreamDeadLetters, err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(lettersAhead))
	if err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("dead letters: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("dead letters: %w", err)
		}
		l, err := decodeLetter(m.Subject(), m.Data())
		switch {
		case err != nil:
			b.log.Warn().Err(err).Msg("dead letters")
		case f.ID == "" || l.ID == f.ID:
			if err := each(l); err != nil {
				return err
			}
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// Replay starts a run over letters of one log: it publishes its token. The same run
// again within two minutes is dropped by the server; later it finds its ledger, and
// is done.
func (b *Broker) Replay(ctx context.Context, letters []delivery.Letter) (delivery.Run, error) {
	return b.ReplayBy(ctx, letters, "")
}

// ReplayBy is Replay by somebody who is known: the letters keep the name.
func (b *Broker) ReplayBy(ctx context.Context, letters []delivery.Letter, by string) (delivery.Run, error) {
	if len(letters) == 0 {
		return delivery.Run{}, errors.New("a replay of no letter")
	}
	run := delivery.NewRun(letters)
	run.By = by
	w := delivery.Wakeup{Key: letters[0].LogKey, Run: &run}
	data, err := json.Marshal(w)
	if err != nil {
		return run, err
	}
	_, err = b.publish(ctx, &nats.Msg{Subject: "wakeups." + PurposeCallback + "." + w.Token(), Data: data}, jetstream.WithMsgID(w.Token()))
	return run, err
}
