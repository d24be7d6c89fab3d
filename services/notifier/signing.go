package notifier

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// signing is what callbacks are signed with: a policy, and the keys of every
// file that it names. The two are in force together, or not at all.
type signing struct {
	policy *request.Policy
	keys   map[string]callback.Keys // by the name of their file
}

// readKeys reads the keys below dir that the policy names.
func readKeys(dir string, policy *request.Policy) (*signing, error) {
	names := policy.SigningKeys()
	switch {
	case dir == "" && len(names) > 0:
		return nil, fmt.Errorf("the policy names signing keys (%s); say with --signing-keys where their files are", strings.Join(names, ", "))
	case dir != "" && len(names) == 0:
		return nil, errors.New("--signing-keys: the policy names no key, so nothing would be signed; give its default or a service a signingKey (--policy-file), or leave the flag out")
	}
	s := &signing{policy: policy, keys: map[string]callback.Keys{}}
	var wrong []error
	for _, name := range names {
		file := filepath.Join(dir, name)
		text, err := process.ReadFile(file)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if s.keys[name], err = callback.ParseKeys(text); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", file, err))
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("--signing-keys: %w", errors.Join(wrong...))
	}
	return s, nil
}

// equal asks whether nothing has changed; of the policy, whether it was read
// again.
func (s *signing) equal(other *signing) bool {
	return other != nil && s.policy == other.policy && maps.EqualFunc(s.keys, other.keys, callback.Keys.Equal)
}

// of are the keys of a service: its own, else the default's, if there are any.
// A service that could not be read has the default's.
func (s *signing) of(service string) callback.Keys {
	name := s.policy.Rules(service).SigningKey
	if name == nil {
		return callback.Keys{}
	}
	return s.keys[*name]
}

// keyCounts is a metric: how many keys of each file are in force. All replicas
// show the same before a key may be taken away.
type keyCounts struct {
	signing func() *signing
}

var keyCount = prometheus.NewDesc("jobrelay_notifier_signing_keys", "Active keys of each key file.", []string{"file"}, nil)

// Describe is a prometheus.Collector's.
func (c keyCounts) Describe(out chan<- *prometheus.Desc) { out <- keyCount }

// Collect is a prometheus.Collector's.
func (c keyCounts) Collect(out chan<- prometheus.Metric) {
	for name, keys := range c.signing().keys {
		out <- prometheus.MustNewConstMetric(keyCount, prometheus.GaugeValue, float64(keys.Len()), name)
	}
}
