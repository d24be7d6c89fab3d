package notifier

import (
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
)

// openFiles reads the files below dir that the policy names, by read. The error, at
// the start as later, has every file that is wrong. The policy and all files are read
// again where one of them changes.
func openFiles[T any](dir, policyFile string, policy func() *request.Policy, read func(dir string, policy *request.Policy) (*T, error), equal func(a, b *T) bool, log zerolog.Logger) (*process.File[*T], error) {
	name := dir
	if dir == "" { // the policy may come to name a file all the same
		name = policyFile
	}
	var last *T
	return process.OpenFiles(name, func() (value *T, changed bool, err error) {
		value, err = read(dir, policy())
		if err != nil || equal(value, last) {
			return nil, false, err
		}
		last = value
		return value, true, nil
	}, log)
}
