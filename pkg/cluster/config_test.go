package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/cluster"
)

const kubeconfig = `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
 "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
 "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
 "users": [{"name": "u", "user": {"token": "t"}}]}`

func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, given := range map[string]string{"file": file, "KUBECONFIG": ""} {
		t.Setenv("KUBECONFIG", "")
		if given == "" {
			t.Setenv("KUBECONFIG", file)
		}
		c, err := cluster.Config(given, "launcher", "v1")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Host != "https://127.0.0.1:1" || c.QPS != -1 || c.UserAgent != "jobrelay/launcher (v1)" || !strings.Contains(c.ContentType, "protobuf") || !c.DisableCompression {
			t.Errorf("%s: %s, QPS %g, %s, %s", name, c.Host, c.QPS, c.UserAgent, c.ContentType)
		}
	}
}

func TestConfigSaysWhatToSet(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, given := range []string{"", filepath.Join(t.TempDir(), "none")} {
		_, err := cluster.Config(given, "launcher", "v1")
		if err == nil || !strings.Contains(err.Error(), "KUBECONFIG") {
			t.Errorf("%q: %v", given, err)
		}
	}
}
