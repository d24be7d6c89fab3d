package nats_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/timeline"
)

// TestEachRoleHasWhatItNeeds runs the NATS side of the pipeline, each role's calls
// of the broker with that role's key: the server refuses none.
func TestEachRoleHasWhatItNeeds(t *testing.T) {
	t.Run("in one account", func(t *testing.T) { pipeline(t, start(t)) })
	t.Run("apart", func(t *testing.T) { pipeline(t, startApart(t)) })
}

func pipeline(t *testing.T, s *secured) {
	ingest, launcher, watcher, notifier := s.open(broker.RoleIngest), s.open(broker.RoleLauncher), s.open(broker.RoleWatcher), s.open(broker.RoleNotifier)
	operator := s.open(broker.RoleOperator)
	ctx, key := t.Context(), event.Key("id")

	// ingest: accepts, compares a known id, refuses.
	accept := newEvent(t, "id", &jobsv1.JobRequested{Id: "id", Service: "s", Webhook: &jobsv1.Webhook{Url: "http://receiver.example"}})
	mustDo(t, "accept", ingest.Accept(ctx, accept))
	if err := ingest.Accept(ctx, accept); !errors.Is(err, broker.ErrConflict) {
		t.Fatalf("a second accept: %v", err)
	}
	must[event.Event](t, "request")(ingest.Request(ctx, key))
	refusal := broker.Refusal{
		Rejection: broker.Rejection{LogKey: event.RejectedLogKey("bad", []byte("{}")), Body: []byte("{}"), ID: "bad", Service: "s", Webhook: &jobsv1.Webhook{Url: "http://receiver.example"}},
		Code:      "MESSAGE_INVALID", Source: event.SourceOfQueue("default", "jobs"), Callback: true, At: time.Now(),
	}
	mustDo(t, "refuse", ingest.Refuse(ctx, refusal))
	mustDo(t, "refuse again", ingest.Refuse(ctx, refusal))

	// launcher: a request, its pause and its place, a wait, a Job, a refusal.
	mustDo(t, "pause", operator.SetPause(ctx, broker.Pause{Service: "s"}))
	var tail broker.Tail
	consume(t, launcher, broker.LauncherRequests, func(ctx context.Context, _ broker.Message) error {
		tail = must[broker.Tail](t, "tail")(launcher.Tail(ctx, "s", key))
		must[broker.Pause](t, "pause")(launcher.Pause(ctx, "s"))
		active := must[broker.Active](t, "active")(launcher.Active(ctx, "s"))
		mustDo(t, "swap active", launcher.SwapActive(ctx, "s", active, []string{key}))
		return broker.RetryAfter(0, broker.Wakeup{Purpose: broker.PurposeLaunch, Token: key}, errors.New("waits"))
	})
	consume(t, launcher, broker.LauncherWakeups, func(ctx context.Context, _ broker.Message) error {
		must[event.Event](t, "request")(launcher.Request(ctx, key))
		tail = must[broker.Tail](t, "append")(launcher.Append(ctx, "s", tail, newEvent(t, "id", &jobsv1.JobStarted{JobId: "u"})))
		return nil
	})
	refusal.LogKey, refusal.Callback = event.RejectedLogKey("id", []byte("old")), false
	mustDo(t, "the launcher refuses an old id", launcher.Refuse(ctx, refusal))
	must[broker.Tail](t, "exception")(launcher.Append(ctx, "s", broker.Tail{}, newEvent(t, "never", &jobsv1.JobException{Error: &jobsv1.Error{ErrorCode: "LAUNCH_EXPIRED"}})))

	// watcher: reads many ends, the request, appends, takes a command.
	must[map[broker.LogName]broker.Tail](t, "tails")(watcher.Tails(ctx, []broker.LogName{{Service: "s", Key: key}}))
	must[event.Event](t, "request")(watcher.Request(ctx, key))
	for id, ends := range map[string]bool{"other": false, "id": true} {
		after := tail
		if !ends {
			after = must[broker.Tail](t, "started")(watcher.Append(ctx, "s", broker.Tail{}, newEvent(t, id, &jobsv1.JobStarted{JobId: "v"})))
		}
		after = must[broker.Tail](t, "pod started")(watcher.Append(ctx, "s", after, newEvent(t, id, &jobsv1.PodStarted{JobId: "v"})))
		if ends {
			must[broker.Tail](t, "completed")(watcher.Append(ctx, "s", after, newEvent(t, id, &jobsv1.JobCompleted{JobId: "u"})))
		} else {
			must[broker.Tail](t, "failed")(watcher.Append(ctx, "s", after, newEvent(t, id, &jobsv1.JobFailed{JobId: "v"})))
		}
	}
	must[broker.Tail](t, "cancelled")(watcher.Append(ctx, "s", broker.Tail{}, newEvent(t, "cancelled", &jobsv1.JobException{})))
	mustDo(t, "cancel", operator.Cancel(ctx, broker.Cancel{ID: "id", At: time.Now()}))
	consume(t, watcher, broker.WatcherCommands, func(context.Context, broker.Message) error { return nil })
	consume(t, launcher, broker.LauncherEnds, func(context.Context, broker.Message) error { return nil })

	// notifier: a token with its request, ledger, wait, and dead letter; a replay.
	letter := delivery.Letter{LogKey: key, N: 0, ID: "id", Service: "s", Status: 0, URL: "http://receiver.example", Endpoint: "http://receiver.example", At: time.Now()}
	consume(t, notifier, broker.NotifierEvents, func(ctx context.Context, m broker.Message) error {
		must[broker.Stored](t, "event")(notifier.EventAt(ctx, m.Sequence))
		must[event.Event](t, "request")(notifier.Request(ctx, key))
		must[broker.Rejection](t, "rejection")(notifier.Rejection(ctx, event.RejectedLogKey("bad", []byte("{}"))))
		for _, name := range []string{key, key + ".run"} {
			ledger := must[broker.LedgerEntry](t, "ledger")(notifier.Ledger(ctx, name))
			must[broker.LedgerEntry](t, "swap ledger")(notifier.SwapLedger(ctx, name, ledger, delivery.Ledger{Next: 1}))
		}
		mustDo(t, "letter", notifier.PutLetter(ctx, letter))
		must[delivery.Letter](t, "letter")(notifier.Letter(ctx, "s", key, 0))
		return broker.RetryAfter(0, broker.Wakeup{Purpose: broker.PurposeCallback, Token: key + ".0"}, errors.New("unwell"))
	})
	consume(t, notifier, broker.NotifierWakeups, func(context.Context, broker.Message) error { return nil })

	// operator: what the commands do.
	mustDo(t, "letters", operator.Letters(ctx, broker.LetterFilter{}, func(delivery.Letter) error { return nil }))
	must[delivery.Run](t, "replay")(operator.Replay(ctx, []delivery.Letter{letter}))
	must[[]broker.Rejected](t, "rejections")(operator.Rejections(ctx, broker.RejectionFilter{Limit: 10}))
	must[[]broker.Pause](t, "paused")(operator.Paused(ctx))
	must[[]timeline.Summary](t, "without an end")(operator.Jobs(ctx, broker.JobFilter{Service: "s", States: []timeline.State{timeline.Waiting, timeline.Started}, Limit: 10}))
	mustDo(t, "create a tap", operator.CreateTap(ctx, broker.Tap{Name: "one"}))
	must[[]broker.TapState](t, "taps")(operator.Taps(ctx))
	mustDo(t, "verify", broker.VerifyTopology(ctx, operator.JetStream()))

	mustDo(t, "delete a tap", operator.DeleteTap(ctx, "one"))

	// console: by places, one log, what is parked, letters, statuses; and never a request.
	for _, role := range []string{broker.RoleConsole, broker.RoleActions} {
		console := s.open(role)
		looks(t, console, key)
		refused := must[broker.Rejected](t, "rejected")(console.Rejected(ctx, event.RejectedLogKey("bad", []byte("{}"))))
		if refused.Code != "MESSAGE_INVALID" || string(refused.Body) != "{}" {
			t.Errorf("%+v", refused)
		}
		if role == broker.RoleActions {
			mustDo(t, "cancel", console.Cancel(ctx, broker.Cancel{ID: "id", At: time.Now(), By: "ada"}))
			must[delivery.Run](t, "replay")(console.ReplayBy(ctx, []delivery.Letter{letter}, "ada"))
		}
	}

	// Every service says how it is.
	for role, b := range map[string]*broker.Broker{broker.RoleIngest: ingest, broker.RoleLauncher: launcher, broker.RoleWatcher: watcher, broker.RoleNotifier: notifier} {
		mustDo(t, "status", b.Report(ctx, broker.Status{Role: role, Instance: "one"}))
	}
	if all := must[[]broker.Status](t, "statuses")(operator.Statuses(ctx)); len(all) != 4 {
		t.Errorf("%d statuses", len(all))
	}
}

