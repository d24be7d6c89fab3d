package messages

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// object is a JSON object whose members keep their order, and may repeat.
type object []member

type member struct {
	key   string
	value any // string, int, nil, raw, []any or *object
}

// raw is JSON text.
type raw string

func (o *object) add(key string, value any) { *o = append(*o, member{key, value}) }

func (o *object) drop(key string) {
	*o = slices.DeleteFunc(*o, func(m member) bool { return m.key == key })
}

// set gives the object one member of that key, in its place where it has one.
func (o *object) set(key string, value any) {
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].value = value
			return
		}
	}
	o.add(key, value)
}

// text is JSON, with white space here and there.
func (d *draft) text(v any) string {
	space := func() string { return []string{"", "", "", " ", "\n", "\r\n\t"}[d.IntN(6)] }
	var parts []string
	switch v := v.(type) {
	case *object:
		for _, m := range *v {
			parts = append(parts, space()+d.quote(m.key)+space()+":"+space()+d.text(m.value)+space())
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		for _, e := range v {
			parts = append(parts, space()+d.text(e)+space())
		}
		return "[" + strings.Join(parts, ",") + "]"
	case string:
		return d.quote(v)
	case raw:
		return string(v)
	case nil:
		return "null"
	default:
		return fmt.Sprint(v)
	}
}

// quote is a JSON string: as encoding/json has it, or with every character of
// one UTF-16 unit as an escape.
func (d *draft) quote(s string) string {
	if d.escapes && len(s) < 256 {
		var b strings.Builder
		for _, c := range s {
			if c < 1<<16 {
				fmt.Fprintf(&b, `\u%04x`, c)
			} else {
				b.WriteRune(c)
			}
		}
		return `"` + b.String() + `"`
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(d.IntN(2) == 0)
	_ = e.Encode(s) // a string: no error
	return strings.TrimSuffix(b.String(), "\n")
}
