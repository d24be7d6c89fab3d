package notifier

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/webhook"
)

// peers are what the operator has set for the receivers of each service: a
// policy, and what the files hold that it names. They are in force together, or
// not at all.
type peers struct {
	policy  *request.Policy
	roots   map[string]*webhook.Roots // by the name of their file
	headers map[string]webhook.Headers
}

// readPeers reads the files below dir that the policy names.
func readPeers(dir string, policy *request.Policy) (*peers, error) {
	p := &peers{policy: policy}
	cas, headers := policy.CAFiles(), policy.HeadersFiles()
	if named := slices.Concat(cas, headers); dir == "" && len(named) > 0 {
		return nil, fmt.Errorf("the policy names files for callbacks (%s); say with --callback-files where they are", strings.Join(named, ", "))
	}
	var err1, err2 error
	p.roots, err1 = readAll(dir, cas, webhook.ParseRoots)
	p.headers, err2 = readAll(dir, headers, webhook.ParseHeaders)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("--callback-files: %w", err)
	}
	return p, nil
}

func readAll[T any](dir string, names []string, parse func([]byte) (T, error)) (map[string]T, error) {
	all := map[string]T{}
	var wrong []error
	for _, name := range names {
		file := filepath.Join(dir, name)
		text, err := process.ReadFile(file)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if all[name], err = parse(text); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", file, err))
		}
	}
	return all, errors.Join(wrong...)
}

// equal asks whether nothing has changed; of the policy, whether it was read
// again.
func (p *peers) equal(other *peers) bool {
	return other != nil && p.policy == other.policy &&
		maps.EqualFunc(p.roots, other.roots, (*webhook.Roots).Equal) && maps.EqualFunc(p.headers, other.headers, webhook.Headers.Equal)
}

// of is what holds for a service's callback to an address. A service that could
// not be read has the default's.
func (p *peers) of(service, address string) webhook.Peer {
	ca, headers := p.policy.Rules(service).FilesFor(address)
	return webhook.Peer{Roots: p.roots[ca], Headers: p.headers[headers]}
}
