package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const clusterName = "jobrelay-dev"

// The users of the static token file. Their groups are those of a kubeadm
// cluster, except that the controllers and the kubelet are administrators too.
const (
	userAdmin       = "jobrelay-dev-admin"
	userControllers = "jobrelay-dev-controllers"
	userKubelet     = "jobrelay-dev-kubelet"
	userScheduler   = "system:kube-scheduler"
)

var groups = map[string]string{
	userAdmin:       "system:masters",
	userControllers: "system:masters",
	userKubelet:     "system:masters",
	userScheduler:   "",
}

// credentials are the certificates, tokens and kubeconfig files of a folder.
// The authority, the service accounts' key and the tokens are made once; the
// API server's certificate is made on each start, for the addresses it then has.
type credentials struct {
	dir    folder
	url    string // the API server's, as this process reaches it
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	caPEM  []byte
	tokens map[string]string // by user
}

// prepareCredentials makes or reads the folder's credentials and writes its
// kubeconfig files: the administrator's with the given server (nil: the address
// that the API server listens on), the components' with the local address.
func prepareCredentials(dir folder, addr net.Addr, server *url.URL) (*credentials, error) {
	listen := addr.(*net.TCPAddr)
	c := &credentials{dir: dir, url: localURL(listen)}
	// tokens.csv is written last: it marks the others as complete.
	if _, err := os.Stat(dir.path("tokens.csv")); errors.Is(err, os.ErrNotExist) {
		if err := c.create(); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if err := c.read(); err != nil {
		return nil, err
	}
	hosts := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", "::1", "10.0.0.1", listen.IP.String()}
	adminURL := c.url
	if server != nil {
		adminURL = server.String()
		hosts = append(hosts, server.Hostname())
	}
	return c, errors.Join(
		c.issueServing(hosts),
		c.writeKubeconfig("kubeconfig", userAdmin, adminURL),
		c.writeKubeconfig("scheduler.kubeconfig", userScheduler, c.url),
		c.writeKubeconfig("controllers.kubeconfig", userControllers, c.url),
		c.writeKubeconfig("kubelet.kubeconfig", userKubelet, c.url),
	)
}

// localURL is how a process on this machine reaches the listener.
func localURL(listen *net.TCPAddr) string {
	host := listen.IP.String()
	if listen.IP.IsUnspecified() {
		host = "127.0.0.1" // an IPv6 wildcard listener takes IPv4 too
	}
	return "https://" + net.JoinHostPort(host, fmt.Sprint(listen.Port))
}

// rest returns a user's client configuration, with a rate limit that does not matter.
func (c *credentials) rest(user string) *rest.Config {
	return &rest.Config{
		Host: c.url, BearerToken: c.tokens[user],
		TLSClientConfig: rest.TLSClientConfig{CAData: c.caPEM},
		QPS:             1000, Burst: 2000,
	}
}

// create makes what lasts as long as the folder.
func (c *credentials) create() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	now := time.Now().Add(-time.Hour)
	ca := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: clusterName + " CA"},
		NotBefore: now, NotAfter: now.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	serviceAccounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	var tokens strings.Builder
	for user, group := range groups {
		token := make([]byte, 24)
		if _, err := rand.Read(token); err != nil {
			return err
		}
		fmt.Fprintf(&tokens, "%s,%s,%s", hex.EncodeToString(token), user, user)
		if group != "" {
			fmt.Fprintf(&tokens, ",%q", group)
		}
		tokens.WriteByte('\n')
	}
	if err := errors.Join(
		c.writePEM("ca.crt", "CERTIFICATE", caDER),
		c.writeKey("ca.key", caKey),
		c.writeKey("service-accounts.key", serviceAccounts),
	); err != nil {
		return err
	}
	return c.dir.writeFile("tokens.csv", []byte(tokens.String()))
}

func (c *credentials) read() error {
	var err error
	if c.caPEM, err = os.ReadFile(c.dir.path("ca.crt")); err != nil {
		return err
	}
	certificate, _ := pem.Decode(c.caPEM)
	keyPEM, err := os.ReadFile(c.dir.path("ca.key"))
	if err != nil {
		return err
	}
	key, _ := pem.Decode(keyPEM)
	if certificate == nil || key == nil {
		return errors.New("ca.crt or ca.key is not PEM")
	}
	if c.ca, err = x509.ParseCertificate(certificate.Bytes); err != nil {
		return err
	}
	if c.caKey, err = x509.ParseECPrivateKey(key.Bytes); err != nil {
		return err
	}
	tokens, err := os.ReadFile(c.dir.path("tokens.csv"))
	if err != nil {
		return err
	}
	c.tokens = map[string]string{}
	for line := range strings.Lines(string(tokens)) {
		if fields := strings.Split(line, ","); len(fields) >= 2 {
			c.tokens[fields[1]] = fields[0]
		}
	}
	for user := range groups {
		if c.tokens[user] == "" {
			return fmt.Errorf("tokens.csv has no token for %s", user)
		}
	}
	return nil
}

// issueServing makes the API server's certificate for these names and addresses.
func (c *credentials) issueServing(hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: c.ca.NotBefore, NotAfter: c.ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, c.ca, key.Public(), c.caKey)
	if err != nil {
		return err
	}
	return errors.Join(c.writePEM("apiserver.crt", "CERTIFICATE", der), c.writeKey("apiserver.key", key))
}

func (c *credentials) writePEM(name, kind string, der []byte) error {
	return c.dir.writeFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (c *credentials) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return c.writePEM(name, "EC PRIVATE KEY", der)
}

func (c *credentials) writeKubeconfig(name, user, server string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[clusterName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: c.caPEM}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: c.tokens[user]}
	config.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: user}
	config.CurrentContext = clusterName
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return c.dir.writeFile(name, data)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}
