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

// File is configuration from a file, or from several that belong together, that
// is read again when it changes. While a newer content is wrong, the last good
// one stays in force.
type File[T any] struct {
	name string // empty: it never changes
	load func() (value T, changed bool, err error)
	log  zerolog.Logger

	mu     sync.Mutex
	value  T
	readAt time.Time
	wrong  error // of the newest content, nil where it is in force
}

// OpenFile reads and parses a file, whose first content must be good. Without a
// name it holds what parse makes of nothing, for ever.
func OpenFile[T any](name string, parse func([]byte) (T, error), log zerolog.Logger) (*File[T], error) {
	var good []byte // what was parsed last
	parsed := false
	return OpenFiles(name, func() (value T, changed bool, err error) {
		var text []byte
		if name != "" {
			if text, err = ReadFile(name); err != nil {
				return value, false, err
			}
		}
		if parsed && bytes.Equal(text, good) {
			return value, false, nil
		}
		if value, err = parse(text); err != nil {
			return value, false, fmt.Errorf("%s: %w", name, err)
		}
		good, parsed = text, true
		return value, true, nil
	}, log)
}

// OpenFiles is OpenFile of what several files make together: load reads them,
// and reports whether that is unlike what it gave last. It is called by one
// goroutine at a time; the error of its first call is OpenFiles's. The name is
// for the log; without one load is called once.
func OpenFiles[T any](name string, load func() (value T, changed bool, err error), log zerolog.Logger) (*File[T], error) {
	f := &File[T]{name: name, load: load, log: log, readAt: time.Now()}
	var err error
	if f.value, _, err = load(); err != nil {
		return nil, err
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

// Wrong reports whether a newer content is wrong.
func (f *File[T]) Wrong() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong != nil
}

// Watch reads the file again until ctx ends.
func (f *File[T]) Watch(ctx context.Context) {
	for f.name != "" && Sleep(ctx, rereadEvery) == nil {
		f.reread()
	}
}

// reread says each new mistake, and each change, once.
func (f *File[T]) reread() {
	value, changed, err := f.load()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.wrong == nil || f.wrong.Error() != err.Error() {
			f.log.Error().Err(err).Str("file", f.name).Msg("the file is wrong; its last good content stays in force")
		}
		f.wrong = err
		return
	}
	f.wrong = nil
	if changed {
		f.value, f.readAt = value, time.Now()
		f.log.Info().Str("file", f.name).Msg("the file was read again")
	}
}

// ReadFile reads at most 1 MiB and a byte of a file. Its error names the file and
// no more than is needed.
func ReadFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w; name a file that this process may read", err)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	return text, errors.Join(err, file.Close())
}
