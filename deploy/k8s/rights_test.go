package k8s_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

// everybody's rights: to ask who one is and what one may, and which authorities the
// cluster trusts.
var everybodys = map[string][]string{
	"selfsubjectaccessreviews.authorization.k8s.io": {"create"},
	"selfsubjectrulesreviews.authorization.k8s.io":  {"create"},
	"selfsubjectreviews.authentication.k8s.io":      {"create"},
	"clustertrustbundles.certificates.k8s.io":       {"get", "list", "watch"},
}

// rights of each role in the production overlay, beside everybody's; a resource with
// "own " before it in the namespace jobrelay alone. What is not here is refused.
var rights = map[string]map[string][]string{
	"ingest":   {},
	"notifier": {},
	"console":  {},
	"launcher": {"jobs.batch": {"get", "create"}},
	"watcher": {
		"jobs.batch": {"get", "list", "watch", "patch", "delete"},
		"pods":       {"list", "watch"},
		"events":     {"list"},
		"namespaces": {"get"},

		"own leases.coordination.k8s.io": {"get", "create", "update"},
	},
}

// attempt is one request that a token is tried with.
type attempt struct {
	resource   string // name.group, with its subresource
	namespaced bool
	verb       string
	path       string // %s is the namespace's part
}

var methods = map[string]string{
	"get": http.MethodGet, "list": http.MethodGet, "watch": http.MethodGet, "create": http.MethodPost, "update": http.MethodPut,
	"patch": http.MethodPatch, "delete": http.MethodDelete, "deletecollection": http.MethodDelete,
}

// attempts is each verb on each resource that the API server has, subresources too.
func (p *plane) attempts(t *testing.T) (out []attempt) {
	t.Helper()
	_, lists, err := p.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		prefix := "/apis/" + list.GroupVersion
		group, _, ok := strings.Cut(list.GroupVersion, "/")
		if !ok {
			prefix, group = "/api/"+list.GroupVersion, ""
		}
		for _, r := range list.APIResources {
			name, sub, _ := strings.Cut(r.Name, "/")
			resource := strings.TrimSuffix(name+"."+group, ".")
			if sub != "" {
				resource += "/" + sub
			}
			for _, verb := range r.Verbs {
				path := prefix
				if r.Namespaced {
					path += "/namespaces/%s"
				}
				path += "/" + name
				if sub != "" || verb == "get" || verb == "update" || verb == "patch" || verb == "delete" {
					path += "/nobody"
				}
				if sub != "" {
					path += "/" + sub
				}
				switch verb {
				case "list":
					path += "?limit=1"
				case "watch":
					path += "?watch=true&timeoutSeconds=1"
				default:
					path += "?dryRun=All"
				}
				out = append(out, attempt{resource, r.Namespaced, verb, path})
			}
		}
	}
	return out
}

