package request

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// object reads the fields of one JSON object by name. What is wrong with a
// field becomes a problem; rest, called last, tells of those nobody asked for.
type object struct {
	r    *reader
	path string
	n    *node
}

// need says whether a field may be missing. It may never be null.
type need bool

const (
	required need = true
	optional need = false
)

// rule judges a string: an empty code is a good one. The message continues
// "$.path …" and never holds the value.
type rule func(s string) (code, message string)

// get finds a field and checks its type. It gives nil, after a problem, where
// the field cannot be used, and nil where an optional one is missing.
func (o object) get(name string, need need, want kind) *node {
	for i := range o.n.kids {
		n := &o.n.kids[i]
		if n.duplicate && strings.EqualFold(n.key, name) {
			return nil
		}
		if n.key != name {
			continue
		}
		n.known = true
		if !o.r.check(member(o.path, name), n, want) {
			return nil
		}
		return n
	}
	if need {
		o.r.problems.add(member(o.path, name), CodeRequired, "is required")
	}
	return nil
}

// has reports whether the field is there at all, once or twice, whatever it is.
func (o object) has(name string) bool {
	for i := range o.n.kids {
		n := &o.n.kids[i]
		if n.key == name || n.duplicate && strings.EqualFold(n.key, name) {
			return true
		}
	}
	return false
}

// object gives the fields of an object; ok is false where there is none.
func (o object) object(name string, need need) (_ object, ok bool) {
	n := o.get(name, need, kindObject)
	return object{o.r, member(o.path, name), n}, n != nil
}

// string gives a string that keeps the rule; ok is false where there is none.
func (o object) string(name string, need need, rule rule) (_ string, ok bool) {
	n := o.get(name, need, kindString)
	if n == nil {
		return "", false
	}
	return o.r.string(member(o.path, name), n, rule)
}

// strings gives an array of strings; ok is false where there is none, or one of
// them breaks the rule.
func (o object) strings(name string, need need, rule rule) (_ []string, ok bool) {
	n := o.get(name, need, kindArray)
	if n == nil {
		return nil, false
	}
	out := make([]string, 0, len(n.kids))
	for i := range n.kids {
		path := element(member(o.path, name), i)
		if o.r.check(path, &n.kids[i], kindString) {
			if s, ok := o.r.string(path, &n.kids[i], rule); ok {
				out = append(out, s)
			}
		}
	}
	return out, len(out) == len(n.kids)
}

// integer gives an optional integer from least to most, or the default.
func (o object) integer(name string, least, most, byDefault int32) int32 {
	if n := o.get(name, optional, kindNumber); n != nil {
		if i, ok := o.r.integer(member(o.path, name), n, least, most); ok {
			return i
		}
	}
	return byDefault
}

// rest tells of the fields that no get asked for.
func (o object) rest() {
	for i := range o.n.kids {
		n := &o.n.kids[i]
		if n.known || n.duplicate || n.kind == kindRefused {
			continue
		}
		path := member(o.path, n.key)
		to := &o.r.warnings
		if o.r.opt.Strict {
			to = &o.r.problems
		}
		to.add(path, CodeUnknown, "is not a field of the contract")
		o.r.unknown = append(o.r.unknown, &jobsv1.UnknownField{Path: path, Json: compact(n.text(o.r.body))})
	}
}

// check tells of a value of another type than the wanted one.
func (r *reader) check(path string, n *node, want kind) bool {
	if n.kind == want {
		return true
	}
	if n.kind != kindRefused {
		r.problems.add(path, CodeType, fmt.Sprintf("must be %v, not %v", want, n.kind))
	}
	return false
}

func (r *reader) string(path string, n *node, rule rule) (string, bool) {
	s := unquote(n.text(r.body))
	if code, message := rule(s); code != "" {
		r.problems.add(path, code, message)
		return "", false
	}
	return s, true
}

func (r *reader) integer(path string, n *node, least, most int32) (int32, bool) {
	text := n.text(r.body)
	if strings.ContainsAny(text, ".eE") {
		r.problems.add(path, CodeType, "must be an integer, without fraction or exponent")
		return 0, false
	}
	i, err := strconv.ParseInt(text, 10, 32)
	if err != nil || i < int64(least) || i > int64(most) {
		rule := fmt.Sprintf("must be from %d to %d", least, most)
		if most == math.MaxInt32 {
			rule = fmt.Sprintf("must be at least %d (and fit 32 bits)", least)
		}
		r.problems.add(path, CodeRange, rule)
		return 0, false
	}
	return int32(i), true
}
