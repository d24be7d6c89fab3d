package watcher_test

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/event"
)

// memory is a watcher.Log that keeps the append rule.
type memory struct {
	mu       sync.Mutex
	requests map[string]event.Event
	logs     map[string][]event.Event // by service and log key
	sequence uint64
	at       map[string]uint64
	asks     int // for requests

	before func(e event.Event) error // is asked before each append; an error is its outcome
}

func newMemory() *memory {
	return &memory{requests: map[string]event.Event{}, logs: map[string][]event.Event{}, at: map[string]uint64{}}
}

func (m *memory) Request(_ context.Context, key string) (event.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asks++
	e, ok := m.requests[key]
	if !ok {
		return event.Event{}, broker.ErrNotFound
	}
	return e, nil
}

func (m *memory) Tail(_ context.Context, service, logKey string) (broker.Tail, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tail(service + "/" + logKey), nil
}

func (m *memory) Tails(_ context.Context, logs []broker.LogName) (map[broker.LogName]broker.Tail, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[broker.LogName]broker.Tail{}
	for _, l := range logs {
		if t := m.tail(l.Service + "/" + l.Key); !t.Empty() {
			out[l] = t
		}
	}
	return out, nil
}

func (m *memory) tail(log string) broker.Tail {
	if len(m.logs[log]) == 0 {
		return broker.Tail{}
	}
	return broker.Tail{Sequence: m.at[log], Last: m.logs[log][len(m.logs[log])-1]}
}

func (m *memory) Append(_ context.Context, service string, after broker.Tail, e event.Event) (broker.Tail, error) {
	if m.before != nil {
		if err := m.before(e); err != nil {
			return broker.Tail{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	log := service + "/" + e.LogKey
	if m.at[log] != after.Sequence {
		return broker.Tail{}, broker.ErrConflict
	}
	e.Sequence = after.Next()
	m.sequence++
	m.at[log] = m.sequence
	m.logs[log] = append(m.logs[log], e)
	return m.tail(log), nil
}

func (m *memory) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asks
}

// types are the last tokens of the log's subjects, in order.
func (m *memory) types(service, id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, e := range m.logs[service+"/"+event.Key(id)] {
		subject := event.Subject(service, e.LogKey, e.Type)
		out = append(out, subject[strings.LastIndex(subject, ".")+1:])
	}
	return strings.Join(out, " ")
}

var errDown = errors.New("the log cannot be reached")
