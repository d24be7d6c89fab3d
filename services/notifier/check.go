package notifier

import (
	"errors"

	"github.com/jobrelay/jobrelay/pkg/request"
)

// CheckFiles reads the files that a policy names below the folders of
// --signing-keys and --callback-files, as the notifier does when it starts. Its
// error has every one that is missing or wrong.
func CheckFiles(signingKeys, callbackFiles string, policy *request.Policy) error {
	_, keys := readKeys(signingKeys, policy)
	_, peers := readPeers(callbackFiles, policy)
	return errors.Join(keys, peers)
}
