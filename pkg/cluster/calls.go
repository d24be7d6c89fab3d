package cluster

import (
	"net/http"
	"strings"

	"k8s.io/client-go/transport"

	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// Counted counts and times a client's calls, each of client-go's own repeats too.
// Before a Limit it is given first, so that the wait for room is no part of a call.
func Counted(calls *telemetry.Calls) transport.WrapperFunc {
	return func(next http.RoundTripper) http.RoundTripper { return counted{calls, next} }
}

type counted struct {
	calls *telemetry.Calls
	next  http.RoundTripper
}

// RoundTrip ends with the answer's headers: what a watch sends after them is no
// part of the call.
func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resource, verb := called(r)
	end := c.calls.Begin(telemetry.Kubernetes, resource, verb)
	res, err := c.next.RoundTrip(r)
	if err != nil {
		end(telemetry.Failed)
		return res, err
	}
	end(telemetry.Status(res.StatusCode))
	return res, nil
}

// otherResource and otherVerb stand for what is none of ours: names in paths never
// become labels.
const (
	otherResource = "other"
	otherVerb     = "other"
)

// Resources are what the services ask for, beside otherResource.
func Resources() []string {
	return []string{"jobs", "pods", "pods/log", "leases", "events", "namespaces", "selfsubjectaccessreviews", otherResource}
}

// Verbs are the kinds of calls.
func Verbs() []string {
	return []string{"get", "list", "watch", "create", "update", "patch", "delete", otherVerb}
}

// called is the resource and the verb of a request, from its path:
// /api/v1/… or /apis/<group>/<version>/…, then namespaces/<name>/ perhaps, then
// <resource>, its name, and a subresource.
func called(r *http.Request) (resource, verb string) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		parts = parts[3:]
	default:
		return otherResource, otherVerb
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource = parts[0]
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	named := len(parts) > 1
	known := false
	for _, name := range Resources() {
		known = known || name == resource
	}
	if !known {
		resource = otherResource
	}
	switch r.Method {
	case http.MethodGet:
		switch watch := r.URL.Query().Get("watch"); {
		case watch == "true" || watch == "1":
			return resource, "watch"
		case named:
			return resource, "get"
		}
		return resource, "list"
	case http.MethodPost:
		return resource, "create"
	case http.MethodPut:
		return resource, "update"
	case http.MethodPatch:
		return resource, "patch"
	case http.MethodDelete:
		return resource, "delete"
	}
	return resource, otherVerb
}
