package request

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is the JSON type of a node.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
	kindRefused // complained about already: too deep, or half a surrogate pair
)

var kindNames = [...]string{"null", "a boolean", "a number", "a string", "an array", "an object", "refused"}

func (k kind) String() string { return kindNames[k] }

// node is one JSON value, and its key where it is a member of an object.
// Members keep the order and the repetitions of the text.
type node struct {
	kind       kind
	duplicate  bool // another member of its object has this key, case folded
	known      bool // a field of the contract, so part of the hash
	start, end int32
	key        string
	kids       []node
}

// text is the node's JSON text.
func (n *node) text(body string) string { return body[n.start:n.end] }

// read checks that the body is one JSON value and builds its tree. It reports
// false where nothing can be read.
func (r *reader) read(body []byte) (node, bool) {
	if len(body) > MaxBytes {
		r.problems.add("$", CodeSize, "is more than 1 MiB")
		return node{}, false
	}
	r.body = string(body)
	if i := invalidUTF8(r.body); i >= 0 {
		r.problems.add("$", CodeSyntax, fmt.Sprintf("is not UTF-8 at byte %d", i))
		return node{}, false
	}
	if !json.Valid(body) {
		r.problems.add("$", CodeSyntax, "is not one JSON value: "+syntaxError(body))
		return node{}, false
	}
	t := tree{body: r.body, problems: &r.problems}
	return t.value(1), true
}

func invalidUTF8(s string) int {
	if utf8.ValidString(s) {
		return -1
	}
	for i, c := range s {
		if c == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return i
		}
	}
	return -1
}

func syntaxError(body []byte) string {
	err := json.Unmarshal(body, new(json.RawMessage))
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("%v, at byte %d", s, s.Offset)
	}
	return "it cannot be read"
}

// tree reads a body that is known to be valid JSON.
type tree struct {
	body     string
	at       int
	path     []step // of the value at hand; at most MaxDepth
	problems *problems
}

// step is one member or element on the way to a value.
type step struct {
	key   string
	index int // -1 for members
}

func (t *tree) value(depth int) node {
	t.space()
	n := node{start: int32(t.at)} //nolint:gosec // at most MaxBytes
	switch c := t.body[t.at]; c {
	case '{', '[':
		switch {
		case depth > MaxDepth:
			t.problem(CodeDepth, fmt.Sprintf("is nested deeper than %d", MaxDepth))
			t.skip()
			n.kind = kindRefused
		case c == '{':
			n.kind = kindObject
			t.object(&n, depth)
		default:
			n.kind = kindArray
			t.array(&n, depth)
		}
	case '"':
		n.kind = kindString
		if _, ok := t.string(); !ok {
			t.problem(CodeSyntax, halfPair)
			n.kind = kindRefused
		}
	default:
		n.kind = kindNumber
		switch c {
		case 'n':
			n.kind = kindNull
		case 't', 'f':
			n.kind = kindBool
		}
		for t.at < len(t.body) && strings.IndexByte(" \t\r\n,]}", t.body[t.at]) < 0 {
			t.at++
		}
	}
	n.end = int32(t.at) //nolint:gosec // at most MaxBytes
	return n
}

const halfPair = "has half of a surrogate pair, which is no character"

// The upper six bits of the two halves of a surrogate pair.
const (
	highHalf = 0xd800 >> 10
	lowHalf  = 0xdc00 >> 10
)

func (t *tree) object(n *node, depth int) {
	seen := map[string]int{} // folded key → its first member
	t.at++
	for t.space(); t.body[t.at] != '}'; t.space() {
		if t.body[t.at] == ',' {
			t.at++
			t.space()
		}
		key, ok := t.string()
		t.path = append(t.path, step{key, -1})
		if !ok {
			t.problem(CodeSyntax, halfPair)
		}
		first, twice := seen[fold(key)]
		if twice {
			t.problem(CodeDuplicate, "is there twice (upper and lower case count as the same)")
			n.kids[first].duplicate = true
		} else {
			seen[fold(key)] = len(n.kids)
		}
		t.space()
		t.at++ // the colon
		kid := t.value(depth + 1)
		kid.key, kid.duplicate = key, twice
		n.kids = append(n.kids, kid)
		t.path = t.path[:len(t.path)-1]
	}
	t.at++
}

func (t *tree) array(n *node, depth int) {
	t.at++
	for t.space(); t.body[t.at] != ']'; t.space() {
		if t.body[t.at] == ',' {
			t.at++
		}
		t.path = append(t.path, step{index: len(n.kids)})
		n.kids = append(n.kids, t.value(depth+1))
		t.path = t.path[:len(t.path)-1]
	}
	t.at++
}

// string reads the string at hand. It reports false where an escape is half of
// a surrogate pair: readers differ in what they make of it.
func (t *tree) string() (string, bool) {
	start, escaped, whole := t.at, false, true
	for t.at++; t.body[t.at] != '"'; t.at++ {
		if t.body[t.at] != '\\' {
			continue
		}
		escaped = true
		t.at++
		if t.body[t.at] != 'u' {
			continue
		}
		c := t.hex(t.at + 1)
		t.at += 4
		switch c >> 10 {
		case lowHalf:
			whole = false
		case highHalf:
			if strings.HasPrefix(t.body[t.at+1:], `\u`) && t.hex(t.at+3)>>10 == lowHalf {
				t.at += 6
			} else {
				whole = false
			}
		}
	}
	t.at++
	if !escaped {
		return t.body[start+1 : t.at-1], true
	}
	return unquote(t.body[start:t.at]), whole
}

func (t *tree) hex(at int) uint64 {
	c, _ := strconv.ParseUint(t.body[at:at+4], 16, 16)
	return c
}

// skip passes over the object or array at hand.
func (t *tree) skip() {
	for open := 0; ; {
		switch t.body[t.at] {
		case '{', '[':
			open++
		case '}', ']':
			open--
		case '"':
			t.string()
			continue
		}
		t.at++
		if open == 0 {
			return
		}
	}
}

func (t *tree) space() {
	for t.at < len(t.body) && strings.IndexByte(" \t\r\n", t.body[t.at]) >= 0 {
		t.at++
	}
}

// problem is about the value at hand. Its path is written only where it is
// listed: keys can be long, and problems many.
func (t *tree) problem(code, message string) {
	path := "$"
	for _, s := range t.path {
		switch {
		case t.problems.full():
		case s.index >= 0:
			path = element(path, s.index)
		default:
			path = member(path, cut(s.key))
		}
	}
	t.problems.add(path, code, message)
}

func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// member is the path of an object's member: $.job for a plain word, otherwise
// quoted as in JSON, $["volume:"].
func member(path, key string) string {
	for i, c := range key {
		plain := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9'
		if !plain {
			return path + "[" + quote(key) + "]"
		}
	}
	if key == "" {
		return path + `[""]`
	}
	return path + "." + key
}

func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func unquote(text string) string {
	if strings.IndexByte(text, '\\') < 0 {
		return text[1 : len(text)-1]
	}
	var s string
	_ = json.Unmarshal([]byte(text), &s) // the text is valid: it was checked as a whole
	return s
}

// fold maps keys that differ in case only to one: of the runes that Unicode's
// simple folding holds for equal, the smallest.
func fold(s string) string {
	return strings.Map(func(c rune) rune {
		least := c
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}
