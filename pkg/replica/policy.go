package replica

import (
	"fmt"

	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// PolicyConfig says where the operator's policy is; its tags are flags of the
// services that decide by it.
type PolicyConfig struct {
	File    string `name:"policy-file" placeholder:"FILE" help:"YAML file of what each service may do, read again when it changes; default: everything is allowed."`
	Default string `name:"policy-default" enum:"allow,deny" default:"allow" help:"What a service without an entry in the policy may do: what the policy's default allows, or nothing."`
}

// Open reads the policy; its error has every problem of the file.
func (c *PolicyConfig) Open(log zerolog.Logger) (*process.File[*request.Policy], error) {
	f, err := process.OpenFile(c.File, func(text []byte) (*request.Policy, error) {
		p, err := request.ParsePolicy(text)
		if p != nil {
			p.Deny = c.Default == "deny"
		}
		return p, err
	}, log)
	if err != nil {
		return nil, fmt.Errorf("--policy-file: %w", err)
	}
	return f, nil
}
