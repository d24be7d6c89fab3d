package nats_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/jobrelay/jobrelay/pkg/broker"
)

// TestARolesAnswersStayInItsAccount: apart, what one account allows (limits_test.go)
// comes to nothing. Each service's key names every subject as the reply of a pull, of a
// refused pull, of a direct get and of a publish.
func TestARolesAnswersStayInItsAccount(t *testing.T) {
	s := startApart(t)
	s.jobs("s", 3)
	operator := s.open(broker.RoleOperator)
	replies := append([]string{
		"ledger.callback.x", "requests.x", "events.s.x.started", "rejections.x", "wakeups.launch.x", "commands.cancel.x", "controls.pause.x", "deadletters.callback.s.x.0",
		"$JS.API.STREAM.PURGE.REQUESTS", "$JS.API.STREAM.DELETE.REQUESTS",
	}, nobodysBusiness...)
	before := s.state(operator)
	asked := 0
	for _, r := range broker.Roles() {
		th := s.thief(r.Name, "_INBOX_"+r.Name)
		var asks []string
		for _, c := range r.Consumes {
			asks = append(asks, broker.TapAPI+".CONSUMER.INFO."+c.Stream+"."+c.Name)
			if c.Stream != broker.StreamEvents { // what a pull takes from it would be seen in its state
				asks = append(asks, broker.TapAPI+".CONSUMER.MSG.NEXT."+c.Stream+"."+c.Name)
			}
		}
		for _, stream := range r.Reads {
			asks = append(asks, broker.TapAPI+".DIRECT.GET."+stream)
		}
		for _, ask := range asks {
			for _, reply := range replies {
				asked++
				mustDo(t, "ask", th.conn.PublishRequest(ask, reply, []byte("{")))
				mustDo(t, "ask", th.conn.PublishRequest(ask, reply, []byte(`{"batch":1,"no_wait":true,"last_by_subj":"events.>"}`)))
			}
		}
		must[*nats.Msg](t, "the last answer")(th.conn.Request(broker.TapAPI+".STREAM.INFO.STATUS", nil, 10*time.Second))
	}
	if diff := cmp.Diff(before, s.state(operator)); diff != "" {
		t.Errorf("answers went where they must not:\n%s", diff)
	}
	t.Logf("%d pairs of a request and a reply", asked)
}