// try sends a request and says whether authorization refused it.
func try(ctx context.Context, client *http.Client, host, method, path string, header http.Header) (refused bool, err error) {
	var body io.Reader
	if method != http.MethodGet {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, host+path, body)
	if err != nil {
		return false, err
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	res, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	// Admission refuses with 403, too; authorization says that the user cannot.
	return res.StatusCode == http.StatusForbidden && bytes.Contains(text, []byte(" cannot ")), err
}

// TestRightsOfEachRole tries every verb on every resource of the API server with the
// token of each role, in the services' namespace, in one for Jobs, and in kube-system:
// what is listed above is allowed, and all else refused.
func TestRightsOfEachRole(t *testing.T) {
	p := newPlane(t)
	p.install(t)
	attempts := p.attempts(t)
	for _, role := range allRoles {
		t.Run(role, func(t *testing.T) {
			p.tryAll(t, role, attempts, func(a attempt, namespace string) bool {
				return slices.Contains(everybodys[a.resource], a.verb) || slices.Contains(rights[role][a.resource], a.verb) ||
					namespace == "jobrelay" && slices.Contains(rights[role]["own "+a.resource], a.verb)
			})
		})
	}
}

// TestRightsInOneNamespace: with components/one-namespace the launcher and the watcher
// have no right beyond it, but for the watcher's Lease.
func TestRightsInOneNamespace(t *testing.T) {
	p := newPlane(t)
	p.install(t)
	p.apply(t, running(overlay(t, "resources: [BASE]\ncomponents: [COMPONENTS/one-namespace]\n")))
	for _, name := range []string{"jobrelay-launcher", "jobrelay-watcher"} { // as apply --prune does
		if err := p.client.RbacV1().ClusterRoleBindings().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for role, path := range map[string]string{"launcher": "/apis/batch/v1/namespaces/default/jobs/nobody", "watcher": "/api/v1/pods"} {
		config := p.configOf(t, "jobrelay", "jobrelay-"+role)
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		await.That(t, role+" loses what it had everywhere", func() bool {
			refused, err := try(t.Context(), client, config.Host, http.MethodGet, path, http.Header{})
			return err == nil && refused
		})
	}
	attempts := p.attempts(t)
	for _, role := range []string{"launcher", "watcher"} {
		t.Run(role, func(t *testing.T) {
			p.tryAll(t, role, attempts, func(a attempt, namespace string) bool {
				return slices.Contains(everybodys[a.resource], a.verb) ||
					namespace == "jobs" && a.namespaced && slices.Contains(rights[role][a.resource], a.verb) ||
					namespace == "jobrelay" && slices.Contains(rights[role]["own "+a.resource], a.verb)
			})
		})
	}
}

// tryAll tries every attempt with a role's token.
func (p *plane) tryAll(t *testing.T, role string, attempts []attempt, may func(attempt, string) bool) {
	t.Helper()
	config := p.configOf(t, "jobrelay", "jobrelay-"+role)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(16)
	var granted, refusals atomic.Int64
	for _, a := range attempts {
		namespaces := []string{"jobrelay", "jobs", "kube-system"}
		if !a.namespaced {
			namespaces = []string{""}
		}
		for _, namespace := range namespaces {
			group.Go(func() error {
				path := a.path
				if a.namespaced {
					path = fmt.Sprintf(path, namespace)
				}
				refused, err := try(t.Context(), client, config.Host, methods[a.verb], path, http.Header{})
				switch want := may(a, namespace); {
				case err != nil:
					return err
				case refused == want:
					t.Errorf("%s %s in namespace %q (%s): refused %v", a.verb, a.resource, namespace, path, refused)
				case refused:
					refusals.Add(1)
				default:
					granted.Add(1)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// What is no resource, and what is asked as somebody else.
	for _, path := range []string{"/metrics", "/logs/", "/debug/pprof/", "/configz", "/apis/batch/v1/namespaces/jobs/jobs?as"} {
		header := http.Header{}
		if strings.HasSuffix(path, "?as") {
			header.Set("Impersonate-User", "system:admin")
			header.Set("Impersonate-Group", "system:masters")
		}
		refused, err := try(t.Context(), client, config.Host, http.MethodGet, path, header)
		if err != nil || !refused {
			t.Errorf("%s: refused %v, %v", path, refused, err)
		}
		refusals.Add(1)
	}
	table(t, role, attempts, granted.Load(), refusals.Load(), may)
}

// table prints what was tried.
func table(t *testing.T, role string, attempts []attempt, granted, refused int64, may func(attempt, string) bool) {
	t.Helper()
	tried := map[string][]string{}
	var allowed []string
	for _, a := range attempts {
		tried[a.resource] = append(tried[a.resource], a.verb)
		for _, namespace := range []string{"jobrelay", "jobs", "kube-system"} {
			if !a.namespaced {
				namespace = ""
			}
			if line := strings.TrimSpace(a.verb + " " + a.resource + " " + namespace); may(a, namespace) && !slices.Contains(allowed, line) {
				allowed = append(allowed, line)
			}
		}
	}
	var text strings.Builder
	for _, r := range slices.Sorted(maps.Keys(tried)) {
		verbs := slices.Compact(slices.Sorted(slices.Values(tried[r])))
		fmt.Fprintf(&text, "  %-60s %s\n", r, strings.Join(verbs, " "))
	}
	t.Logf("%s: %d requests refused, %d allowed:\n  %s", role, refused, granted, strings.Join(allowed, "\n  "))
	if role == "launcher" {
		t.Logf("each of these was tried, with each role's token:\n%s", text.String())
	}
	if refused < 1000 {
		t.Errorf("%d requests were refused: were all tried?", refused)
	}
}
