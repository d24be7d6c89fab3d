package jobrelay

import (
	"context"

	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// place says which queue a command works on.
type place struct {
	Queue    string `name:"queue" aliases:"queue-url" env:"JOBRELAY_QUEUE_URL" placeholder:"URL" help:"URL of the queue, with the AWS SDK's own endpoint and credentials; without it, or as dev, the queue of --state-dir."`
	StateDir string `name:"state-dir" default:".jobrelay" help:"Folder of a running jobrelay dev."`
}

// devPlace stands for the queue of a running jobrelay dev.
const devPlace = "dev"

// open looks the queue up.
func (p place) open(ctx context.Context) (*sqsqueue.Queue, error) {
	if p.Queue != "" && p.Queue != devPlace {
		return sqsqueue.Open(ctx, sqsqueue.Config{QueueURL: p.Queue})
	}
	d, err := readDescription(p.StateDir)
	if err != nil {
		return nil, err
	}
	return sqsqueue.Open(ctx, sqsqueue.Config{QueueURL: d.SQS.QueueURL, Endpoint: d.SQS.Endpoint, Region: d.SQS.Region})
}
