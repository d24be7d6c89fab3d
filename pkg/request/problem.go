package request

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a message, or worth a warning. It
// names the field and the rule, never a value.
type Problem struct {
	// Path is the JSON path of the field, $.job.resources.limits.cpu. Keys that
	// are no plain words are quoted, $["volume:"]. At most 256 bytes.
	Path string
	// Code is one of the Code constants.
	Code string
	// Message continues the path to a sentence: "must be …". At most 256 bytes.
	Message string
}

// The codes of problems and warnings.
const (
	CodeRequired  = "required"  // the field is missing
	CodeType      = "type"      // another JSON type is wanted; null is a type of its own
	CodeInvalid   = "invalid"   // the value breaks the field's rule
	CodeTooLong   = "too_long"  // the value has too many characters
	CodeRange     = "range"     // the number or quantity is too small or too large
	CodeDuplicate = "duplicate" // the key, or the value in a set, is there twice
	CodeUnknown   = "unknown"   // no such field; a warning unless Strict
	CodeConflict  = "conflict"  // two fields exclude each other
	CodeSpelling  = "spelling"  // the field's second spelling; a warning
	CodeSyntax    = "syntax"    // not UTF-8, not one JSON value, or half a surrogate pair
	CodeDepth     = "depth"     // nested deeper than MaxDepth
	CodeSize      = "size"      // the message is too large
	CodeMore      = "more"      // stands for the problems that are not listed
)

// problems is a list of at most MaxProblems and a count of the rest.
type problems struct {
	list []Problem
	more int
}

func (p *problems) none() bool { return len(p.list) == 0 }
func (p *problems) full() bool { return len(p.list) == MaxProblems }

func (p *problems) add(path, code, message string) {
	if p.full() {
		p.more++
		return
	}
	p.list = append(p.list, Problem{Path: cut(path), Code: code, Message: cut(message)})
}

func (p *problems) all() []Problem {
	if p.more == 0 {
		return p.list
	}
	return append(p.list, Problem{Path: "$", Code: CodeMore, Message: fmt.Sprintf("… and %d more", p.more)})
}

// cut keeps a path or a message at 256 bytes, the last of them an ellipsis.
func cut(s string) string {
	const limit, ellipsis = 256, "…"
	if len(s) <= limit {
		return s
	}
	n := limit - len(ellipsis)
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + ellipsis
}

// sentenceProblems bounds the problems that a callback's message names.
const sentenceProblems = 5

// Sentence is the problems in one line; it names the first five.
func Sentence(problems []Problem) string {
	var parts []string
	for i, p := range problems {
		if i == sentenceProblems {
			parts = append(parts, fmt.Sprintf("and %d more", len(problems)-i))
			break
		}
		parts = append(parts, p.Path+": "+p.Message)
	}
	return strings.Join(parts, "; ")
}
