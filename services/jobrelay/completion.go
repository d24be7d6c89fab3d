package jobrelay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCommand struct {
	Shell string `arg:"" name:"SHELL" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what completion --help says besides its flags.
func (*completionCommand) Help() string {
	return "Put one line into the file that the shell reads at its start:\n\n" +
		"bash (~/.bashrc): source <(jobrelay completion bash)\n\n" +
		"zsh (~/.zshrc, after compinit): source <(jobrelay completion zsh)\n\n" +
		"fish (~/.config/fish/config.fish): jobrelay completion fish | source"
}

func (s *completionCommand) Run(c *console) error {
	_, err := fmt.Fprint(c.out, shells[s.Shell])
	return err
}

// shells ask completeCommand with the words up to the cursor. Where it has no
// answer, a file is meant.
var shells = map[string]string{
	"bash": `_jobrelay() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(jobrelay __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)" -- "${COMP_WORDS[COMP_CWORD]#=}"))
}
complete -o default -F _jobrelay jobrelay
`,
	"zsh": `_jobrelay() {
  local line
  local -a found
  for line in "${(@f)$(jobrelay __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  if (( ${#found} )); then
    _describe jobrelay found
  else
    _files
  fi
}
compdef _jobrelay jobrelay
`,
	"fish": `function __jobrelay_found
  set -l words (commandline -opc) (commandline -ct)
  set -g __jobrelay_answers (jobrelay __complete -- $words[2..-1] 2>/dev/null)
  test (count $__jobrelay_answers) -gt 0
end
complete -c jobrelay -f -n __jobrelay_found -a '(printf "%s\n" $__jobrelay_answers)'
`,
}

// completeCommand prints what may stand at the end of its words, a line each with a
// tab and what it is for.
type completeCommand struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

func (w *completeCommand) Run(k *kong.Context, c *console) error {
	words := w.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, a := range completions(k.Model.Node, words) {
		if _, err := fmt.Fprintf(c.out, "%s\t%s\n", a.word, a.help); err != nil {
			return err
		}
	}
	return nil
}

// answer is one thing that may be typed.
type answer struct{ word, help string }

// completions are what the last of the words may become, below a command.
func completions(node *kong.Node, words []string) []answer {
	last := ""
	if n := len(words); n > 0 {
		words, last = words[:n-1], strings.TrimPrefix(words[n-1], "=") // which bash has apart
	}
	before := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "=" })
	var value *kong.Flag // whose value comes next
	argument := 0
	for _, w := range before {
		name, _, whole := strings.Cut(w, "=")
		switch {
		case value != nil:
			value = nil
		case strings.HasPrefix(w, "-"):
			if f := flagOf(node, name); f != nil && !f.IsBool() && !whole {
				value = f
			}
		default:
			if child := childOf(node, w); child != nil {
				node = child
			} else {
				argument++
			}
		}
	}
	name, _, whole := strings.Cut(last, "=")
	var all []answer
	switch {
	case value != nil:
		all = valuesOf(value.Value, "")
	case strings.HasPrefix(last, "-") && whole:
		if f := flagOf(node, name); f != nil {
			all = valuesOf(f.Value, name+"=")
		}
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				all = append(all, answer{"--" + f.Name, sentence(f.Help)})
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				all = append(all, answer{child.Name, sentence(child.Help)})
			}
		}
		if argument < len(node.Positional) {
			all = append(all, valuesOf(node.Positional[argument], "")...)
		}
	}
	return slices.DeleteFunc(all, func(a answer) bool { return !strings.HasPrefix(a.word, last) })
}

// flagOf is a flag of the command or of those above it.
func flagOf(node *kong.Node, name string) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

func childOf(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

// valuesOf are the values that a flag or an argument takes, where they are few.
func valuesOf(v *kong.Value, prefix string) []answer {
	var out []answer
	if v.Enum != "" {
		for _, value := range v.EnumSlice() {
			out = append(out, answer{prefix + value, ""})
		}
	}
	if few, ok := v.Target.Interface().(interface{ values() []string }); ok {
		for _, value := range few.values() {
			out = append(out, answer{prefix + value, ""})
		}
	}
	return out
}

// sentence is the first one of a help.
func sentence(help string) string {
	first, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(first, ".")
}