// looks makes every call that a console makes to read.
func looks(t *testing.T, console *broker.Broker, key string) {
	t.Helper()
	ctx := t.Context()
	extent := must[broker.Extent](t, "extent")(console.Extent(ctx))
	seen := 0
	next := must[uint64](t, "scan")(console.Scan(ctx, extent.First, func(broker.Seen) { seen++ }))
	if seen == 0 || next != extent.Last+1 {
		t.Errorf("%d events until %d of %+v", seen, next, extent)
	}
	back := 0
	must[uint64](t, "scan back")(console.ScanBack(ctx, extent.Last+1, 100, func(broker.Stored) bool { back++; return true }))
	if back != seen {
		t.Errorf("%d events forwards, %d backwards", seen, back)
	}
	logs := must[[]timeline.Records](t, "log")(console.Log(ctx, key))
	if len(logs) != 1 || logs[0].Request != nil || len(logs[0].Log) != 3 {
		t.Errorf("%+v", logs)
	}
	must[map[broker.LogName]broker.Tail](t, "tails")(console.Tails(ctx, []broker.LogName{{Service: "s", Key: key}}))
	must[uint64](t, "moves")(console.Moves(ctx, key))
	must[[]broker.Status](t, "statuses")(console.Statuses(ctx))
	_, last, err := console.LetterPlaces(ctx)
	mustDo(t, "places of letters", err)
	letters := 0
	must[uint64](t, "letters")(console.ScanLetters(ctx, 1, func(uint64, delivery.Letter) { letters++ }))
	if letters == 0 || last == 0 {
		t.Errorf("%d letters until %d", letters, last)
	}
	must[uint64](t, "parked callbacks")(console.ParkedCallbacks(ctx, 0, 100, func(timeline.Parked) {}))
	must[uint64](t, "parked launches")(console.ParkedLaunches(ctx, 0, 100, func(string, timeline.Launch) {}))
}

