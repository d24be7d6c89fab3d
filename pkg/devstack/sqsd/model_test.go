package sqsd_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// modelQueue is a queue as simple as it can be: a list that is searched.
type modelQueue struct {
	fifo        bool
	maxReceives int // 0: no dead letters
	messages    []*modelMessage
}

type modelMessage struct {
	body, group string
	visibleAt   time.Time
	inFlight    bool // until visibleAt
	receives    int
	handle      types.Message
}

func (q *modelQueue) receive(now time.Time, limit int, visibility time.Duration) (received, dead []*modelMessage) {
	for _, m := range q.messages {
		m.inFlight = m.inFlight && m.visibleAt.After(now)
	}
	// Groups, and so the messages of a standard queue, are taken in the order of their first message.
	for _, first := range slices.Clone(q.messages) {
		blocked := false
		for _, m := range q.messages {
			same := m == first || q.fifo && m.group == first.group
			if !same || len(received) == limit || blocked {
				continue
			}
			switch {
			case slices.Contains(received, m), slices.Contains(dead, m):
			case m.inFlight, m.visibleAt.After(now):
				blocked = true
			case q.maxReceives > 0 && m.receives >= q.maxReceives:
				dead = append(dead, m)
			default:
				m.inFlight, m.visibleAt = true, now.Add(visibility)
				m.receives++
				received = append(received, m)
			}
		}
	}
	for _, m := range dead {
		q.remove(m)
	}
	return received, dead
}

func (q *modelQueue) remove(m *modelMessage) {
	q.messages = slices.DeleteFunc(q.messages, func(o *modelMessage) bool { return o == m })
}

func (q *modelQueue) counts(now time.Time) string {
	visible, inFlight, delayed := 0, 0, 0
	for _, m := range q.messages {
		switch {
		case !m.visibleAt.After(now):
			visible++
		case m.inFlight:
			inFlight++
		default:
			delayed++
		}
	}
	return fmt.Sprint(visible, inFlight, delayed)
}

// TestAQueueBehavesAsItsModel does the same random things to a queue and to
// its model, restarts included.
func TestAQueueBehavesAsItsModel(t *testing.T) {
	for _, kind := range []string{"standard", "fifo"} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", kind, seed), func(t *testing.T) {
				compareWithModel(t, kind == "fifo", rand.New(rand.NewPCG(seed, 1)))
			})
		}
	}
}

func compareWithModel(t *testing.T, fifo bool, random *rand.Rand) {
	model := &modelQueue{fifo: fifo, maxReceives: 3}
	suffix, deadLetters := "", 0
	attributes := map[string]string{"VisibilityTimeout": "10"}
	if fifo {
		suffix = ".fifo"
		attributes["FifoQueue"] = "true"
	}
	dir, clock := t.TempDir(), newClock()
	e := startIn(t, dir, clock)
	if fifo {
		e.fifo("dead.fifo", nil)
	} else {
		e.queue("dead", nil)
	}
	attributes["RedrivePolicy"] = `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead` + suffix + `","maxReceiveCount":3}`
	e.queue("q"+suffix, attributes)

	for step := range 300 {
		url := e.QueueURL("q" + suffix)
		now := clock.Now()
		var held []*modelMessage
		for _, m := range model.messages {
			if m.inFlight && m.visibleAt.After(now) {
				held = append(held, m)
			}
		}
		switch action := random.IntN(10); {
		case action < 4:
			m := &modelMessage{body: fmt.Sprint(step), group: fmt.Sprint("g", random.IntN(3)), visibleAt: now}
			e.send(url, m.body, func(in *sqs.SendMessageInput) {
				if fifo {
					inGroup(m.group, m.body)(in)
					return
				}
				in.DelaySeconds = int32(random.IntN(2) * 5)
				m.visibleAt = now.Add(time.Duration(in.DelaySeconds) * time.Second)
			})
			model.messages = append(model.messages, m)
		case action < 7:
			limit := 1 + random.IntN(5)
			want, dead := model.receive(now, limit, 10*time.Second)
			deadLetters += len(dead)
			var bodies, wanted []string
			got := e.receive(url, atMost(int32(limit)))
			for _, m := range got {
				bodies = append(bodies, *m.Body)
			}
			for _, m := range want {
				wanted = append(wanted, m.body)
			}
			if strings.Join(bodies, " ") != strings.Join(wanted, " ") {
				t.Fatalf("step %d: received %v, the model %v", step, bodies, wanted)
			}
			for i, m := range want {
				m.handle = got[i]
			}
		case action < 8 && len(held) > 0:
			m := held[random.IntN(len(held))]
			check(t, e.delete(url, m.handle))
			model.remove(m)
		case action < 9 && len(held) > 0:
			m := held[random.IntN(len(held))]
			seconds := int32(random.IntN(3) * 4)
			check(t, e.changeVisibility(url, m.handle, seconds))
			m.visibleAt = now.Add(time.Duration(seconds) * time.Second)
		default:
			clock.Advance(time.Duration(random.IntN(6)) * time.Second)
			if random.IntN(5) == 0 {
				e.stop()
				e = startIn(t, dir, clock)
			}
		}
		wantEqual(t, fmt.Sprintf("step %d: counts", step), e.counts(e.QueueURL("q"+suffix)), model.counts(clock.Now()))
		if t.Failed() {
			return
		}
	}
	wantEqual(t, "dead letters", e.counts(e.QueueURL("dead"+suffix)), fmt.Sprint(deadLetters, 0, 0))
	t.Logf("%d messages left, %d dead letters", len(model.messages), deadLetters)
}
