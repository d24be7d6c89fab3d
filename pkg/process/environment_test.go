package process_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/process"
)

// TestAValueFromAFile: a flag wins over its variable, a variable and its file are not
// both given, and what is wrong with the file is one line without its content.
func TestAValueFromAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "value")
	parse := func(content string, args ...string) (flags, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var f flags
		err := process.Parse(&f, map[string]string{"wait": "1s"}, args...)
		return f, err
	}
	t.Setenv("JOBRELAY_OTHER_FILE", file)
	if f, err := parse("secret\n"); err != nil || f.Other != "secret" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err := parse("secret\n", "--other=flag"); err != nil || f.Other != "flag" {
		t.Errorf("with a flag: %+v, %v", f, err)
	}
	t.Setenv("JOBRELAY_OTHER", "env")
	if _, err := parse("secret"); err == nil || !strings.Contains(err.Error(), "both set") || strings.Contains(err.Error(), "secret") {
		t.Errorf("with both: %v", err)
	}
	t.Setenv("JOBRELAY_OTHER", "")
	if f, err := parse("secret"); err != nil || f.Other != "secret" {
		t.Errorf("with an empty one: %+v, %v", f, err)
	}
	t.Setenv("JOBRELAY_OTHER_FILE", file+"x")
	if _, err := parse(""); err == nil || !strings.Contains(err.Error(), "JOBRELAY_OTHER_FILE") {
		t.Errorf("a file that is missing: %v", err)
	}
	t.Setenv("JOBRELAY_OTHER_FILE", "")
	t.Setenv("JOBRELAY_WAIT_FILE", file)
	if f, err := parse("7s\n"); err != nil || f.Wait != 7*time.Second {
		t.Errorf("a duration: %+v, %v", f, err)
	}
	if _, err := parse("soon"); err == nil || !strings.Contains(err.Error(), "wait") {
		t.Errorf("a bad value: %v", err)
	}
	if _, err := parse(strings.Repeat("x", 65<<10)); err == nil || !strings.Contains(err.Error(), "64 KiB") {
		t.Errorf("a large file: %v", err)
	}
}

func TestVariables(t *testing.T) {
	got, err := process.Variables(&flags{}, map[string]string{"wait": "1s"})
	want := []string{"JOBRELAY_OTHER", "JOBRELAY_OTHER_FILE", "JOBRELAY_QUEUES", "JOBRELAY_QUEUES_FILE", "JOBRELAY_WAIT", "JOBRELAY_WAIT_FILE"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}
