package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// fileSuffix at the end of a variable's name: the value is in the file that it
// names, as secrets are handed over. What ends the file's last line is cut off.
const fileSuffix = "_FILE"

// maxValue bounds a value in a file, in bytes.
const maxValue = 64 << 10

// fileValues resolves NAME_FILE for every flag whose variable is NAME.
type fileValues struct{}

// Validate is a kong.Resolver's.
func (fileValues) Validate(*kong.Application) error { return nil }

// Resolve is a kong.Resolver's: nil where the file is not asked for.
func (fileValues) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		name, ok := os.LookupEnv(env + fileSuffix)
		if !ok || name == "" || !strings.HasPrefix(env, EnvPrefix+"_") {
			continue
		}
		if value, set := os.LookupEnv(env); set && value != "" {
			return nil, fmt.Errorf("%s and %s%s are both set; leave one out", env, env, fileSuffix)
		}
		text, err := ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("%s%s: %w", env, fileSuffix, err)
		}
		if len(text) > maxValue {
			return nil, errors.New(env + fileSuffix + ": the file is larger than 64 KiB; name the one with the value alone")
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	}
	return nil, nil //nolint:nilnil // none is an answer
}

// Variables are the names in the environment that cfg's flags, and those of its
// commands, are read from. cfg and vars are as for Parse.
func Variables(cfg any, vars map[string]string) ([]string, error) {
	parser, err := newParser(cfg, vars)
	if err != nil {
		return nil, err
	}
	var out []string
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			for _, env := range f.Envs {
				out = append(out, env, env+fileSuffix)
			}
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	slices.Sort(out)
	return slices.Compact(out), nil
}
