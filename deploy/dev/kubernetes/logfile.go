package main

import (
	"os"
	"sync"
)

// logFileMost bounds a log: at most this much in the file, and as much in its
// predecessor.
const logFileMost = 16 << 20 // bytes

// logFile is a log that is cut off: when it is full it becomes NAME.1, and a
// new one begins. It is safe for concurrent use.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int
}

// openLogFile begins a new log; the one of the last run becomes NAME.1.
func openLogFile(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.rotate()
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+len(p) > logFileMost {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(p)
	l.size += n
	return n, err
}

func (l *logFile) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil && !os.IsNotExist(err) {
		return err
	}
	next, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = next, 0
	return nil
}
