package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
	"sigs.k8s.io/kwok/pkg/apis/internalversion"
	"sigs.k8s.io/kwok/pkg/apis/v1alpha1"
	"sigs.k8s.io/kwok/pkg/kwok/controllers"
	"sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/client"
)

//go:embed stages.yaml
var stagesYAML []byte

// kubelet is kwok, which plays the kubelet of the nodes that carry
// simulatedLabel by the stages of stages.yaml. It leaves other nodes, their
// leases and their Pods to their own kubelets.
func (c *controlPlane) kubelet(ctx context.Context) (component, error) {
	stages, err := decodeStages(stagesYAML)
	if err != nil {
		return nil, err
	}
	clients, err := client.NewClientset("", c.dir.path("kubelet.kubeconfig"))
	if err != nil {
		return nil, err
	}
	mapper, err := clients.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	dynamic, err := clients.ToDynamicClient()
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfig(c.creds.rest(userKubelet))
	if err != nil {
		return nil, err
	}
	kwok, err := controllers.NewController(controllers.Config{
		Clock: clock.RealClock{}, ID: clusterName,
		TypedClient: typed, RESTClient: typed.CoreV1().RESTClient(), DynamicClient: dynamic, RESTMapper: mapper,
		ImpersonatingTypedClient:     clients.ToImpersonatingTypedClient(),
		ImpersonatingDynamicClient:   clients.ToImpersonatingDynamicClient(),
		ManageNodesWithLabelSelector: simulatedLabel + "=true",
		CIDR:                         "10.1.0.0/16", NodeIP: "10.1.0.1", NodePort: 10250,
		LocalStages:             stages,
		PodPlayStageParallelism: 16, NodePlayStageParallelism: 2,
		NodeLeaseDurationSeconds: 40, NodeLeaseParallelism: 2,
		PodsOnNodeSyncParallelism: 2, EnablePodsOnNodeSyncStreamWatch: true,
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		ctx = log.NewContext(ctx, log.NewLogger(c.log, log.Level(slog.LevelWarn)))
		if err := kwok.Start(ctx); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}, nil
}

func decodeStages(data []byte) (map[internalversion.StageResourceRef][]*internalversion.Stage, error) {
	stages := map[internalversion.StageResourceRef][]*internalversion.Stage{}
	documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var stage v1alpha1.Stage
		if err := documents.Decode(&stage); errors.Is(err, io.EOF) {
			return stages, nil
		} else if err != nil {
			return nil, fmt.Errorf("stages.yaml: %w", err)
		}
		if stage.Name == "" {
			continue // a document of comments only
		}
		v1alpha1.SetObjectDefaults_Stage(&stage)
		internal, err := internalversion.ConvertToInternalStage(&stage)
		if err != nil {
			return nil, fmt.Errorf("stages.yaml: stage %s: %w", stage.Name, err)
		}
		stages[internal.Spec.ResourceRef] = append(stages[internal.Spec.ResourceRef], internal)
	}
}
