package process

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
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

// TestFilesThatBelongTogether: what load gives is in force as a whole, and what
// is wrong is shown while it lasts.
func TestFilesThatBelongTogether(t *testing.T) {
	now, changed, wrong := 1, true, error(nil)
	f, err := OpenFiles("both", func() (int, bool, error) { return now, changed, wrong }, zerolog.Nop())
	if err != nil || f.Get() != 1 {
		t.Fatal(err)
	}
	s, err := Listen(t.Context(), "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	s.AddFile("both", f)
	is := func(value int, metric float64) {
		t.Helper()
		f.reread()
		families, err := s.Registry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		shown := slices.ContainsFunc(families, func(family *dto.MetricFamily) bool {
			return family.GetName() == "jobrelay_configuration_wrong" && family.GetMetric()[0].GetGauge().GetValue() == metric
		})
		if !shown {
			t.Errorf("the metric is not %v", metric)
		}
		said, ready := s.Checks()
		if f.Get() != value || !ready || strings.Contains(said["both"], "stays in force") != (metric == 1) {
			t.Errorf("%d, %v", f.Get(), said)
		}
	}
	now, changed, wrong = 2, false, errors.New("one of them is wrong")
	is(1, 1)
	now, changed, wrong = 0, false, nil // as it was before
	is(1, 0)
	now, changed, wrong = 3, true, nil
	is(3, 0)
	if _, err := OpenFiles("both", func() (int, bool, error) { return 0, false, errors.New("wrong") }, zerolog.Nop()); err == nil {
		t.Error("a bad start is taken")
	}
}
