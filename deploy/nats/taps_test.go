package nats_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

const (
	inbox    = "_INBOX" // of taps: in their account there is nobody else
	pullOf   = broker.TapAPI + ".CONSUMER.MSG.NEXT.EVENTS."
	anyReply = "_INBOX.reply"
)

// jobs appends a started job for each of n ids to the log, as the watcher would.
func (s *secured) jobs(service string, n int) {
	s.t.Helper()
	watcher := s.open(broker.RoleWatcher)
	var all sync.WaitGroup
	slots := make(chan struct{}, 64)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			id := fmt.Sprintf("%s %d", service, i)
			if _, err := watcher.Append(s.t.Context(), service, broker.Tail{}, newEvent(s.t, id, &jobsv1.JobStarted{JobId: "u", Service: service})); err != nil {
				s.t.Error(err)
			}
		})
	}
	all.Wait()
}

func (s *secured) tap(t broker.Tap) {
	s.t.Helper()
	mustDo(s.t, "create the tap", s.open(broker.RoleOperator).CreateTap(s.t.Context(), t))
}

// TestATapSeesItsServiceOnly: what its durable was not made for, it never gets.
func TestATapSeesItsServiceOnly(t *testing.T) {
	s := start(t, broker.Tap{Name: "billing"})
	s.tap(broker.Tap{Name: "billing", Services: []string{"billing.eu"}})
	s.jobs("billing", 20)
	s.jobs("billing.eu", 20)
	s.jobs("other", 20)
	js := must[jetstream.JetStream](t, "client")(jetstream.NewWithAPIPrefix(s.thief("tap-billing", inbox).conn, broker.TapAPI))
	consumer := must[jetstream.Consumer](t, "consumer")(js.Consumer(t.Context(), broker.StreamEvents, "tap-billing"))
	if pending := consumer.CachedInfo().NumPending; pending != 20 {
		t.Errorf("%d events wait for it", pending)
	}
	batch := must[jetstream.MessageBatch](t, "fetch")(consumer.Fetch(100, jetstream.FetchMaxWait(2*time.Second)))
	got := 0
	for m := range batch.Messages() {
		service, _, _, err := event.ParseSubject(m.Subject())
		if err != nil || service != "billing.eu" {
			t.Errorf("it sees %s (%v)", m.Subject(), err)
		}
		got++
		mustDo(t, "ack", m.Ack())
	}
	if got != 20 {
		t.Errorf("it sees %d events (%v)", got, batch.Error())
	}
	operator := s.open(broker.RoleOperator)
	await.That(t, "its acknowledgements arrive", func() bool {
		taps := must[[]broker.TapState](t, "taps")(operator.Taps(t.Context()))
		return taps[0].Pending == 0 && taps[0].Unacknowledged == 0 && !taps[0].LastAck.IsZero()
	})
}

// TestATapIsRefusedEverythingElse tries a tap's key on every subject of every role,
// on other taps, and on what changes streams and consumers.
func TestATapIsRefusedEverythingElse(t *testing.T) {
	s := start(t, broker.Tap{Name: "billing"}, broker.Tap{Name: "other"})
	s.tap(broker.Tap{Name: "billing"})
	s.tap(broker.Tap{Name: "other"})
	tapRefusals(t, s)
}

func tapRefusals(t *testing.T, s *secured) {
	th := s.thief("tap-billing", inbox)
	every := slices.Clone(nobodysBusiness)
	for _, r := range broker.Roles() {
		for _, pattern := range r.Publish() {
			every = append(every, concrete(pattern))
		}
	}
	for _, name := range []string{"tap-other", "notifier", "launcher", "tap-billing2"} {
		every = append(every, pullOf+name, broker.TapAPI+".CONSUMER.INFO.EVENTS."+name, "$JS.API.CONSUMER.MSG.NEXT.EVENTS."+name, "$JS.ACK.EVENTS."+name+".1.1.1.1.1")
	}
	every = append(every, "$JS.API.CONSUMER.DELETE.EVENTS.tap-billing", "$JS.API.CONSUMER.CREATE.EVENTS.tap-billing", "$JS.API.STREAM.INFO.EVENTS")
	for _, subject := range every {
		if th.publishes(subject) {
			t.Errorf("a tap may publish to %s", subject)
		}
	}
	for _, subject := range []string{">", "events.>", "$JS.>", "_R_.>"} {
		if th.subscribes(subject) {
			t.Errorf("a tap may subscribe to %s", subject)
		}
	}
	if !th.publishes("$JS.ACK.EVENTS.tap-billing.1.1.1.1.1") {
		t.Error("a tap may not acknowledge: the test sees refusals where there are none")
	}
	t.Logf("%d subjects were refused", len(every))
}

