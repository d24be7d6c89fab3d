package sqsd

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"
)

// lockTimeout is how long another process may hold the file before openStore
// gives up.
const lockTimeout = 2 * time.Second

// Buckets of sqs.db. Keys begin with the queue's id, so that a queue's entries
// are neighbours; values are JSON, except that of sequences.
var (
	bucketQueues    = []byte("queues")    // id → record
	bucketSequences = []byte("sequences") // id → LastSeq, 8 bytes
	bucketContents  = []byte("contents")  // id, Seq → content
	bucketStates    = []byte("states")    // id, Seq → state
	bucketDedup     = []byte("dedup")     // id, key → dedupRecord
	perQueueBuckets = [][]byte{bucketQueues, bucketSequences, bucketContents, bucketStates, bucketDedup}
)

// store writes changes to bbolt in the order in which they were added. Changes
// that are added while a write is under way share the next one, and so one
// fsync. A nil *store keeps nothing.
type store struct {
	db *bolt.DB

	mu      sync.Mutex
	next    *commit       // what the next write takes; nil for nothing
	closed  bool          // by close; what is added later fails
	wake    chan struct{} // holds a token while next is set; closed by close
	broken  error         // the first write that failed; nothing is written after it
	drained chan struct{}
}

// commit is one write. Its size is bounded by the requests in progress: each
// waits for its own.
type commit struct {
	entries []entry
	done    chan struct{}
	err     error
}

// entry sets a key, removes it (value nil), or removes all keys with the
// prefix key (bucket nil, in all buckets).
type entry struct {
	bucket, key, value []byte
}

// openStore opens or makes dir/sqs.db. Only one process can have it open.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("sqsd: make the folder of the queues: %w", err)
	}
	path := filepath.Join(dir, "sqs.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("sqsd: open %s, is another endpoint using it? %w", path, err)
	}
	s := &store{db: db, wake: make(chan struct{}, 1), drained: make(chan struct{})}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range perQueueBuckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqsd: prepare %s: %w", path, err), db.Close())
	}
	go s.write()
	return s, nil
}

// add hands entries over to be written. The caller keeps others from adding
// until its entries are in, so that the order is that of the changes in memory.
func (s *store) add(entries []entry) *commit {
	if s == nil || len(entries) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return failedCommit(errors.New("the endpoint is stopped"))
	}
	if s.next == nil {
		s.next = &commit{done: make(chan struct{})}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	s.next.entries = append(s.next.entries, entries...)
	return s.next
}

func failedCommit(err error) *commit {
	c := &commit{done: make(chan struct{}), err: err}
	close(c.done)
	return c
}

// wait returns when the commit is on disk. A nil commit is there already.
func (c *commit) wait() error {
	if c == nil {
		return nil
	}
	<-c.done
	return c.err
}

func (s *store) write() {
	defer close(s.drained)
	for range s.wake {
		s.mu.Lock()
		c := s.next
		s.next = nil
		s.mu.Unlock()
		if c == nil {
			continue
		}
		if s.broken == nil {
			s.broken = s.db.Update(c.apply)
		}
		if s.broken != nil {
			c.err = fmt.Errorf("the queues cannot be written; free the disk and restart the endpoint: %w", s.broken)
		}
		close(c.done)
	}
}

func (c *commit) apply(tx *bolt.Tx) error {
	for _, e := range c.entries {
		var err error
		switch {
		case e.bucket == nil:
			err = removePrefix(tx, e.key)
		case e.value == nil:
			err = tx.Bucket(e.bucket).Delete(e.key)
		default:
			err = tx.Bucket(e.bucket).Put(e.key, e.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func removePrefix(tx *bolt.Tx, prefix []byte) error {
	for _, name := range perQueueBuckets {
		b := tx.Bucket(name)
		var keys [][]byte
		for k := range prefixed(b, prefix) {
			keys = append(keys, k)
		}
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// prefixed iterates over the keys that begin with prefix, in order.
func prefixed(b *bolt.Bucket, prefix []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		c := b.Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix) && k != nil; k, v = c.Next() {
			if !yield(k, v) {
				return
			}
		}
	}
}

// close writes what was added and closes the file.
func (s *store) close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	s.closed = true
	close(s.wake)
	s.mu.Unlock()
	<-s.drained
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("sqsd: close the queues' file: %w", err)
	}
	return nil
}

// takeEntries returns the queue's changes since the last call, ready to be written.
func (q *queue) takeEntries() ([]entry, error) {
	dirty := q.dirty
	q.dirty = nil
	var entries []entry
	put := func(bucket, key []byte, value any) error {
		b, err := json.Marshal(value)
		entries = append(entries, entry{bucket, key, b})
		return err
	}
	for _, c := range dirty {
		var err error
		switch {
		case c.sent != nil:
			key := q.messageKey(c.sent.Seq)
			err = errors.Join(put(bucketContents, key, c.sent.content), put(bucketStates, key, c.sent.state))
			entries = append(entries, entry{bucketSequences, q.ID[:], binary.BigEndian.AppendUint64(nil, q.LastSeq)})
		case c.received != nil:
			err = put(bucketStates, q.messageKey(c.received.Seq), c.received.state)
		case c.removed != 0:
			key := q.messageKey(c.removed)
			entries = append(entries, entry{bucketContents, key, nil}, entry{bucketStates, key, nil})
		case c.dedup != nil:
			err = put(bucketDedup, q.dedupEntryKey(c.dedupKey), c.dedup)
		case c.dedupKey != "":
			entries = append(entries, entry{bucketDedup, q.dedupEntryKey(c.dedupKey), nil})
		case c.record:
			err = put(bucketQueues, q.ID[:], q.record)
		}
		if err != nil {
			return nil, fmt.Errorf("sqsd: encode a change of the queue %s: %w", q.Name, err)
		}
	}
	return entries, nil
}

func (q *queue) messageKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), q.ID[:]...), seq)
}

func (q *queue) dedupEntryKey(key string) []byte {
	return append(append([]byte(nil), q.ID[:]...), key...)
}

// load reads all queues as they were written last.
func (s *store) load(now time.Time) ([]*queue, error) {
	var queues []*queue
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketQueues).ForEach(func(id, value []byte) error {
			var r record
			if err := json.Unmarshal(value, &r); err != nil {
				return err
			}
			a, err := readAttributes(r.Set)
			if err != nil {
				return err
			}
			if last := tx.Bucket(bucketSequences).Get(id); last != nil {
				r.LastSeq = binary.BigEndian.Uint64(last)
			}
			q := newQueue(r, a)
			queues = append(queues, q)
			return q.load(tx, now)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sqsd: read %s; move it away to begin with no queues: %w", s.db.Path(), err)
	}
	return queues, nil
}

func (q *queue) load(tx *bolt.Tx, now time.Time) error {
	states := tx.Bucket(bucketStates)
	for key, value := range prefixed(tx.Bucket(bucketContents), q.ID[:]) {
		m := &message{Seq: binary.BigEndian.Uint64(key[len(uuid.UUID{}):])}
		if err := json.Unmarshal(value, &m.content); err != nil {
			return err
		}
		if err := json.Unmarshal(states.Get(key), &m.state); err != nil {
			return err
		}
		q.place(now, m)
	}
	for key, value := range prefixed(tx.Bucket(bucketDedup), q.ID[:]) {
		var r dedupRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return err
		}
		q.dedup[string(key[len(q.ID):])] = r
	}
	return nil
}
