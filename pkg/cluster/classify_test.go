package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/jobstatus"
)

func TestClassify(t *testing.T) {
	jobs := schema.GroupResource{Group: "batch", Resource: "jobs"}
	terminating := apierrors.NewForbidden(jobs, "j", errors.New("unable to create new content in namespace ns because it is being terminated"))
	terminating.ErrStatus.Details.Causes = append(terminating.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	hook := func(code int32) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Message: `admission webhook "policy.example" denied the request: no`}}
	}
	refused := &url.Error{Op: "Post", URL: "https://10.0.0.1/apis", Err: &net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, Err: errors.New("connection refused")}}
	for _, c := range []struct {
		name string
		err  error
		want cluster.Verdict
	}{
		{"exists", apierrors.NewAlreadyExists(jobs, "j"), cluster.Verdict{Exists: true}},
		{"too many requests", apierrors.NewTooManyRequests("slow down", 7), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, RetryAfter: 7 * time.Second}},
		{"server error", apierrors.NewInternalError(errors.New("etcd")), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"unavailable", apierrors.NewServiceUnavailable("starting"), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"server timeout", apierrors.NewServerTimeout(jobs, "create", 3), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable, RetryAfter: 3 * time.Second}},
		{"conflict on the quota", apierrors.NewConflict(schema.GroupResource{Resource: "resourcequotas"}, "q", errors.New("modified")), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"unauthorized", apierrors.NewUnauthorized("token expired"), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"no connection", refused, cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"timeout", context.DeadlineExceeded, cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"invalid", apierrors.NewInvalid(schema.GroupKind{Group: "batch", Kind: "Job"}, "j", nil), cluster.Verdict{Code: jobstatus.JobSpecInvalid}},
		{"bad request", apierrors.NewBadRequest("no JSON"), cluster.Verdict{Code: jobstatus.JobSpecInvalid}},
		{"too large", apierrors.NewRequestEntityTooLargeError("limit is 3145728"), cluster.Verdict{Code: jobstatus.JobSpecInvalid}},
		{"forbidden", apierrors.NewForbidden(jobs, "j", errors.New(`User "u" cannot create resource "jobs"`)), cluster.Verdict{Code: jobstatus.LaunchForbidden}},
		{"quota", apierrors.NewForbidden(jobs, "j", errors.New("exceeded quota: q, requested: count/jobs.batch=1")), cluster.Verdict{Retry: true, Code: jobstatus.QuotaExceeded}},
		{"webhooks not loaded", apierrors.NewForbidden(jobs, "j", errors.New("not yet ready to handle request")), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"quota not counted", apierrors.NewForbidden(jobs, "j", errors.New("status unknown for quota: q, resources: pods")), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"roles not loaded", apierrors.NewForbidden(jobs, "j", errors.New(`User "u" cannot create resource "jobs": RBAC: clusterrole.rbac.authorization.k8s.io "r" not found`)), cluster.Verdict{Retry: true, Code: jobstatus.LaunchUnavailable}},
		{"too large for etcd", apierrors.NewInternalError(errors.New("etcdserver: request is too large")), cluster.Verdict{Code: jobstatus.JobSpecInvalid}},
		{"terminating", terminating, cluster.Verdict{Code: jobstatus.NamespaceTerminating}},
		{"webhook 403", hook(http.StatusForbidden), cluster.Verdict{Code: jobstatus.AdmissionDenied}},
		{"webhook 400", hook(http.StatusBadRequest), cluster.Verdict{Code: jobstatus.AdmissionDenied}},
		{"policy", apierrors.NewForbidden(jobs, "j", errors.New("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no")), cluster.Verdict{Code: jobstatus.AdmissionDenied}},
		{"no namespace", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "ns"), cluster.Verdict{Code: jobstatus.NamespaceNotFound}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := cluster.Classify(fmt.Errorf("create: %w", c.err))
			if !strings.HasSuffix(got.Message, ".") || strings.Contains(got.Message, "10.0.0.1") {
				t.Errorf("message %q is no sentence, or names the API server", got.Message)
			}
			got.Message = ""
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
