package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// LedgerEntry is a ledger and the revision to expect when it is replaced.
type LedgerEntry struct {
	delivery.Ledger

	Revision uint64 // 0: there is none yet
}

// ledgerSubject is where the ledger of a log stands, named by the log key, or that
// of a replay, named <log key>.<run>.
func ledgerSubject(name string) string {
	if strings.Contains(name, ".") {
		return "ledger.replay." + name
	}
	return "ledger.callback." + name
}

// Ledger reads a ledger by its name (delivery.Wakeup); one that is missing is empty.
func (b *Broker) Ledger(ctx context.Context, name string) (LedgerEntry, error) {
	var out LedgerEntry
	var err error
	out.Revision, err = b.readJSON(ctx, StreamLedger, ledgerSubject(name), &out.Ledger)
	return out, err
}

// SwapLedger replaces old by l. ErrConflict means that old is not the last
// any more. After any other error it may or may not be replaced.
func (b *Broker) SwapLedger(ctx context.Context, name string, old LedgerEntry, l delivery.Ledger) (LedgerEntry, error) {
	revision, err := b.swapJSON(ctx, ledgerSubject(name), old.Revision, l)
	if err != nil {
		return old, err
	}
	return LedgerEntry{Ledger: l, Revision: revision}, nil
}

// Active are the keys of a service's requests that hold one of its places
// (maxActive), and the revision to expect when they are replaced.
type Active struct {
	Keys     []string
	Revision uint64 // 0: there were none yet
}

func activeSubject(service string) string { return "ledger.active." + event.ServiceToken(service) }

// Active reads who holds a place of the service.
func (b *Broker) Active(ctx context.Context, service string) (Active, error) {
	var out Active
	var err error
	out.Revision, err = b.readJSON(ctx, StreamLedger, activeSubject(service), &out.Keys)
	return out, err
}

// SwapActive replaces old by keys, with SwapLedger's errors.
func (b *Broker) SwapActive(ctx context.Context, service string, old Active, keys []string) error {
	_, err := b.swapJSON(ctx, activeSubject(service), old.Revision, keys)
	return err
}

// readJSON reads the last message of a subject into v and returns its sequence;
// where there is none v stays, and the sequence is 0.
func (b *Broker) readJSON(ctx context.Context, stream, subject string, v any) (uint64, error) {
	m, err := b.last(ctx, stream, subject)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(m.Data, v); err != nil {
		return 0, fmt.Errorf("%s: %w", subject, err)
	}
	return m.Sequence, nil
}

// swapJSON writes v where the subject's last sequence is old.
func (b *Broker) swapJSON(ctx context.Context, subject string, old uint64, v any) (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", subject, err)
	}
	return b.publish(ctx, &nats.Msg{Subject: subject, Data: data}, jetstream.WithExpectLastSequencePerSubject(old))
}
