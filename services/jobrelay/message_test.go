package jobrelay

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/request"
)

func TestCopiesChangeNothingButTheID(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"id":"x"}`, `{"id":"x-1"}`},
		{" { \"a\" : {\"id\":\"y\"},\n \"id\" :\t\"x\" , \"b\":[\"id\"]} ", " { \"a\" : {\"id\":\"y\"},\n \"id\" :\t\"x-1\" , \"b\":[\"id\"]} "},
		{`{"\u0069d":"x"}`, `{"\u0069d":"x-1"}`},
		{`{"id":"\"é\u00e9<"}`, `{"id":"\"éé\u003c-1"}`},
	} {
		id, err := findID([]byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if got := string(id.replaced(id.value + "-1")); got != c.want {
			t.Errorf("%s: %s", c.body, got)
		}
	}
	for _, body := range []string{``, `no JSON`, `[]`, `{}`, `{"id":1}`, `{"id":""}`, `{"id":"x","ID":"y"}`, `{"id":"x","id":"x"}`, `{"id":"x"} 1`} {
		if _, err := findID([]byte(body)); err == nil || !strings.Contains(err.Error(), "--count needs") {
			t.Errorf("%s: %v", body, err)
		}
	}
	sample, err := findID(request.Sample)
	if err != nil {
		t.Fatal(err)
	}
	if got := request.Parse(sample.replaced("other"), request.Options{}); got.ID != "other" || got.Request == nil {
		t.Errorf("%+v", got)
	}
}

// TestLinesAreReadAsTheyAre: whatever the lines, those that are not blank come
// one by one, whole up to the bound.
func TestLinesAreReadAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.StringMatching(`[a-z {}]{0,5}`)).Draw(t, "lines")
		end := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end")
		var want, got []string
		for _, line := range in {
			if strings.TrimSpace(line) != "" {
				want = append(want, line)
			}
		}
		text := strings.Join(in, end)
		lines("f", strings.NewReader(text), func(m message, err error) bool {
			if err != nil {
				t.Fatal(err)
			}
			if in[m.line-1] != string(m.body) {
				t.Errorf("line %d is %q", m.line, m.body)
			}
			got = append(got, string(m.body))
			return true
		})
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%q of %q", got, text)
		}
	})
}

func TestALineTooLongIsCutAndTheNextIsRead(t *testing.T) {
	long := strings.Repeat("x", 3*maxMessage)
	var sizes []int
	lines("f", strings.NewReader(long+"\nshort\n"+long), func(m message, _ error) bool {
		sizes = append(sizes, len(m.body))
		return true
	})
	if len(sizes) != 3 || sizes[0] != maxMessage || sizes[1] != len("short") || sizes[2] != maxMessage {
		t.Errorf("%v", sizes)
	}
	broken := errors.New("broken")
	var failed error
	lines("f", io.MultiReader(strings.NewReader("a\n"), failing{broken}), func(_ message, err error) bool {
		failed = err
		return true
	})
	if !errors.Is(failed, broken) {
		t.Errorf("%v", failed)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestSince(t *testing.T) {
	for text, want := range map[string]time.Time{
		"90m": time.Now().Add(-90 * time.Minute), "2d": time.Now().Add(-48 * time.Hour), "0s": time.Now(),
		"2026-01-02T15:04:05Z": time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
	} {
		var s since
		if err := s.UnmarshalText([]byte(text)); err != nil || s.Sub(want).Abs() > time.Minute {
			t.Errorf("%s: %v %v", text, s, err)
		}
	}
	for _, text := range []string{"", "d", "1", "-1h", "-1d", "yesterday", "1.5d"} {
		if err := new(since).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestForeignTextMovesNoCursor(t *testing.T) {
	if got := printable("a\x1b[2J\r\n\tü\u202e"); got != "a\uFFFD[2J\uFFFD\n\tü\uFFFD" {
		t.Errorf("%q", got)
	}
}

// TestColoursAreForATerminal: and they leave the columns in line.
func TestColoursAreForATerminal(t *testing.T) {
	body := []byte(`{"id":"x","service":"s","colour":1}`)
	text := func(color bool) string {
		var out bytes.Buffer
		var tally tally
		if err := tally.print(&console{out: &out, color: color}, new(rules).judge(body), ""); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	coloured := text(true)
	if !strings.Contains(coloured, red+"error"+plain) || !strings.Contains(coloured, yellow+"warning"+plain) {
		t.Errorf("%q", coloured)
	}
	if got := strings.NewReplacer(red, "", yellow, "", plain, "").Replace(coloured); got != text(false) {
		t.Errorf("%q", got)
	}
}
