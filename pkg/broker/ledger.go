package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// LedgerEntry is a ledger and the revision to expect when it is replaced.
type LedgerEntry struct {
	delivery.Ledger

	Revision uint64 // 0: there is none yet
}

func ledgerSubject(logKey string) string { return "ledger.callback." + logKey }

// Ledger reads the ledger of a log; one that is missing is empty.
func (b *Broker) Ledger(ctx context.Context, logKey string) (LedgerEntry, error) {
	m, err := b.last(ctx, StreamLedger, ledgerSubject(logKey))
	if errors.Is(err, ErrNotFound) {
		return LedgerEntry{}, nil
	}
	if err != nil {
		return LedgerEntry{}, err
	}
	out := LedgerEntry{Revision: m.Sequence}
	if err := json.Unmarshal(m.Data, &out.Ledger); err != nil {
		return LedgerEntry{}, fmt.Errorf("ledger %s: %w", logKey, err)
	}
	return out, nil
}

// SwapLedger replaces old by l. ErrConflict means that old is not the last
// any more. After any other error it may or may not be replaced.
func (b *Broker) SwapLedger(ctx context.Context, logKey string, old LedgerEntry, l delivery.Ledger) (LedgerEntry, error) {
	data, err := json.Marshal(l)
	if err != nil {
		return old, fmt.Errorf("ledger %s: %w", logKey, err)
	}
	m := &nats.Msg{Subject: ledgerSubject(logKey), Data: data}
	revision, err := b.publish(ctx, m, jetstream.WithExpectLastSequencePerSubject(old.Revision))
	if err != nil {
		return old, err
	}
	return LedgerEntry{Ledger: l, Revision: revision}, nil
}
