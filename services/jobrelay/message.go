package jobrelay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"

	"github.com/jobrelay/jobrelay/pkg/kubejob"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

type sendCommand struct {
	File     string `arg:"" help:"File with one message, - for standard input."`
	QueueURL string `name:"queue-url" placeholder:"URL" help:"Queue to send to, with the AWS SDK's own credentials; else that of --state-dir."`
	StateDir string `name:"state-dir" default:".jobrelay" help:"Folder of a running jobrelay dev, whose queue is sent to."`
}

// Run sends the message as it is: what is wrong with it is ingest's to say.
func (s *sendCommand) Run(ctx context.Context, c *console) error {
	body, err := readMessage(s.File)
	if err != nil {
		return err
	}
	where := sqsqueue.Config{QueueURL: s.QueueURL}
	if s.QueueURL == "" {
		d, err := readDescription(s.StateDir)
		if err != nil {
			return err
		}
		where = sqsqueue.Config{QueueURL: d.SQS.QueueURL, Endpoint: d.SQS.Endpoint, Region: d.SQS.Region}
	}
	q, err := sqsqueue.Open(ctx, where)
	if err != nil {
		return err
	}
	id, err := q.Send(ctx, body)
	if err != nil {
		return err
	}
	return c.print(map[string]string{"messageId": id, "queue": q.Name()}, fmt.Sprintf("sent to %s as %s\n", q.Name(), id))
}

type validateCommand struct {
	File   string `arg:"" help:"File with one message, - for standard input."`
	Strict bool   `help:"Take unknown fields as errors."`
}

// report is what validate prints for machines.
type report struct {
	Valid    bool      `json:"valid"`
	ID       string    `json:"id,omitempty"`
	JobName  string    `json:"jobName,omitempty"`
	Problems []problem `json:"problems"`
	Warnings []problem `json:"warnings"`
}

type problem struct {
	Path    string `json:"path"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (v *validateCommand) Run(c *console) error {
	body, err := readMessage(v.File)
	if err != nil {
		return err
	}
	parsed := request.Parse(body, request.Options{Strict: v.Strict})
	r := report{Valid: parsed.Request != nil, ID: parsed.ID, Problems: problems(parsed.Problems), Warnings: problems(parsed.Warnings)}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, p := range r.Problems {
		fmt.Fprintf(table, "error\t%s\t%s\t%s\n", p.Path, p.Code, p.Message)
	}
	for _, p := range r.Warnings {
		fmt.Fprintf(table, "warning\t%s\t%s\t%s\n", p.Path, p.Code, p.Message)
	}
	if r.Valid {
		r.JobName = kubejob.Name(parsed.Request.GetJob().GetPrefixName(), parsed.ID)
		fmt.Fprintf(table, "valid: becomes Job %s in namespace %s\n", r.JobName, parsed.Request.GetJob().GetNamespace())
	}
	if err := errors.Join(table.Flush(), c.print(r, text.String())); err != nil {
		return err
	}
	if !r.Valid {
		return errInvalid
	}
	return nil
}

func problems(in []request.Problem) []problem {
	out := make([]problem, 0, len(in))
	for _, p := range in {
		out = append(out, problem{p.Path, p.Code, p.Message})
	}
	return out
}

type renderCommand struct {
	File         string `arg:"" help:"File with one message, - for standard input."`
	Installation string `name:"installation" default:"default" help:"Name of the installation that the Job is labelled with."`
}

func (r *renderCommand) Run(c *console) error {
	body, err := readMessage(r.File)
	if err != nil {
		return err
	}
	parsed := request.Parse(body, request.Options{})
	if parsed.Request == nil {
		for _, p := range parsed.Problems {
			fmt.Fprintf(os.Stderr, "%s: %s\n", p.Path, p.Message)
		}
		return errInvalid
	}
	job, err := kubejob.Build(parsed.Request, r.Installation, kubejob.Name(parsed.Request.GetJob().GetPrefixName(), parsed.ID))
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(job)
	if err != nil {
		return err
	}
	return c.print(job, string(text))
}
