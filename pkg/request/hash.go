package request

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/gowebpki/jcs"
)

// hash tells two requests of one id apart: lower-case hex SHA-256 over the RFC
// 8785 form of the known fields as they were sent. What is absent stays absent,
// so that a version with other defaults or more fields sees the same request;
// the second spelling of volume counts as the first.
func hash(body string, root *node) (string, error) {
	var known strings.Builder
	writeKnown(&known, body, root)
	form, err := jcs.Transform([]byte(known.String()))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(form)
	return hex.EncodeToString(sum[:]), nil
}

// writeKnown writes the known fields as JSON, scalars in their own text.
func writeKnown(b *strings.Builder, body string, n *node) {
	switch n.kind {
	case kindObject:
		b.WriteByte('{')
		comma := ""
		for i := range n.kids {
			kid := &n.kids[i]
			if !kid.known {
				continue
			}
			b.WriteString(comma)
			comma = ","
			b.WriteString(quote(strings.TrimSuffix(kid.key, ":"))) // no field's name ends in a colon
			b.WriteByte(':')
			writeKnown(b, body, kid)
		}
		b.WriteByte('}')
	case kindArray:
		b.WriteByte('[')
		for i := range n.kids {
			if i > 0 {
				b.WriteByte(',')
			}
			writeKnown(b, body, &n.kids[i])
		}
		b.WriteByte(']')
	default:
		b.WriteString(n.text(body))
	}
}

// compact takes the white space out of JSON text.
func compact(text string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return text
	}
	return b.String()
}
