package webhook

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"net/http"
	"testing"
)

// TestTransportsAreBounded: CAs that change for ever leave no more than 64
// transports.
func TestTransportsAreBounded(t *testing.T) {
	c := New(Config{InFlight: 1})
	defer c.Close()
	roots := func(n uint64) *Roots {
		return &Roots{pool: x509.NewCertPool(), sum: sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))}
	}
	seen := map[*http.Client]bool{}
	for n := range uint64(1000) {
		seen[c.over(roots(n))] = true
	}
	if len(seen) != 1000 || c.own.Len() != maxTransports {
		t.Errorf("%d of %d are kept", c.own.Len(), len(seen))
	}
	if last := c.over(roots(999)); c.over(roots(999)) != last || !seen[last] || c.over(nil) != c.usual {
		t.Error("equal CAs do not share their connections")
	}
}
