package nats_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

// TestWhatPermissionsDoNotPrevent holds what README.md says of a stolen key of a
// service. Where a later NATS refuses one of these, that page and the account of taps
// can be looked at again.
func TestWhatPermissionsDoNotPrevent(t *testing.T) {
	s := start(t)
	operator := s.open(broker.RoleOperator)
	stored := func(stream, subject string) bool {
		st, err := operator.JetStream().Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.GetLastMsgForSubject(t.Context(), subject)
		return err == nil
	}
	notifier, watcher := s.thief(broker.RoleNotifier, "_INBOX_notifier"), s.thief(broker.RoleWatcher, "_INBOX_watcher")

	mustDo(t, "pull", notifier.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.EVENTS.notifier", "commands.cancel.forged", []byte("{")))
	await.That(t, "the answer to a pull is stored where its reply says", func() bool { return stored(broker.StreamCommands, "commands.cancel.forged") })

	// What Append has stored is not stored elsewhere: its expectation stands in its
	// headers, and holds of no other log.
	mustDo(t, "publish", watcher.conn.Publish("events.s.forged.started", []byte("any text")))
	await.That(t, "it is stored", func() bool { return stored(broker.StreamEvents, "events.s.forged.started") })
	mustDo(t, "direct get", watcher.conn.PublishRequest("$JS.API.DIRECT.GET.EVENTS", "requests.forged", []byte(`{"last_by_subj":"events.s.forged.started"}`)))
	await.That(t, "so is that to a direct get", func() bool { return stored(broker.StreamRequests, "requests.forged") })

	m := nats.NewMsg("schedules.callback.forged")
	m.Header["Nats-Schedule"] = []string{"@at " + time.Now().UTC().Format(time.RFC3339Nano)}
	m.Header["Nats-Schedule-Target"] = []string{"wakeups.launch.forged"}
	mustDo(t, "schedule", notifier.conn.PublishMsg(m))
	await.That(t, "a schedule wakes up another role", func() bool { return stored(broker.StreamWakeups, "wakeups.launch.forged") })

	mustDo(t, "pull", notifier.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.EVENTS.notifier", "$JS.API.STREAM.DELETE.EVENTS", []byte("{")))
	await.That(t, "the server deletes a stream for who may only pull", func() bool {
		_, err := operator.JetStream().Stream(t.Context(), broker.StreamEvents)
		return errors.Is(err, jetstream.ErrStreamNotFound)
	})
}
