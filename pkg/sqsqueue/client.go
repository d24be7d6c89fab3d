package sqsqueue

import (
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// plainBodies is the SDK's HTTP client with one fault taken out. The SDK closes
// a request's body when the answer begins, which may be before net/http has
// looked whether the body goes on; the closed body's WriteTo then is io.EOF
// instead of nothing. net/http takes that for a failed write and drops the
// connection in the middle of the answer: the messages in it are received by
// nobody, and hidden until their visibility timeout. A body without WriteTo is
// read, and at its end (smithy-go v1.28.9).
type plainBodies struct{ sqs.HTTPClient }

func (c plainBodies) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return c.HTTPClient.Do(r)
	}
	own := r.WithContext(r.Context()) // the SDK keeps r, and closes its body
	own.Body = struct{ io.ReadCloser }{r.Body}
	return c.HTTPClient.Do(own)
}
