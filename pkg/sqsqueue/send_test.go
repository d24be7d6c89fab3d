package sqsqueue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// numbered are n messages 0, 1, 2….
func numbered(n int) iter.Seq[sqsqueue.Outgoing] {
	return func(yield func(sqsqueue.Outgoing) bool) {
		for i := range n {
			if !yield(sqsqueue.Outgoing{Name: fmt.Sprint(i), Body: fmt.Append(nil, i)}) {
				return
			}
		}
	}
}

// outcomes collects what is reported: message ids and errors by name.
type outcomes struct {
	ids  map[string]string
	errs map[string]error
}

func (o *outcomes) report(s sqsqueue.Sent) {
	if o.ids == nil {
		o.ids, o.errs = map[string]string{}, map[string]error{}
	}
	if s.Err != nil {
		o.errs[s.Name] = s.Err
	} else {
		o.ids[s.Name] = s.MessageID
	}
}

func waiting(t *testing.T, q *sqsqueue.Queue) int {
	t.Helper()
	w, err := q.Waiting(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w.Visible
}

func TestSendAll(t *testing.T) {
	_, q := open(t)
	var o outcomes
	if err := q.SendAll(t.Context(), numbered(23), o.report); err != nil {
		t.Fatal(err)
	}
	if len(o.ids) != 23 || len(o.errs) != 0 || waiting(t, q) != 23 {
		t.Errorf("%d sent, %v, %d wait", len(o.ids), o.errs, waiting(t, q))
	}
}

// TestSendAllKeepsTheBoundsOfSQS: what SQS does not take is told, and all else
// is sent in calls of at most 1 MiB.
func TestSendAllKeepsTheBoundsOfSQS(t *testing.T) {
	_, q := open(t)
	const mib = 1 << 20
	var o outcomes
	err := q.SendAll(t.Context(), slices.Values([]sqsqueue.Outgoing{
		{Name: "largest", Body: bytes.Repeat([]byte("x"), mib)},
		{Name: "too large", Body: bytes.Repeat([]byte("x"), mib+1)},
		{Name: "too large with its trace", Body: bytes.Repeat([]byte("x"), mib), Trace: "00-1-1-01"},
		{Name: "empty"},
		{Name: "half", Body: bytes.Repeat([]byte("x"), mib/2)},
		{Name: "other half", Body: bytes.Repeat([]byte("x"), mib/2)},
		{Name: "no text", Body: []byte("\x01")},
		{Name: "small", Body: []byte("x"), Trace: "00-1-1-01"},
	}), o.report)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"too large", "too large with its trace", "empty", "no text"} {
		if !errors.Is(o.errs[name], sqsqueue.ErrUnsendable) {
			t.Errorf("%s: %v", name, o.errs[name])
		}
	}
	for _, name := range []string{"largest", "half", "other half", "small"} {
		if o.ids[name] == "" {
			t.Errorf("%s: %v", name, o.errs[name])
		}
	}
}

// TestSendAllTriesFailedEntriesAgain: entries that the queue did not take for
// reasons of its own are sent again, those alone.
func TestSendAllTriesFailedEntriesAgain(t *testing.T) {
	s, _ := open(t)
	partial := &partly{next: s.URL(), refuse: 3}
	q := openThrough(t, s, partial)
	var o outcomes
	if err := q.SendAll(t.Context(), numbered(10), o.report); err != nil {
		t.Fatal(err)
	}
	if len(o.ids) != 10 || partial.calls != 2 || waiting(t, q) != 10 {
		t.Errorf("%d sent in %d calls, %d wait", len(o.ids), partial.calls, waiting(t, q))
	}
	partial.refuse, partial.always = 1, true
	o = outcomes{}
	if err := q.SendAll(t.Context(), numbered(12), o.report); err != nil {
		t.Fatal(err)
	}
	if len(o.ids) != 10 || len(o.errs) != 2 || !strings.Contains(fmt.Sprint(o.errs["0"]), "InternalError") {
		t.Errorf("%d sent, %v", len(o.ids), o.errs)
	}
}

func TestSendAllEndsWhereTheQueueDoesNotAnswer(t *testing.T) {
	s, q := open(t)
	s.Faults().Set("SendMessageBatch", sqsd.Fault{FailRate: 1, Status: http.StatusForbidden})
	asked := 0
	var o outcomes
	err := q.SendAll(t.Context(), func(yield func(sqsqueue.Outgoing) bool) {
		for m := range numbered(100) {
			asked++
			if !yield(m) {
				return
			}
		}
	}, o.report)
	if err == nil || len(o.errs) != 10 || asked != 11 {
		t.Errorf("%v: %d reported, %d asked for", err, len(o.errs), asked)
	}
}

func TestSendAllToFIFO(t *testing.T) {
	s, _ := open(t)
	address, err := s.CreateQueue("jobs.fifo", map[string]string{"FifoQueue": "true"})
	if err != nil {
		t.Fatal(err)
	}
	q, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: address, Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	var o outcomes
	m := sqsqueue.Outgoing{Body: []byte("x"), Group: "g", DedupID: "d"}
	if err := q.SendAll(t.Context(), slices.Values([]sqsqueue.Outgoing{m, m}), o.report); err != nil || !q.FIFO() || len(o.errs) != 0 || waiting(t, q) != 1 {
		t.Errorf("%v, %v, %d wait", err, o.errs, waiting(t, q))
	}
}

// openThrough opens the queue by way of a handler.
func openThrough(t *testing.T, s *sqsd.Server, h http.Handler) *sqsqueue.Queue {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	q, err := sqsqueue.Open(t.Context(), sqsqueue.Config{QueueURL: s.QueueURL("jobs"), Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// partly passes calls on, and says of the first entries of a SendMessageBatch
// that they failed: of the first call, or of each.
type partly struct {
	next   string
	refuse int
	always bool
	calls  int
}

func (p *partly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var refused []map[string]any
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SendMessageBatch") {
		p.calls++
		var in map[string]any
		_ = json.Unmarshal(body, &in)
		entries := in["Entries"].([]any)
		if p.always || p.calls == 1 {
			for _, e := range entries[:p.refuse] {
				refused = append(refused, map[string]any{"Id": e.(map[string]any)["Id"], "Code": "InternalError", "Message": "try again", "SenderFault": false})
			}
			in["Entries"] = entries[p.refuse:]
		}
		body, _ = json.Marshal(in)
		if len(in["Entries"].([]any)) == 0 {
			_ = json.NewEncoder(w).Encode(map[string]any{"Successful": []any{}, "Failed": refused})
			return
		}
	}
	req, _ := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, p.next, bytes.NewReader(body))
	req.Header = r.Header.Clone()
	req.Header.Del("X-Amz-Content-Sha256")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	var out map[string]any
	_ = json.NewDecoder(res.Body).Decode(&out)
	if refused != nil {
		out["Failed"] = refused
	}
	w.WriteHeader(res.StatusCode)
	_ = json.NewEncoder(w).Encode(out)
}
