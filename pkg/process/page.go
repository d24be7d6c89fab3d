package process

import (
	"fmt"
	"io"
	"strings"
)

// WriteFlags writes cfg's flags as a Markdown table: the flag, its variable in
// the environment, its default and what it is for. cfg and vars are as for
// Parse.
func WriteFlags(out io.Writer, cfg any, vars map[string]string) error {
	parser, err := newParser(cfg, vars)
	if err != nil {
		return err
	}
	var page strings.Builder
	page.WriteString("| flag | environment | default | |\n|---|---|---|---|\n")
	for _, f := range parser.Model.Flags {
		if f.Name == "help" {
			continue
		}
		def := "–"
		switch {
		case f.Required:
			def = "required"
		case f.IsBool() && f.Default == "":
			def = "`false`"
		case f.Default != "":
			def = "`" + f.Default + "`"
		}
		var env []string
		for _, e := range f.Envs {
			env = append(env, "`"+e+"`")
		}
		fmt.Fprintf(&page, "| `--%s` | %s | %s | %s |\n", f.Name, strings.Join(env, " "), strings.ReplaceAll(def, "|", `\|`), strings.ReplaceAll(f.Help, "|", `\|`))
	}
	_, err = io.WriteString(out, page.String())
	return err
}
