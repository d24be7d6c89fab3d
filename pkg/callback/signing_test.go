package callback_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"

	"github.com/jobrelay/jobrelay/pkg/callback"
)

// secret makes a key of n bytes, all c.
func secret(c byte, n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(c), n)))
}

func keys(t testing.TB, lines ...string) callback.Keys {
	t.Helper()
	k, err := callback.ParseKeys([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignature(t *testing.T) {
	at := time.Unix(1614265330, 999)
	body := []byte(`{"test": 2432232314}`)
	// The example of the specification's own libraries; made once more with:
	// printf 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}' |
	//   openssl dgst -sha256 -mac HMAC -macopt hexkey:$(printf MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw | base64 -d | xxd -p) -binary | base64
	const golden = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	first := keys(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if got := first.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body); got != golden {
		t.Errorf("got %s, want %s", got, golden)
	}
	both := keys(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", secret('b', 24))
	if got := both.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body); !strings.HasPrefix(got, golden+" v1,") || strings.Count(got, " ") != 1 {
		t.Errorf("of two keys: %s", got)
	}
	if got := (callback.Keys{}).Sign("x", at, body); got != "" {
		t.Errorf("without keys: %s", got)
	}
}

// TestSignaturesAreStandardWebhooks: the specification's own library verifies
// with each of the active keys, and with no other.
func TestSignaturesAreStandardWebhooks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfNDistinct(rapid.SliceOfN(rapid.Byte(), 24, 64), 1, 8, func(b []byte) string { return string(b) }).Draw(t, "keys")
		var lines []string
		for _, b := range raw {
			lines = append(lines, "whsec_"+base64.StdEncoding.EncodeToString(b))
		}
		k, err := callback.ParseKeys([]byte(strings.Join(lines, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		id, body := rapid.StringMatching(`msg_[a-z2-7]{52}`).Draw(t, "id"), rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		at := time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "at"), 0)
		header := http.Header{}
		header.Set("webhook-id", id)
		header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		header.Set("webhook-signature", k.Sign(id, at, body))
		for _, line := range append(lines, secret('o', 65)) {
			receiver, err := standardwebhooks.NewWebhook(line)
			if err != nil {
				t.Fatal(err)
			}
			ours := line != secret('o', 65)
			if err := receiver.VerifyIgnoringTimestamp(body, header); (err == nil) != ours {
				t.Errorf("%v, the key is ours: %t", err, ours)
			}
		}
	})
}

func TestParseKeys(t *testing.T) {
	a, b := secret('a', 24), secret('b', 64)
	for name, c := range map[string]struct {
		text string
		n    int
		err  string
	}{
		"one":              {a, 1, ""},
		"two":              {a + "\n" + b + "\n", 2, ""},
		"comments":         {"# since March\r\n\r\n  " + a + "\t\r\n#" + b, 1, ""},
		"empty":            {"", 0, "holds no key; write one a line: a key is whsec_"},
		"comments alone":   {"# " + a + "\n\n", 0, "holds no key"},
		"too short":        {a + "\n" + secret('c', 23), 0, "line 2 is a key of 23 bytes; a key is whsec_ and the base64 of 24 to 64 random bytes"},
		"too long":         {secret('c', 65), 0, "line 1 is a key of 65 bytes"},
		"of nothing":       {"whsec_", 0, "line 1 is a key of 0 bytes"},
		"no prefix":        {strings.TrimPrefix(a, "whsec_"), 0, "line 1 does not begin with whsec_"},
		"public key":       {"whpk_" + a[6:], 0, "line 1 does not begin with whsec_"},
		"no base64":        {"whsec_" + strings.Repeat("!", 40), 0, "line 1 is not base64"},
		"base64 of URLs":   {"whsec_" + strings.Repeat("-", 32), 0, "line 1 is not base64"},
		"not padded":       {strings.TrimRight(secret('a', 25), "="), 0, "line 1 is not base64"},
		"two in a line":    {a + " " + b, 0, "line 1 is not base64"},
		"twice":            {a + "\n# again\n" + a, 0, "line 3 is the key of an earlier line"},
		"too many":         {strings.Join([]string{secret('1', 24), secret('2', 24), secret('3', 24), secret('4', 24), secret('5', 24), secret('6', 24), secret('7', 24), secret('8', 24), secret('9', 24)}, "\n"), 0, "holds 9 keys; remove"},
		"not a file of it": {strings.Repeat("#\n", 40_000), 0, "has more than 65536 bytes"},
	} {
		k, err := callback.ParseKeys([]byte(c.text))
		if k.Len() != c.n || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%s: %d keys, %v", name, k.Len(), err)
		}
		if err == nil {
			continue
		}
		for _, line := range strings.Fields(c.text) {
			if hidden := strings.TrimPrefix(line, "whsec_"); len(hidden) > 8 && strings.Contains(err.Error(), hidden[:8]) {
				t.Errorf("%s: the error quotes the file: %v", name, err)
			}
		}
	}
}

// TestKeysDoNotPrintThemselves, in whatever form they come into a log.
func TestKeysDoNotPrintThemselves(t *testing.T) {
	raw := strings.Repeat("k", 32)
	k := keys(t, "whsec_"+base64.StdEncoding.EncodeToString([]byte(raw)))
	j, err := json.Marshal(struct{ Keys callback.Keys }{k})
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{string(j), fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %q %x", k, k, k, k, k, k), fmt.Sprintf("%+v", struct{ Keys callback.Keys }{k})} {
		for _, form := range []string{raw, base64.StdEncoding.EncodeToString([]byte(raw))[:8], fmt.Sprintf("%x", raw)[:8], "107 107"} {
			if strings.Contains(said, form) {
				t.Errorf("a key is printed: %s", said)
			}
		}
	}
}

// TestHowAKeyIsMade: the command of docs/callbacks.md makes one.
func TestHowAKeyIsMade(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "callbacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "### Making a key\n")
	_, rest, _ := strings.Cut(section, "```sh\n")
	command, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no command")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-eu", "-c", command)
	sh.Dir = dir
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "keys", "billing"))
	if err != nil {
		t.Fatal(err)
	}
	if keys(t, string(text)).Len() != 1 {
		t.Errorf("%d keys", keys(t, string(text)).Len())
	}
}
