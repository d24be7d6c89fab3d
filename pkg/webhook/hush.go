package webhook

import (
	"bytes"
	"io"
	"log"
	"sync"
)

// unasked is what net/http says of bytes on an idle connection, followed by
// the bytes: up to 4 KiB of a receiver's text.
var unasked = []byte("Unsolicited response received on idle HTTP channel")

// hush keeps receivers' text out of the standard logger's output, where
// net/http offers no other way.
var hush = sync.OnceFunc(func() { log.SetOutput(hushed{log.Writer()}) })

type hushed struct{ io.Writer }

// Write gets one line at a time, which may have a date before its text.
func (h hushed) Write(line []byte) (int, error) {
	if bytes.Contains(line, unasked) {
		return len(line), nil
	}
	return h.Writer.Write(line)
}