// TestATapsAnswersStayInItsAccount: the server sends what a tap pulls to whatever
// subject the tap names as the reply, and asks no permission for it. Were a tap's
// user in our account, it could write to any of our streams so.
func TestATapsAnswersStayInItsAccount(t *testing.T) {
	s := start(t, broker.Tap{Name: "billing"})
	s.tap(broker.Tap{Name: "billing"})
	s.jobs("s", 100)
	operator := s.open(broker.RoleOperator)
	before := s.state(operator)
	th := s.thief("tap-billing", inbox)
	replies := append([]string{
		"ledger.callback.x", "requests.x", "events.s.x.started", "rejections.x", "wakeups.callback.x", "wakeups.launch.x", "commands.cancel.x", "controls.pause.x",
		"deadletters.callback.s.x.0", "status.notifier.x", "schedules.callback.x",
		"$JS.ACK.EVENTS.notifier.1.1.1.1.1", pullOf + "notifier", pullOf + "tap-billing", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.notifier",
	}, nobodysBusiness...)
	for _, reply := range replies {
		mustDo(t, "pull", th.conn.PublishRequest(pullOf+"tap-billing", reply, []byte("1")))
		mustDo(t, "pull", th.conn.PublishRequest(pullOf+"tap-billing", reply, []byte("{"))) // its answer is a refusal
	}
	// All of them were handed out once the durable has nothing new for another pull
	// that waits behind them.
	sub := must[*nats.Subscription](t, "subscribe")(th.conn.SubscribeSync(anyReply))
	mustDo(t, "pull", th.conn.PublishRequest(pullOf+"tap-billing", anyReply, []byte("1")))
	must[*nats.Msg](t, "the tap's own pull")(sub.NextMsg(10 * time.Second))
	if diff := cmp.Diff(before, s.state(operator)); diff != "" {
		t.Errorf("a tap's pulls changed what is not its own:\n%s", diff)
	}
}

// TestATenantsMirror: a tenant has the events of its services in a stream of its own
// account, by their sequences on EVENTS, and may do there what it likes; none of it is
// felt in ours.
func TestATenantsMirror(t *testing.T) {
	tap := broker.Tap{Name: "tenant", Mirror: true, Services: []string{"mail", "billing.eu"}}
	s := start(t, tap)
	s.tap(tap)
	s.jobs("mail", 2500) // more than the server sends without an answer
	s.jobs("other", 100)
	operator := s.open(broker.RoleOperator)
	th := s.thief("tap-tenant", inbox)
	js := must[jetstream.JetStream](t, "client")(jetstream.New(th.conn))
	var cfg jetstream.StreamConfig
	mustDo(t, "configuration", json.Unmarshal(must[[]byte](t, "configuration")(tap.MirrorConfig()), &cfg))
	mirror := must[jetstream.Stream](t, "mirror")(js.CreateStream(t.Context(), cfg))
	has := func(n int) func() bool {
		return func() bool {
			return must[*jetstream.StreamInfo](t, "mirror")(mirror.Info(t.Context())).State.Msgs == uint64(n)
		}
	}
	await.That(t, "the mirror has what there was", has(2500))
	s.jobs("billing.eu", 10)
	await.That(t, "and what is appended", has(2510))

	subject := event.Subject("mail", event.Key("mail 7"), event.TypeJobStarted)
	ours := must[jetstream.Stream](t, "EVENTS")(operator.JetStream().Stream(t.Context(), broker.StreamEvents))
	want := must[*jetstream.RawStreamMsg](t, "event")(ours.GetLastMsgForSubject(t.Context(), subject))
	got := must[*jetstream.RawStreamMsg](t, "event")(mirror.GetLastMsgForSubject(t.Context(), subject))
	if got.Sequence != want.Sequence || string(got.Data) != string(want.Data) {
		t.Errorf("%d %s, not %d %s", got.Sequence, got.Data, want.Sequence, want.Data)
	}

	before := s.state(operator)
	own := must[jetstream.Consumer](t, "a consumer of its own")(js.OrderedConsumer(t.Context(), broker.StreamEvents, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"events.mail.*.*"}}))
	must[jetstream.Msg](t, "next")(own.Next())
	for _, subject := range append([]string{"events.s.x.started", "requests.x", "ledger.callback.x", "mirrors.tenant", "mirrors.other"}, nobodysBusiness...) {
		th.publishes(subject) // in its own account it may, and even delete its mirror: nothing of ours is there
		mustDo(t, "reset", th.conn.PublishRequest(broker.TapAPI+".CONSUMER.RESET.EVENTS.notifier", subject, nil))
		mustDo(t, "reset", th.conn.PublishRequest(broker.TapAPI+".CONSUMER.RESET.EVENTS.mirror-tenant", subject, nil))
	}
	must[*nats.Msg](t, "the last reset is answered")(th.conn.Request(broker.TapAPI+".CONSUMER.RESET.EVENTS.mirror-tenant", nil, 10*time.Second))
	if diff := cmp.Diff(before, s.state(operator)); diff != "" {
		t.Errorf("a tenant changed what is not its own:\n%s", diff)
	}
}