// nobodysBusiness are subjects that no service has, and most of which nobody has.
var nobodysBusiness = []string{
	"$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.MSG.DELETE.EVENTS", "$JS.API.STREAM.MSG.GET.REQUESTS",
	"$JS.API.STREAM.SNAPSHOT.REQUESTS", "$JS.API.STREAM.RESTORE.REQUESTS", "$JS.API.CONSUMER.DELETE.EVENTS.notifier",
	"$JS.API.CONSUMER.CREATE.EVENTS", "$JS.API.CONSUMER.CREATE.EVENTS.notifier", "$JS.API.CONSUMER.CREATE.EVENTS.notifier.events.x.>",
	"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.notifier", "$JS.API.CONSUMER.PAUSE.EVENTS.notifier", "$JS.API.CONSUMER.RESET.EVENTS.notifier", "$JS.API.CONSUMER.UNPIN.EVENTS.notifier",
	"$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.notifier", "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE",
	"$SYS.REQ.SERVER.PING", "$JS.FC.EVENTS.notifier.x", "anything",
	"events.x.x.unknown", "wakeups.launch.x", "wakeups.callback.x", "schedules.other.x", "commands.cancel.x", "controls.pause.x", "deadletters.callback.x.x.0", "ledger.other.x",
}

// TestEachRoleIsRefusedEverythingElse tries every role's key on every subject that
// another role or the topology has, and on what nobody has.
func TestEachRoleIsRefusedEverythingElse(t *testing.T) {
	t.Run("in one account", func(t *testing.T) { refusals(t, start(t)) })
	t.Run("apart", func(t *testing.T) { refusals(t, startApart(t)) })
}

func refusals(t *testing.T, s *secured) {
	every := slices.Clone(nobodysBusiness)
	for _, r := range broker.Roles() {
		for _, pattern := range r.Publish() {
			every = append(every, concrete(pattern))
		}
	}
	refused := 0
	for _, r := range broker.Roles() {
		th := s.thief(r.Name, "_INBOX_"+r.Name)
		for _, subject := range every {
			if !covers(r.Publish(), subject) || s.api != "" && strings.HasPrefix(subject, "$JS.API.") {
				refused++
				if th.publishes(subject) {
					t.Errorf("%s may publish to %s", r.Name, subject)
				}
			}
		}
		for _, subject := range []string{">", "events.>", "requests.>", "_INBOX.>", "_INBOX_*.>", "$JS.>", "$SYS.>", "_R_.>", "_INBOX_operator2.>"} {
			refused++
			if th.subscribes(subject) {
				t.Errorf("%s may subscribe to %s", r.Name, subject)
			}
		}
		for _, other := range broker.Roles() {
			if other.Name != r.Name && th.subscribes("_INBOX_"+other.Name+".>") {
				t.Errorf("%s hears the answers to %s", r.Name, other.Name)
			}
		}
		if !th.publishes("status." + r.Name + ".one") {
			t.Errorf("%s may not say how it is: the test sees refusals where there are none", r.Name)
		}
	}
	t.Logf("%d attempts were refused", refused)
}
