package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// healthcheck asks the control plane that runs on the folder, from the same
// host, whether it is ready: its nodes, the claim and the API server. It is for
// the health check of a container.
func healthcheck(o options) error {
	dir := folder(o.dir)
	if _, err := os.Stat(dir.path("ready")); errors.Is(err, os.ErrNotExist) {
		return errors.New("not ready: it is starting or stopping, or does not run")
	} else if err != nil {
		return err
	}
	// The administrator's kubeconfig may name an address for others.
	config, err := clientcmd.BuildConfigFromFlags("", dir.path("controllers.kubeconfig"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	if answer, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return fmt.Errorf("the API server is not ready: %w: %s", err, answer)
	}
	return nil
}
