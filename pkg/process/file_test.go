package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestFile(t *testing.T) {
	parse := func(b []byte) (string, error) {
		if strings.Contains(string(b), "bad") {
			return "", errors.New("it is bad")
		}
		return string(b), nil
	}
	name := filepath.Join(t.TempDir(), "f")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenFile(name, parse, zerolog.Nop()); err == nil {
		t.Error("a missing file is taken")
	}
	write("bad")
	if _, err := OpenFile(name, parse, zerolog.Nop()); err == nil {
		t.Error("a bad file is taken")
	}
	write("a")
	f, err := OpenFile(name, parse, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	is := func(value, state string) {
		t.Helper()
		f.reread()
		said, err := f.State()
		if f.Get() != value || err != nil || !strings.Contains(said, state) {
			t.Errorf("%q %q %v", f.Get(), said, err)
		}
	}
	write("b")
	is("b", "read at")
	write("bad")
	is("b", "it is bad")
	write("b")
	is("b", "read at")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	is("b", "no such file")
	write("c")
	is("c", "read at")
	none, err := OpenFile("", parse, zerolog.Nop())
	if err != nil || none.Get() != "" {
		t.Error(err)
	}
}
