// Package recording reads and writes recorded watch streams, and replays them.
//
// A recording is what a watch of Jobs, Pods and Kubernetes Events showed, one
// JSON object a line in the order of receipt, each with its time. Replay puts
// it through what the watcher decides with, package jobstatus, and so says
// which events a job's log would have got, and when.
package recording

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// MaxLine bounds a line, in bytes. An object in etcd has at most 1.5 MiB.
const MaxLine = 4 << 20

// Types of lines: those of watch events, and what the recorder itself did.
const (
	Added    = "ADDED"
	Modified = "MODIFIED"
	Deleted  = "DELETED"
	Action   = "ACTION"
)

// Line is one line of a recording.
type Line struct {
	Received time.Time       `json:"received"`         // by the recorder's clock
	Type     string          `json:"type"`             // Added, Modified, Deleted or Action
	Note     string          `json:"note,omitempty"`   // of an Action, for people
	Object   json.RawMessage `json:"object,omitempty"` // as the API server gave it; none for an Action

	number int // in its file, from 1; 0 where it comes from none
}

// Error is what is wrong with a recording.
type Error struct {
	Line int // from 1; 0: the whole of it
	Err  error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("line %d: %v", e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

func (l Line) errorf(format string, args ...any) error {
	return &Error{l.number, fmt.Errorf(format, args...)}
}

// Read gives one line after the other; empty ones are passed over. It keeps one
// line in memory. An error is the last that it gives: an *Error where the
// recording is wrong, else the reader's own.
func Read(from io.Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		s := bufio.NewScanner(from)
		s.Buffer(nil, MaxLine)
		number := 0
		for s.Scan() {
			number++
			if len(bytes.TrimSpace(s.Bytes())) == 0 {
				continue
			}
			l, err := parse(s.Bytes(), number)
			if !yield(l, err) || err != nil {
				return
			}
		}
		switch err := s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(Line{}, &Error{number + 1, fmt.Errorf("longer than %d bytes", MaxLine)})
		case err != nil:
			yield(Line{}, err)
		}
	}
}

func parse(text []byte, number int) (Line, error) {
	l := Line{number: number}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, l.errorf("not a line of a recording: %w", err)
	}
	if l.Received.IsZero() {
		return l, l.errorf("received is missing: when was this seen?")
	}
	switch l.Type {
	case Added, Modified, Deleted, Action:
		return l, nil
	}
	return l, l.errorf("type is %q, not %s, %s, %s or %s", l.Type, Added, Modified, Deleted, Action)
}

// Write appends one line.
func Write(to io.Writer, l Line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = to.Write(append(b, '\n'))
	return err
}
