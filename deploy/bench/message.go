package main

import (
	"encoding/json"
	"fmt"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// ttl keeps Jobs until the run is over, in seconds.
const ttl = 3600

// messageOf is the original's sample under the id number i, for the namespace.
// The sample's claim is in default; elsewhere its Pods do without.
func messageOf(i int, namespace string) ([]byte, error) {
	var m map[string]any
	if err := json.Unmarshal(request.Sample, &m); err != nil {
		return nil, err
	}
	job, ok := m["job"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the sample has no job")
	}
	m["id"], job["namespace"], job["ttlSecondsAfterFinished"] = fmt.Sprintf("bench-%d", i), namespace, ttl
	if namespace != "default" {
		delete(job, "volume:")
	}
	return json.Marshal(m)
}