// TestATapDelaysNobody: one that never acknowledges and one that asks for everything
// at once; the notifier's durable and the log go on beside them.
func TestATapDelaysNobody(t *testing.T) {
	const jobs = 3000
	s := start(t, broker.Tap{Name: "silent"}, broker.Tap{Name: "greedy"})
	s.tap(broker.Tap{Name: "silent"})
	s.tap(broker.Tap{Name: "greedy"})
	s.jobs("before", jobs)

	silent, greedy := s.thief("tap-silent", inbox), s.thief("tap-greedy", inbox)
	taken := must[*nats.Subscription](t, "subscribe")(silent.conn.SubscribeSync(anyReply))
	for range 3 {
		mustDo(t, "pull", silent.conn.PublishRequest(pullOf+"tap-silent", anyReply, []byte(`{"batch":1000}`)))
	}
	answers := must[*nats.Subscription](t, "subscribe")(greedy.conn.SubscribeSync(anyReply))
	for range 5000 {
		mustDo(t, "pull", greedy.conn.PublishRequest(pullOf+"tap-greedy", anyReply, []byte(`{"batch":1000,"expires":50000000000}`)))
	}
	mustDo(t, "pull", greedy.conn.PublishRequest(pullOf+"tap-greedy", anyReply, []byte(`{"batch":1000000}`)))
	refused := ""
	await.That(t, "a pull of a million is refused", func() bool {
		for {
			m, err := answers.NextMsg(time.Millisecond)
			if err != nil {
				return false
			}
			if refused = m.Header.Get("Description"); strings.HasPrefix(refused, "Exceeded MaxRequestBatch of 1000") {
				return true
			}
		}
	})

	s.jobs("after", jobs)
	notifier := s.open(broker.RoleNotifier)
	seen := map[string]bool{}
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mustDo(t, "consume", notifier.Consume(ctx, broker.NotifierEvents, broker.ConsumeOptions{InFlight: 64, Pull: 512}, func(_ context.Context, m broker.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if seen[m.Subject] = true; len(seen) == 2*jobs {
			cancel()
		}
		return nil
	}))
	if len(seen) != 2*jobs {
		t.Errorf("the notifier got %d of %d events", len(seen), 2*jobs)
	}
	for _, tap := range must[[]broker.TapState](t, "taps")(s.open(broker.RoleOperator).Taps(t.Context())) {
		if tap.Unacknowledged > 1000 {
			t.Errorf("%s has %d unacknowledged events", tap.Name, tap.Unacknowledged)
		}
	}
	if n, _, err := taken.Pending(); err != nil || n > 1001 { // and one answer that there is no more
		t.Errorf("a tap that acknowledges nothing got %d messages (%v)", n, err)
	}
}

// state is what a tap must not change: how many messages each stream has, and each of
// our consumers.
func (s *secured) state(operator *broker.Broker) map[string]any {
	s.t.Helper()
	out := map[string]any{}
	for _, stream := range broker.Topology(1) {
		info := must[jetstream.Stream](s.t, stream.Name)(operator.JetStream().Stream(s.t.Context(), stream.Name)).CachedInfo()
		out[stream.Name] = []uint64{info.State.Msgs, info.State.LastSeq}
	}
	for _, c := range broker.Consumers() {
		info := must[jetstream.Consumer](s.t, c.Name)(operator.JetStream().Consumer(s.t.Context(), c.Stream, c.Name)).CachedInfo()
		out[c.Stream+"/"+c.Name] = fmt.Sprintf("%+v %d %d %d", info.Config, info.AckFloor.Stream, info.Delivered.Stream, info.NumAckPending)
	}
	return out
}
