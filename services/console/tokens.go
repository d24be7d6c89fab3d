package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/jobrelay/jobrelay/pkg/process"
)

const (
	sessionCookie = "jobrelay_console"
	tokenField    = "token"
	leastKey      = 32 // bytes
)

// tokens tell a form of ours from one that another site made the browser send: each
// holds a mark that is made of the user, a cookie that only our pages get, and a key.
type tokens struct{ key []byte }

// newTokens reads the key from a file; without one it makes its own, and forms of
// before a restart are refused, which their page says.
func newTokens(file string) (*tokens, error) {
	if file == "" {
		key := make([]byte, leastKey)
		_, _ = rand.Read(key) // never fails
		return &tokens{key}, nil
	}
	key, err := process.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--csrf-key: %w", err)
	}
	if len(key) < leastKey {
		return nil, fmt.Errorf("--csrf-key: %s has %d bytes, and needs at least %d: head -c 32 /dev/urandom", file, len(key), leastKey)
	}
	return &tokens{key}, nil
}

// give is the token for the forms of a page, and the cookie that goes with it.
func (t *tokens) give(w http.ResponseWriter, r *http.Request) string {
	session := ""
	if c, err := r.Cookie(sessionCookie); err == nil && len(c.Value) == base64.RawURLEncoding.EncodedLen(leastKey) {
		session = c.Value
	} else {
		id := make([]byte, leastKey)
		_, _ = rand.Read(id) // never fails
		session = base64.RawURLEncoding.EncodeToString(id)
		http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure where the browser came by TLS; a loopback has none
			Name: sessionCookie, Value: session, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
			Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
		})
	}
	return t.of(userOf(r), session)
}

func (t *tokens) of(user, session string) string {
	sum := hmac.New(sha256.New, t.key)
	fmt.Fprintf(sum, "%d:%s%s", len(user), user, session)
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

// errForeign is the end of a request whose form is not ours.
var errForeign = errors.New("this form is not of a page that the console gave you, or it is of before a restart: load the page again, and try once more")

// check is nil where the form is one that we gave to this user and this browser.
func (t *tokens) check(r *http.Request) error {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return errForeign
	}
	if !hmac.Equal([]byte(r.PostFormValue(tokenField)), []byte(t.of(userOf(r), c.Value))) {
		return errForeign
	}
	return nil
}
