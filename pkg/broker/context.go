package broker

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
)

// ContextScheme begins an address that names a context of the nats command: its
// server, login, certificates, inbox prefix and JetStream domain then hold.
const ContextScheme = "context:"

// ChosenContext is the name of the context that `nats context select` chose; empty
// for none.
func ChosenContext() string {
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(os.Getenv("HOME"), ".config")
	}
	b, err := os.ReadFile(filepath.Join(config, "nats", "context.txt")) //nolint:gosec // the folder that the user's environment names
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// connect goes to the address, or to the server of the context that it names.
func connect(address string, options ...nats.Option) (*nats.Conn, natscontext.Settings, error) {
	name, isContext := strings.CutPrefix(address, ContextScheme)
	if !isContext {
		conn, err := nats.Connect(address, options...)
		if err != nil {
			// Not err itself: it may quote the address, and the address a password.
			err = errors.New("the address of NATS cannot be used; set JOBRELAY_NATS_URL to one like nats://nats:4222")
		}
		return conn, natscontext.Settings{}, err
	}
	if name == "" {
		return nil, natscontext.Settings{}, fmt.Errorf("%s needs the name of a context; `nats context ls` lists them", ContextScheme)
	}
	conn, settings, err := natscontext.Connect(name, options...)
	if err != nil {
		// Not err itself, as above.
		err = fmt.Errorf("the NATS context %s cannot be used; `nats context ls` lists those that there are, and `nats context validate %s` says what is wrong", name, name)
	}
	return conn, settings, err
}

// inboxPrefix is the prefix where a context says no other.
func inboxPrefix(prefix string) nats.Option {
	return func(o *nats.Options) error {
		if o.InboxPrefix != "" {
			return nil
		}
		return nats.CustomInboxPrefix(prefix)(o)
	}
}

// streaming is the JetStream whose API has the prefix, or that which the context says.
func streaming(conn *nats.Conn, s natscontext.Settings, prefix string, options ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	if s.JSDomain != "" && prefix == "" {
		return jetstream.NewWithDomain(conn, s.JSDomain, options...)
	}
	return jetstream.NewWithAPIPrefix(conn, cmp.Or(prefix, s.JSAPIPrefix, jetstream.DefaultAPIPrefix), options...)
}
