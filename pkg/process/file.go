package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	// rereadEvery is between two looks at a file. A mounted ConfigMap changes
	// by links that notifications miss, so the content is compared.
	rereadEvery = 2 * time.Second
	maxFile     = 1<<20 + 1 // bytes that are read; what is larger its parser refuses
)

// File is a configuration file that is read again when it changes. While what
// it holds is wrong, the last good content stays in force.
type File[T any] struct {
	name  string
	parse func([]byte) (T, error)
	log   zerolog.Logger

	mu     sync.Mutex
	value  T
	text   []byte
	readAt time.Time
	wrong  error // of the newest content, nil where it is in force
}

// OpenFile reads and parses a file, whose first content must be good. Without a
// name it holds what parse makes of nothing, for ever.
func OpenFile[T any](name string, parse func([]byte) (T, error), log zerolog.Logger) (*File[T], error) {
	f := &File[T]{name: name, parse: parse, log: log, readAt: time.Now()}
	var err error
	if name != "" {
		if f.text, err = readFile(name); err != nil {
			return nil, err
		}
	}
	if f.value, err = parse(f.text); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// Get is what is in force.
func (f *File[T]) Get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value
}

// State says since when the content is in force, and what is wrong with a newer
// one: a mistake in a file is no reason to stop work.
func (f *File[T]) State() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.name == "":
		return "none", nil
	case f.wrong != nil:
		return fmt.Sprintf("that of %s stays in force: %v", f.readAt.UTC().Format(time.RFC3339), f.wrong), nil
	}
	return "read at " + f.readAt.UTC().Format(time.RFC3339), nil
}

// Watch reads the file again until ctx ends.
func (f *File[T]) Watch(ctx context.Context) {
	for f.name != "" && Sleep(ctx, rereadEvery) == nil {
		f.reread()
	}
}

// reread says each new mistake, and each change, once.
func (f *File[T]) reread() {
	text, err := readFile(f.name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && bytes.Equal(text, f.text) {
		f.wrong = nil
		return
	}
	var value T
	if err == nil {
		value, err = f.parse(text)
	}
	if err != nil {
		if f.wrong == nil || f.wrong.Error() != err.Error() {
			f.log.Error().Err(err).Str("file", f.name).Msg("the file is wrong; its last good content stays in force")
		}
		f.wrong = err
		return
	}
	f.value, f.text, f.readAt, f.wrong = value, text, time.Now(), nil
	f.log.Info().Str("file", f.name).Msg("the file was read again")
}

// readFile gives an error that names the file and no more than is needed.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w; name a file that this process may read", err)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	return text, errors.Join(err, file.Close())
}
