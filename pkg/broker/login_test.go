package broker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
)

// TestLogin: an nkey over TLS, with the CA from a file; another key and another CA are
// refused, and no error says what a file holds.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	newKey := func() (seed, public string) {
		s, public, err := broker.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		return string(s), public
	}
	ca, caKey := certificate(t)
	other, _ := certificate(t)
	seed, public := newKey()
	unknown, _ := newKey()
	conf := file("server.conf", fmt.Sprintf("authorization { users: [ { nkey: %s } ] }\ntls { cert_file: %q, key_file: %q }\n", public, file("cert.pem", ca), file("key.pem", caKey)))
	n, err := natsd.Start(t.Context(), natsd.Config{Dir: t.TempDir(), File: conf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	login := broker.Login{NKey: file("user.nk", seed+"\n"), CA: file("ca.pem", ca)}
	try := func(l broker.Login) error {
		b, err := broker.OpenAdmin(t.Context(), broker.Access{URL: n.URL(), Login: l}, zerolog.Nop())
		b.Close()
		return err
	}
	if err := try(login); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := broker.Open(ctx, broker.Config{URL: n.URL(), Login: login, Role: "test", Topology: broker.Create}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	for want, l := range map[string]broker.Login{
		"refused the connection": {NKey: file("unknown.nk", unknown), CA: login.CA},
		"did not answer":         {NKey: login.NKey, CA: file("other.pem", other)},
		"--nats-nkey: no seed":   {NKey: login.CA},
		"no certificate in PEM":  {NKey: login.NKey, CA: login.NKey},
		"not the seed":           {NKey: seed, CA: login.CA},
	} {
		if err := try(l); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), seed[2:]) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// certificate is a CA of its own for 127.0.0.1, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}
