package jobrelay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// errUnreadable is what a command's error wraps where a file could not be read:
// its exit code is that of a usage error.
var errUnreadable = errors.New("not every file could be read")

// sources are the files that a command reads messages from.
type sources struct {
	Files  []string `arg:"" name:"FILE" optional:"" help:"Files with one message each; - is standard input."`
	NDJSON bool     `name:"ndjson" env:"-" help:"Each line of a file is a message; empty lines are passed over."`
}

// check says what is wrong with the arguments; kong's Validate of a command
// calls it.
func (s *sources) check() error {
	if len(s.Files) == 0 {
		return errors.New("name a FILE, or - for standard input")
	}
	stdin := 0
	for _, f := range s.Files {
		if f == "-" {
			stdin++
		}
	}
	if stdin > 1 {
		return errors.New("standard input (-) can be read once")
	}
	return nil
}

// several reports whether there may be more than one message.
func (s *sources) several() bool { return len(s.Files) > 1 || s.NDJSON }

// message is one of those that a command reads.
type message struct {
	file string
	line int    // from 1; 0: the whole file
	body []byte // where it is too large, only as much as shows that
}

// from is the file's name, stdin for standard input.
func (m message) from() string {
	if m.file == "-" {
		return "stdin"
	}
	return m.file
}

// name is how people find it again.
func (m message) name() string {
	if m.line > 0 {
		return fmt.Sprintf("%s:%d", m.from(), m.line)
	}
	return m.from()
}

// maxMessage bounds what is read as one message; one byte more than SQS takes,
// so that a message that is too large is seen as such.
const maxMessage = request.MaxBytes + 1

// messages reads one message after the other. An error ends a file, not the
// files after it.
func (s *sources) messages() iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		for _, name := range s.Files {
			if !s.read(name, yield) {
				return
			}
		}
	}
}

func (s *sources) read(name string, yield func(message, error) bool) bool {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return yield(message{file: name}, err)
		}
		defer f.Close()
		in = f
	}
	if s.NDJSON {
		return lines(name, in, yield)
	}
	body, err := io.ReadAll(io.LimitReader(in, maxMessage))
	return yield(message{file: name, body: body}, err)
}

// lines reads a message from each line that is not empty.
func lines(name string, in io.Reader, yield func(message, error) bool) bool {
	r := bufio.NewReaderSize(in, 64<<10)
	for number := 1; ; number++ {
		body, err := line(r)
		if err != nil && !errors.Is(err, io.EOF) {
			return yield(message{file: name}, err)
		}
		if len(bytes.TrimSpace(body)) > 0 && !yield(message{file: name, line: number, body: body}, nil) {
			return false
		}
		if err != nil {
			return true
		}
	}
}

// line reads to the end of a line and keeps the first maxMessage bytes. Its
// error may come with the last line.
func line(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := r.ReadSlice('\n')
		if err == nil {
			part = part[:len(part)-1]
		}
		out = append(out, part[:min(len(part), maxMessage-len(out))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(out, []byte("\r")), err
		}
	}
}

// readFile reads the one message of a file, - for standard input.
func readFile(name string) ([]byte, error) {
	for m, err := range (&sources{Files: []string{name}}).messages() {
		return m.body, err
	}
	return nil, nil
}
