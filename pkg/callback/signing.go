package callback

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of a key file.
const (
	keyPrefix = "whsec_"
	minKey    = 24 // bytes of a key, as Standard Webhooks has it
	maxKey    = 64
	// maxKeys are active at once: two while one is replaced, and some to spare.
	// Each costs 48 bytes of the header.
	maxKeys = 8
	// maxKeyFile is in bytes, comments included.
	maxKeyFile = 64 << 10
)

// Keys are the active keys of one receiver, which nothing prints. The zero
// Keys sign nothing.
type Keys struct {
	active [][]byte
}

// ParseKeys reads a key file: 1 to 8 active keys, one a line, each whsec_ and
// the base64 of 24 to 64 bytes. Empty lines and lines that begin with # are left
// out. The error has the line's number and nothing of what stands there.
func ParseKeys(text []byte) (Keys, error) {
	if len(text) > maxKeyFile {
		return Keys{}, fmt.Errorf("has more than %d bytes; a key file has one key a line", maxKeyFile)
	}
	var k Keys
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, err := parseKey(string(line))
		if err == nil && slices.ContainsFunc(k.active, func(have []byte) bool { return bytes.Equal(have, key) }) {
			err = errors.New("is the key of an earlier line; remove one of them")
		}
		if err != nil {
			return Keys{}, fmt.Errorf("line %d %w", n, err)
		}
		k.active = append(k.active, key)
	}
	switch {
	case len(k.active) == 0:
		return Keys{}, errors.New("holds no key; write one a line: " + aKey)
	case len(k.active) > maxKeys:
		return Keys{}, fmt.Errorf("holds %d keys; remove those that no receiver verifies with any more, %d may be active", len(k.active), maxKeys)
	}
	return k, nil
}

// aKey ends the errors about one.
const aKey = "a key is whsec_ and the base64 of 24 to 64 random bytes"

func parseKey(line string) ([]byte, error) {
	text, ok := strings.CutPrefix(line, keyPrefix)
	if !ok {
		return nil, errors.New("does not begin with " + keyPrefix + "; " + aKey)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("is not base64 after " + keyPrefix + "; " + aKey)
	}
	if len(key) < minKey || len(key) > maxKey {
		return nil, fmt.Errorf("is a key of %d bytes; %s", len(key), aKey)
	}
	return key, nil
}

// Sign is the webhook-signature of an attempt, as Standard Webhooks has it:
// v1 and the base64 of the HMAC-SHA256 over id.timestamp.body, one for each
// active key with spaces between; empty without keys. At is what
// webhook-timestamp says in seconds.
func (k Keys) Sign(id string, at time.Time, body []byte) string {
	var out []byte
	for i, key := range k.active {
		if i > 0 {
			out = append(out, ' ')
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		out = base64.StdEncoding.AppendEncode(append(out, "v1,"...), mac.Sum(nil))
	}
	return string(out)
}

// Len is how many keys are active.
func (k Keys) Len() int { return len(k.active) }

// Equal tells whether both are the same keys in the same order.
func (k Keys) Equal(other Keys) bool {
	return slices.EqualFunc(k.active, other.active, bytes.Equal)
}

// String keeps the keys out of whatever is printed.
func (k Keys) String() string { return fmt.Sprintf("%d signing keys", len(k.active)) }

// GoString is String.
func (k Keys) GoString() string { return k.String() }
