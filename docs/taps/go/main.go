// A tap of jobrelay's job events: prints each as a CloudEvent and acknowledges it.
//
//	NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=keys/tap-billing.nk go run ./docs/taps/go billing
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() { log.Fatal(tap(context.Background(), "tap-"+os.Args[1])) }

func tap(ctx context.Context, durable string) error {
	nkey, err := nats.NkeyOptionFromSeed(os.Getenv("NATS_NKEY"))
	if err != nil {
		return err
	}
	conn, err := nats.Connect(os.Getenv("NATS_URL"), nkey, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	js, err := jetstream.NewWithAPIPrefix(conn, "JOBRELAY.API")
	if err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, "EVENTS", durable)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	for {
		m, err := messages.Next()
		if err != nil {
			return err
		}
		e, err := read(m)
		if err != nil {
			return err
		}
		// Here goes your work. What is not acknowledged comes again, with the same id.
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

// read makes a CloudEvent of a message: its attributes are the ce- headers,
// percent-encoded, and its data is JSON.
func read(m jetstream.Msg) (e cloudevents.Event, err error) {
	attributes := map[string]any{"data": json.RawMessage(m.Data())}
	for name, values := range m.Headers() {
		if attribute, ok := strings.CutPrefix(name, "ce-"); ok {
			if attributes[attribute], err = url.PathUnescape(values[0]); err != nil {
				return e, err
			}
		}
	}
	text, err := json.Marshal(attributes)
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(text, &e)
}
