// Package cluster is what is particular to client-go: where the API server is
// and how it is spoken to, and what its errors mean for a Job's creation.
package cluster

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/rs/zerolog"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"
)

// Config is the client configuration from an explicit kubeconfig file, else
// from KUBECONFIG, else from the Pod that we run in. Requests go as protobuf
// and have no rate limit on our side: the API server's priority and fairness is
// the limit, and Limit heeds it. The user agent, jobrelay/<role> (<version>), is what the API
// server's audit log shows. The error says what to set.
func Config(kubeconfig, role, version string) (*rest.Config, error) {
	c, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	c.QPS = -1
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.ContentType = runtime.ContentTypeProtobuf
	// Compression of lists takes more time than a cluster's own network, on both
	// ends; Kubernetes' own controllers do without it, too.
	c.DisableCompression = true
	// A warning names variables of the message and comes once for each: a line of
	// the log a duplicate, without bound.
	c.WarningHandler = rest.NoWarnings{}
	c.UserAgent = fmt.Sprintf("jobrelay/%s (%s)", role, version)
	return c, nil
}

// Client is a client of that configuration, its transport wrapped.
func Client(kubeconfig, role, version string, wrap ...transport.WrapperFunc) (kubernetes.Interface, error) {
	c, err := Config(kubeconfig, role, version)
	if err != nil {
		return nil, err
	}
	c.Wrap(transport.Wrappers(wrap...))
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("the Kubernetes API server of --kubeconfig or KUBECONFIG cannot be used: %w", err)
	}
	return client, nil
}

// Namespace is that of the kubeconfig's context, or of the Pod that we run in;
// else default.
func Namespace(kubeconfig string) string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	ns, _, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).Namespace()
	if err != nil || ns == "" {
		return metav1.NamespaceDefault
	}
	return ns
}

// Log makes client-go's own lines (a watch that broke off, the election) lines
// of log. It holds for the whole process, and is called before anything runs.
func Log(log zerolog.Logger) {
	klog.SetSlogLogger(slog.New(zerolog.NewSlogHandler(log)))
}

func load(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	if kubeconfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("no Kubernetes API server: set --kubeconfig or KUBECONFIG to a kubeconfig file, or run in a cluster: %w", err)
		}
		return c, nil
	}
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig of --kubeconfig or KUBECONFIG cannot be used: %w", err)
	}
	return c, nil
}
