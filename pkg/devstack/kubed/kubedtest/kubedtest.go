// Package kubedtest is a local Kubernetes (package kubed) that all test processes
// of a user use side by side. It is apart so that no command links testing.
package kubedtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/jobrelay/jobrelay/pkg/devstack/kubed"
)

const (
	// startMost bounds a start; 3 s is usual.
	startMost = 3 * time.Minute
	// sharedIdle is how long a shared cluster lives after its last user.
	sharedIdle = 60 * time.Second
	// holdMost bounds the wait for a shared cluster that is just ending.
	holdMost = 45 * time.Second
	// namespaceMost bounds the making of a namespace, and the request to delete it.
	namespaceMost = 30 * time.Second
)

// Cluster is the local Kubernetes that all test processes of a user share.
// Tests keep apart by namespaces; what is not in one (nodes, the claim
// default/ps-pvc) is to be read only.
type Cluster struct {
	kubeconfig string
	client     kubernetes.Interface
}

// Shared returns the shared cluster, which it starts if it does not run or has
// crashed; a start takes some 3 seconds. The cluster is a detached process with
// its folder in the temporary one, by user and binary, and ends 60 seconds after
// the last test process that used it; its objects are then forgotten. A missing
// binary and any other failure are fatal to the test.
func Shared(tb testing.TB) *Cluster {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startMost)
	defer cancel()
	s, err := hold.share(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Kubeconfig returns the path of the administrator's kubeconfig.
func (s *Cluster) Kubeconfig() string { return s.kubeconfig }

// Namespace makes a namespace for the test, in which Pods can be created when it
// returns. Its deletion is asked for when the test ends, and not waited for.
func (s *Cluster) Namespace(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), namespaceMost)
	defer cancel()
	namespaces := s.client.CoreV1().Namespaces()
	namespace, err := namespaces.Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: namespacePrefix(tb.Name())},
	}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatalf("make a namespace: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), namespaceMost)
		defer cancel()
		if err := namespaces.Delete(ctx, namespace.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			tb.Logf("delete namespace %s: %v", namespace.Name, err)
		}
	})
	err = wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := s.client.CoreV1().ServiceAccounts(namespace.Name).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		tb.Fatalf("namespace %s has no default service account: %v", namespace.Name, err)
	}
	return namespace.Name
}

// namespacePrefix makes the beginning of a namespace's name from a test's.
func namespacePrefix(test string) string {
	const most = 40 // of 63 characters; the API server adds 5
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, test)
	name = strings.Trim(name[:min(len(name), most)], "-")
	if name == "" {
		name = "test"
	}
	return name + "-"
}

// hold is this process's part in the shared cluster.
var hold holder

// holder keeps the shared cluster alive by a shared flock on its holders file.
// The flock is never given back: it ends with the process, however that ends.
type holder struct {
	mu     sync.Mutex
	binary string
	dir    string
	lock   *flock.Flock // nil until it is held
}

func (h *holder) share(ctx context.Context) (*Cluster, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lock == nil {
		if err := h.acquire(ctx); err != nil {
			return nil, err
		}
	}
	if s, err := h.connect(ctx); err == nil {
		return s, nil
	}
	// It does not run, or no longer. The binary sees to it that of several
	// processes that come here at once, one starts it.
	start := exec.CommandContext(ctx, h.binary, "start", "--dir", h.dir, "--idle", sharedIdle.String())
	if out, err := start.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the shared Kubernetes: %w: %s; if it stays so, end it with `%s stop --dir %s` and remove that folder",
			err, strings.TrimSpace(string(out)), h.binary, h.dir)
	}
	s, err := h.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("the shared Kubernetes does not answer: %w; end it with `%s stop --dir %s`", err, h.binary, h.dir)
	}
	return s, nil
}

// acquire takes the flock. A cluster that is just ending keeps it until it is gone.
func (h *holder) acquire(ctx context.Context) error {
	binary, err := kubed.Find()
	if err != nil {
		return err
	}
	hash, err := hashOf(binary)
	if err != nil {
		return err
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("jobrelay-kube-%d-%s", os.Getuid(), hash[:12]))
	if err := makePrivate(dir); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(dir, "holders"))
	ctx, cancel := context.WithTimeout(ctx, holdMost)
	defer cancel()
	if _, err := lock.TryRLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("the shared Kubernetes has not ended in %s: %w; end it with `%s stop --dir %s`", holdMost, err, binary, dir)
	}
	h.binary, h.dir, h.lock = binary, dir, lock
	return nil
}

// connect fails at once when the cluster does not run.
func (h *holder) connect(ctx context.Context) (*Cluster, error) {
	s := &Cluster{kubeconfig: filepath.Join(h.dir, "kubeconfig")}
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit
	if s.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	// The marker too: the API server is ready before the nodes are.
	if _, err := os.Stat(filepath.Join(h.dir, "ready")); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = s.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return s, err
}

// makePrivate makes a folder that only this user can use, or finds it made.
// Its name is predictable, so one that is another's is refused.
func makePrivate(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("the shared Kubernetes: %w; set TMPDIR to a folder that you can write to", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !ok || int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("the shared Kubernetes: %s is not a private folder of yours; remove it or set TMPDIR", dir)
	}
	return nil
}

func hashOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}
