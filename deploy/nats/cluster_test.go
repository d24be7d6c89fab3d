//go:build e2e

package nats_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
)

// cluster is three servers of NATS, as processes with cluster.conf.
type cluster struct {
	t     *testing.T
	nodes []*node
}

type node struct {
	*child.Process

	address, monitor string
}

const (
	nodes     = 3
	portTries = 3 // a port that was free may be somebody's by the time it is listened on
	nodeMost  = time.Minute
)

// startCluster makes the streams with three replicas. accounts is the file with the
// accounts of the roles, as in secured.configuration.
func startCluster(t *testing.T, accounts string) (*secured, *cluster) {
	t.Helper()
	s, c := &secured{t: t, keys: t.TempDir()}, &cluster{t: t}
	if accounts == "apart.conf" {
		s.api = broker.TapAPI
	}
	conf := s.configuration("cluster.conf", accounts)
	dir := filepath.Dir(conf)
	s.ca = certificates(t, dir)
	t.Cleanup(c.stop)
	for try := 1; !c.start(dir, conf); try++ {
		if try == portTries {
			t.Fatalf("the cluster does not start:\n%s", c.nodes[0].LastLines())
		}
		c.stop()
	}
	s.nats = c
	must[[]broker.Change](t, "topology")(broker.ApplyTopology(t.Context(), s.open(broker.RoleOperator).JetStream(), nodes))
	return s, c
}

// start reports whether all servers found each other on ports that were free.
func (c *cluster) start(dir, conf string) bool {
	c.t.Helper()
	ports := must[[]int](c.t, "ports")(child.FreePorts(3 * nodes))
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	c.nodes = nil
	for i := range nodes {
		n := &node{address: at(i), monitor: "http://" + at(nodes+i)}
		name := fmt.Sprintf("nats-%d", i+1)
		env := append(child.CleanEnvironment(), "NATS_NODE_NAME="+name, "NATS_NODE_DIR="+filepath.Join(dir, name), "NATS_ROUTE_CA="+filepath.Join(dir, "ca.pem"),
			"NATS_NODE_CERT="+filepath.Join(dir, "node.pem"), "NATS_NODE_KEY="+filepath.Join(dir, "node.key"))
		for r := range nodes {
			env = append(env, fmt.Sprintf("NATS_ROUTE_%d=nats-route://%s", r+1, at(2*nodes+r)))
		}
		for _, v := range os.Environ() {
			if strings.HasPrefix(v, "JOBRELAY_NKEY_") {
				env = append(env, v)
			}
		}
		n.Process = &child.Process{
			Name: name, Binary: binary(c.t, "nats-server"), Env: env, Log: filepath.Join(dir, name+".log"),
			Args: []string{
				"-c", conf, "-a", "127.0.0.1", "-p", strconv.Itoa(ports[i]), "-m", strconv.Itoa(ports[nodes+i]),
				"--cluster", "nats://" + at(2*nodes+i),
			},
		}
		c.nodes = append(c.nodes, n)
		mustDo(c.t, "start", n.Start())
	}
	for _, n := range c.nodes {
		if !eventually(nodeMost, func() bool { return n.healthy() || !n.Running() }) || !n.Running() {
			return false
		}
	}
	return true
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		if err := n.Stop(); err != nil {
			c.t.Error(err)
		}
	}
}

// URL is that of every node.
func (c *cluster) URL() string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, "nats://"+n.address)
	}
	return strings.Join(all, ",")
}

// bounce kills one node, leaves it away for a time, and waits until it has caught up.
func (c *cluster) bounce(n *node, away time.Duration) error {
	if err := n.Kill(); err != nil {
		return err
	}
	time.Sleep(away)
	if err := n.Start(); err != nil {
		return err
	}
	if !eventually(nodeMost, n.healthy) {
		return fmt.Errorf("%s has not caught up within %s; its log ends with:\n%s", n.Name, nodeMost, n.LastLines())
	}
	return nil
}

var probe = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// healthy is true once all of its streams and consumers are as the others have them.
func (n *node) healthy() bool {
	res, err := probe.Get(n.monitor + "/healthz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// streams is what the node itself has of each stream of ours: its messages, and its
// first and last sequence.
func (n *node) streams() (map[string][3]uint64, error) {
	res, err := probe.Get(n.monitor + "/jsz?accounts=true&streams=true")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var all struct {
		Accounts []struct {
			Name    string `json:"name"`
			Streams []struct {
				Name  string `json:"name"`
				State struct {
					Messages uint64 `json:"messages"`
					First    uint64 `json:"first_seq"`
					Last     uint64 `json:"last_seq"`
				} `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil {
		return nil, err
	}
	out := map[string][3]uint64{}
	for _, a := range all.Accounts {
		for _, s := range a.Streams {
			if a.Name == broker.AccountName && s.Name != broker.StreamStatus { // which moves with the time
				out[s.Name] = [3]uint64{s.State.Messages, s.State.First, s.State.Last}
			}
		}
	}
	return out, nil
}

// agree waits until every node has the same of every stream, and returns that.
func (c *cluster) agree() (map[string][3]uint64, error) {
	var all [nodes]map[string][3]uint64
	var failed error
	if eventually(nodeMost, func() bool {
		for i, n := range c.nodes {
			if all[i], failed = n.streams(); failed != nil {
				return false
			}
		}
		return len(all[0]) > 0 && cmp.Equal(all[0], all[1]) && cmp.Equal(all[1], all[2])
	}) {
		return all[0], nil
	}
	return nil, fmt.Errorf("the nodes do not come to have the same: %v (%w)", all, failed)
}

// eventually reports whether ok came true in time.
func eventually(most time.Duration, ok func() bool) bool {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			return false
		case <-tick.C:
		}
	}
	return true
}

// binary is one of those that make e2e builds.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("JOBRELAY_BIN_DIR")
	if dir == "" {
		t.Fatal("JOBRELAY_BIN_DIR names no folder of binaries: run make e2e-nats")
	}
	return filepath.Join(dir, name)
}

// certificates writes a CA and the nodes' certificate of it into dir, and returns the
// CA's file. For the test they share one; in production each has its own.
func certificates(t *testing.T, dir string) (ca string) {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the test's CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey := must[*ecdsa.PrivateKey](t, "key")(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // a route is both
	}
	serverKey := must[*ecdsa.PrivateKey](t, "key")(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		mustDo(t, name, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	write("node.pem", "CERTIFICATE", must[[]byte](t, "certificate")(x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, authorityKey)))
	write("node.key", "EC PRIVATE KEY", must[[]byte](t, "key")(x509.MarshalECPrivateKey(serverKey)))
	return write("ca.pem", "CERTIFICATE", must[[]byte](t, "certificate")(x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)))
}
