package jobrelay

import (
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestCompletions(t *testing.T) {
	parser, err := kong.New(&cli{}, kong.Name("jobrelay"), kong.Vars{"version": "", "loopback": ""})
	if err != nil {
		t.Fatal(err)
	}
	for typed, want := range map[string]string{
		"deadl": "deadletters", "deadletters ": "list show replay", "deadletters re": "replay", "nothing ": "?", "__": "",
		"list --stat": "--status", "list --status r": "rejected running", "list --limit ": "", "list --limit 5 --serv": "--service",
		"--output ": "table json yaml text", "list -o y": "yaml", "list --output=j": "--output=json", "list --output = j": "json", "list --output =": "table json yaml text",
		"completion ": "bash zsh fish", "completion bash ": "", "show ": "", "deadletters replay --all --id x --h": "--help --host",
	} {
		var got []string
		for _, a := range completions(parser.Model.Node, strings.Split(typed, " ")) {
			got = append(got, a.word)
		}
		if want == "?" {
			if !slices.Contains(got, "list") {
				t.Errorf("%q: %q", typed, got)
			}
			continue
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q", typed, got)
		}
	}
	if got := completions(parser.Model.Node, nil); len(got) < 20 || got[0].help == "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestShellsAreKnown(t *testing.T) {
	for _, name := range []string{"bash", "zsh", "fish"} {
		if !strings.Contains(shells[name], "jobrelay __complete -- ") {
			t.Errorf("%s: %s", name, shells[name])
		}
	}
}
