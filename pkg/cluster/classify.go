package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

// Verdict is what an API error means for who made the call. Neither Exists nor
// Retry: the same call would be refused again.
type Verdict struct {
	Exists     bool           // the object is there already
	Retry      bool           // nothing is decided: the same call may succeed, or has succeeded unseen
	Code       jobstatus.Code // the cause, where no (further) try is made; empty for Exists
	Message    string         // one sentence, at most 1 KiB
	RetryAfter time.Duration  // of Retry, where the server says; 0: it does not
}

// Classify says what the error of a Job's creation means. Any error that is not
// an answer of the API server (no connection, a timeout) is Retry: whether the
// Job exists is then unknown. A quota without room is Retry too, with a code of
// its own: the room may come.
func Classify(err error) Verdict {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, Message: sentence("The API server could not be reached", withoutAddress(err))}
	}
	s := answer.Status()
	switch {
	case s.Reason == metav1.StatusReasonAlreadyExists:
		return Verdict{Exists: true, Message: sentence("The object exists", s.Message)}
	case tooLarge(s):
		return Verdict{Code: jobstatus.JobSpecInvalid, Message: sentence("The Job is too large to be stored", s.Message)}
	case retriable(s):
		return Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, RetryAfter: retryAfter(s), Message: sentence("The API server is not available", s.Message)}
	case s.Code == http.StatusForbidden:
		return forbidden(s)
	case denied(s):
		return Verdict{Code: jobstatus.AdmissionDenied, Message: sentence("Admission refused the Job", s.Message)}
	case s.Code == http.StatusNotFound:
		return Verdict{Code: jobstatus.NamespaceNotFound, Message: sentence("The namespace does not exist", s.Message)}
	}
	return Verdict{Code: jobstatus.JobSpecInvalid, Message: sentence("The API server does not accept the Job", s.Message)}
}

// retriable is true of 429, of 5xx, of a conflict (as of the quota's own
// object), and of 401: credentials that rotate come back.
func retriable(s metav1.Status) bool {
	switch s.Code {
	case http.StatusTooManyRequests, http.StatusConflict, http.StatusUnauthorized, http.StatusRequestTimeout:
		return true
	}
	return s.Code >= http.StatusInternalServerError || s.Code == 0
}

// tooLarge is true of an object that etcd does not take, which the API server
// answers with a 500.
func tooLarge(s metav1.Status) bool {
	return strings.Contains(s.Message, "etcdserver: request is too large") || strings.Contains(s.Message, "trying to send message larger than max")
}

func retryAfter(s metav1.Status) time.Duration {
	if s.Details == nil || s.Details.RetryAfterSeconds <= 0 {
		return 0
	}
	return time.Duration(s.Details.RetryAfterSeconds) * time.Second
}

// forbidden tells 403s apart. The namespace's has a cause of its own; quota and
// admission say it only in their text, which is the API server's own.
func forbidden(s metav1.Status) Verdict {
	switch {
	case hasCause(s, corev1.NamespaceTerminatingCause):
		return Verdict{Code: jobstatus.NamespaceTerminating, Message: sentence("The namespace is being deleted", s.Message)}
	case strings.Contains(s.Message, "exceeded quota"):
		return Verdict{Retry: true, Code: jobstatus.QuotaExceeded, Message: sentence("The quota has no room", s.Message)}
	case starting(s):
		return Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, Message: sentence("The API server is not ready", s.Message)}
	case denied(s):
		return Verdict{Code: jobstatus.AdmissionDenied, Message: sentence("Admission refused the Job", s.Message)}
	}
	return Verdict{Code: jobstatus.LaunchForbidden, Message: sentence("The launcher may not create Jobs there", s.Message)}
}

// starting is true of the 403s of an API server whose caches are not filled yet
// (v1.37: namespace lifecycle, webhook and policy admission; a new quota; RBAC
// roles), which say it only in their text.
func starting(s metav1.Status) bool {
	return strings.Contains(s.Message, "not yet ready to handle request") || strings.Contains(s.Message, "status unknown for quota") ||
		strings.Contains(s.Message, "RBAC:") && strings.Contains(s.Message, "not found")
}

// denied is true of what an admission plugin refused: a webhook, which may
// choose any 4xx, a policy, or a plugin such as LimitRanger. RBAC says "User …
// cannot …" instead.
func denied(s metav1.Status) bool {
	return strings.Contains(s.Message, "admission webhook") || strings.Contains(s.Message, "ValidatingAdmissionPolicy") ||
		s.Code == http.StatusForbidden && s.Reason == metav1.StatusReasonForbidden && !strings.Contains(s.Message, " cannot ")
}

// withoutAddress is the text of err without the API server's address, which is
// nobody's business who reads a callback.
func withoutAddress(err error) string {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return name.Err
	}
	return err.Error()
}

func hasCause(s metav1.Status, t metav1.CauseType) bool {
	if s.Details == nil {
		return false
	}
	for _, c := range s.Details.Causes {
		if c.Type == t {
			return true
		}
	}
	return false
}

// maxMessage bounds a message, in bytes.
const maxMessage = 1 << 10

// sentence is one line of at most maxMessage bytes. The API server's messages
// name objects, fields and values of the Job's own; the values of environment
// variables are no part of any validation.
func sentence(what, detail string) string {
	text := fmt.Sprintf("%s: %s", what, detail)
	if len(text) > maxMessage {
		text = text[:maxMessage]
	}
	text = strings.ToValidUTF8(text, "")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
	return strings.TrimRight(text, ". ") + "."
}
