package sqsqueue

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestABodyThatIsClosedIsAtItsEnd: net/http, which copies what is left of a
// body, meets no error where the SDK was faster to close it.
func TestABodyThatIsClosedIsAtItsEnd(t *testing.T) {
	sdks := &closable{Reader: strings.NewReader("body")}
	request, err := http.NewRequest(http.MethodPost, "http://queue", sdks)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := plainBodies{clientFunc(func(r *http.Request) (*http.Response, error) {
		if _, err := io.CopyN(io.Discard, r.Body, 4); err != nil {
			t.Error(err)
		}
		_ = request.Body.Close() // the SDK
		_, err := io.Copy(io.Discard, r.Body)
		return &http.Response{Body: http.NoBody}, err
	})}.Do(request)
	if err != nil || request.Body != sdks {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
}

type clientFunc func(*http.Request) (*http.Response, error)

func (f clientFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

// closable is the SDK's body.
type closable struct {
	io.Reader
	closed bool
}

func (c *closable) Close() error { c.closed = true; return nil }

func (c *closable) WriteTo(w io.Writer) (int64, error) {
	if c.closed {
		return 0, io.EOF
	}
	return io.Copy(w, c.Reader)
}
