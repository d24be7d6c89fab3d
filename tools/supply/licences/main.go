// Command licences lists the licence of every module that is linked into the
// packages it is given, and fails on one that it does not know or that is not
// allowed. It runs in the folder of the module that they are of.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are licences that ask for no more than their text and a notice; and MPL-2.0,
// which asks for the source of changed files of the module alone, of which there are none.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "0BSD", "MPL-2.0"}

// texts are the names that a module's licence may have; that of its documentation is
// not linked in.
var texts = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$`)

// module is one that is linked in.
type module struct {
	Path, Version, Dir string
	Main               bool
}

// licensed is what is known of a module's licence.
type licensed struct {
	Module   string   `json:"module"`
	Version  string   `json:"version"`
	Licences []string `json:"licences"` // that its texts are; none: there is no text that is known
}

func main() {
	asJSON := flag.Bool("json", false, "a line of JSON for each module")
	flag.Parse()
	if err := run(os.Stdout, *asJSON, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, asJSON bool, packages []string) error {
	modules, err := linked(packages)
	if err != nil {
		return err
	}
	known, err := assets.DefaultClassifier()
	if err != nil {
		return err
	}
	var wrong []string
	for _, m := range modules {
		l, err := licenceOf(known, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		if len(l.Licences) == 0 || slices.ContainsFunc(l.Licences, func(name string) bool { return !slices.Contains(allowed, name) }) {
			wrong = append(wrong, m.Path)
		}
		if asJSON {
			if err := json.NewEncoder(out).Encode(l); err != nil {
				return err
			}
			continue
		}
		name := cmp.Or(strings.Join(l.Licences, ", "), "none found")
		fmt.Fprintf(out, "%-14s %s %s\n", name, m.Path, m.Version)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not among those allowed, or not known: %s; look at their texts, then replace the module, or allow the licence in tools/supply/licences/main.go", strings.Join(wrong, ", "))
	}
	fmt.Fprintf(os.Stderr, "licences: %d modules, each under one of %s\n", len(modules), strings.Join(allowed, ", "))
	return nil
}

// linked are the modules of the packages' dependencies, without our own and the
// standard library.
func linked(packages []string) ([]module, error) {
	if len(packages) == 0 {
		return nil, errors.New("no packages: name some, ./services/... for example")
	}
	list := exec.Command("go", append([]string{"list", "-deps", "-json=Module"}, packages...)...) //nolint:gosec,noctx // its own arguments
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	seen := map[string]module{}
	for decoder := json.NewDecoder(strings.NewReader(string(text))); ; {
		var p struct{ Module *module }
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if p.Module != nil && !p.Module.Main {
			seen[p.Module.Path] = *p.Module
		}
	}
	var out []module
	for _, m := range seen {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// licenceOf reads the texts at the top of a module's folder.
func licenceOf(known *classifier.Classifier, m module) (licensed, error) {
	l := licensed{Module: m.Path, Version: m.Version}
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return l, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !texts.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".docs") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
		if err != nil {
			return l, err
		}
		for _, match := range known.Match(text).Matches {
			if match.MatchType == "License" && !slices.Contains(l.Licences, match.Name) {
				l.Licences = append(l.Licences, match.Name)
			}
		}
	}
	return l, nil
}
