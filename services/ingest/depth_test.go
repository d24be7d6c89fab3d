package ingest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
	"github.com/jobrelay/jobrelay/pkg/telemetry"
)

// TestDepthIsAskedForByWhoScrapes: nobody asks before, and one scrape after another
// within the least time is one request.
func TestDepthIsAskedForByWhoScrapes(t *testing.T) {
	p := newPlant(t, nil, nil)
	p.send(3)
	d := newDepth(p.receiver)
	if n := testutil.CollectAndCount(d); n != 0 {
		t.Errorf("%d states of a queue that is not open", n)
	}
	reg := prometheus.NewRegistry()
	p.endpoint.Calls = telemetry.NewCalls(reg)
	var err error
	if p.Queue, err = sqsqueue.Open(t.Context(), p.endpoint); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the depth", func() bool {
		return testutil.CollectAndCompare(d, strings.NewReader(`
# HELP jobrelay_ingest_queue_messages Messages of the queue, as SQS counts them about: visible, in flight, delayed. The same from every replica; asked for at most every 30 s, and only while somebody scrapes.
# TYPE jobrelay_ingest_queue_messages gauge
jobrelay_ingest_queue_messages{queue="jobs",state="delayed"} 0
jobrelay_ingest_queue_messages{queue="jobs",state="in flight"} 0
jobrelay_ingest_queue_messages{queue="jobs",state="visible"} 3
`)) == nil
	})
	const opening, scraping = 1, 1
	if err := testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP jobrelay_calls_total Calls to SQS, NATS, Kubernetes and webhooks, by what became of them: ok, conflict, missing, limited, refused, failed. The last three are errors.
# TYPE jobrelay_calls_total counter
jobrelay_calls_total{edge="sqs",operation="attributes",result="ok",target="jobs"} %d
`, opening+scraping)), "jobrelay_calls_total"); err != nil {
		t.Error(err)
	}
}
