package jobstatus_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

// Every constant is defined once, and everything defined is a constant.
func TestCodesAreDefinedOnce(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := map[jobstatus.Code]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Code" {
				if lit, ok := v.Values[0].(*ast.BasicLit); ok {
					text, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					constants[jobstatus.Code(text)] = true
				}
			}
		}
		return true
	})
	form := regexp.MustCompile(`^[A-Z]+(_[A-Z]+)*$`)
	seen := map[jobstatus.Code]bool{}
	for _, d := range jobstatus.Codes() {
		if seen[d.Code] {
			t.Errorf("%s is defined twice", d.Code)
		}
		seen[d.Code] = true
		if !constants[d.Code] || !d.Code.Known() || !form.MatchString(string(d.Code)) {
			t.Errorf("%s is no constant of codes.go, or not of the form A_B", d.Code)
		}
		if !strings.HasSuffix(d.Meaning, ".") || !strings.HasSuffix(d.Hint, ".") || d.Seen == "" || d.Phase == "" {
			t.Errorf("%s: meaning and hint are sentences, and it is seen somewhere", d.Code)
		}
	}
	if len(seen) != len(constants) || len(seen) == 0 {
		t.Errorf("%d defined, %d constants", len(seen), len(constants))
	}
}

func TestMarkdown(t *testing.T) {
	page := jobstatus.Markdown()
	for _, d := range jobstatus.Codes() {
		if n := strings.Count(page, "| `"+string(d.Code)+"` |"); n != 1 {
			t.Errorf("%s has %d lines", d.Code, n)
		}
	}
	for n, line := range strings.Split(page, "\n") {
		if strings.HasPrefix(line, "|") && strings.Count(strings.ReplaceAll(line, "\\|", ""), "|") != 5 {
			t.Errorf("line %d has not four cells: %s", n+1, line)
		}
	}
	if !strings.HasSuffix(page, "|\n") || strings.Count(page, "\n## ") != 4 {
		t.Error("the page has four tables and ends with a line")
	}
}
