package jobrelay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

type natsCommand struct {
	Keys natsKeys `cmd:"" help:"Make the nkeys of users of NATS: a file with the seed each, and the public keys on standard output."`
}

type natsKeys struct {
	Dir   string   `arg:"" name:"DIR" help:"Folder of the seeds, NAME.nk each, readable by their owner alone. A key that is there stays."`
	Names []string `arg:"" name:"NAME" optional:"" help:"The users; default: every role."`
}

var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Validate says what is wrong with the arguments; kong calls it.
func (n *natsKeys) Validate() error {
	for _, name := range n.Names {
		if !keyName.MatchString(name) {
			return errors.New("a NAME takes 1 to 63 lower-case letters, digits and dashes")
		}
	}
	return nil
}

func (n *natsKeys) Run(c *console) error {
	names := n.Names
	if len(names) == 0 {
		for _, r := range broker.Roles() {
			names = append(names, r.Name)
		}
	}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return err
	}
	keys, text := map[string]string{}, ""
	for _, name := range names {
		public, err := key(filepath.Join(n.Dir, name+".nk"))
		if err != nil {
			return err
		}
		keys[name] = public
		text += broker.KeyVariable(name) + "=" + public + "\n"
	}
	return c.print(keys, text)
}

// key is the public key of the seed in the file, which is made where there is none.
func key(file string) (string, error) {
	seed, public, err := broker.NewKey()
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, os.ErrExist):
		if seed, err = os.ReadFile(file); err != nil {
			return "", err
		}
		if public, err = broker.PublicKey([]byte(strings.TrimSpace(string(seed)))); err != nil {
			return "", fmt.Errorf("%s: %w; remove it to have another made", file, err)
		}
		return public, nil
	case err != nil:
		return "", err
	}
	if _, err = f.Write(append(seed, '\n')); err != nil {
		_ = f.Close()
		return "", err
	}
	return public, f.Close()
}
