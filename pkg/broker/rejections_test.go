package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

func reader(t *testing.T, s *natsd.Server) *broker.Broker {
	t.Helper()
	b, err := broker.OpenReader(t.Context(), broker.Access{URL: s.URL()}, zerolog.Nop(), broker.StreamRejections, broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// reject records a rejection and, where code is set, its event.
func reject(t *testing.T, b *broker.Broker, id, service, code string) broker.Rejection {
	t.Helper()
	body := []byte("body of " + id)
	r := broker.Rejection{
		LogKey: event.RejectedLogKey(id, body), Body: body, ID: id, Service: service,
		Problems: []*jobsv1.Problem{{Path: "$.job", Code: "required", Message: "is required"}},
	}
	var err error
	if code == "" {
		err = b.Reject(t.Context(), r)
	} else {
		err = b.Refuse(t.Context(), broker.Refusal{
			Rejection: r, Code: code, Source: event.SourceOfQueue("default", "jobs"),
			Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", At: time.Now(),
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(t *testing.T, b *broker.Broker, f broker.RejectionFilter) []string {
	t.Helper()
	list, err := b.Rejections(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, r := range list {
		if r.Body != nil {
			t.Errorf("%s comes with its body", r.ID)
		}
		out = append(out, r.ID)
	}
	return out
}

func TestRejectionsAreListedAndShown(t *testing.T) {
	s := server(t)
	b := open(t, s)
	r := reader(t, s)
	if got := ids(t, r, broker.RejectionFilter{Limit: 9}); len(got) != 0 {
		t.Errorf("of none: %v", got)
	}
	reject(t, b, "a", "x", "MESSAGE_INVALID")
	reject(t, b, "b", "y.z", "ID_REUSED")
	want := reject(t, b, "c", "x", "ID_REUSED")
	reject(t, b, "", "", "MESSAGE_INVALID")
	reject(t, b, "a", "x", "") // again: it is the newest now
	for _, c := range []struct {
		filter broker.RejectionFilter
		want   []string
	}{
		{broker.RejectionFilter{Limit: 9}, []string{"a", "", "c", "b"}},
		{broker.RejectionFilter{Limit: 2}, []string{"a", ""}},
		{broker.RejectionFilter{Limit: 9, Service: "x"}, []string{"a", "c"}},
		{broker.RejectionFilter{Limit: 9, Code: "ID_REUSED"}, []string{"c", "b"}},
		{broker.RejectionFilter{Limit: 1, Code: "ID_REUSED", Service: "y.z"}, []string{"b"}},
		{broker.RejectionFilter{Limit: 9, Since: time.Now().Add(time.Hour)}, []string{}},
		{broker.RejectionFilter{Limit: 9, Since: time.Now().Add(-time.Hour)}, []string{"a", "", "c", "b"}},
	} {
		if got := ids(t, r, c.filter); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.filter, got)
		}
	}
	got, err := r.Rejected(t.Context(), want.LogKey)
	if err != nil || got.Code != "ID_REUSED" || got.Queue != "jobrelay://default/queues/jobs" || got.Trace == "" || time.Since(got.At) > time.Minute {
		t.Errorf("%+v %v", got, err)
	}
	if diff := cmp.Diff(want, got.Rejection, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if _, err := r.Rejected(t.Context(), event.RejectedLogKey("nobody", nil)); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// TestRejectionsPageFromTheEnd: over pages with holes and empty pages, each is
// listed once.
func TestRejectionsPageFromTheEnd(t *testing.T) {
	s := server(t)
	b := open(t, s)
	reject(t, b, "first", "x", "MESSAGE_INVALID")
	for range 2500 { // the same again and again: all but the last are holes
		reject(t, b, "same", "x", "")
	}
	for i := range 10 {
		reject(t, b, fmt.Sprint(i), "x", "")
	}
	r := reader(t, s)
	want := []string{"9", "8", "7", "6", "5", "4", "3", "2", "1", "0", "same", "first"}
	if got := ids(t, r, broker.RejectionFilter{Limit: 100}); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// The end of the stream is a hole.
	stream, err := b.JetStream().Stream(t.Context(), broker.StreamRejections)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), stream.CachedInfo().State.LastSeq); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, r, broker.RejectionFilter{Limit: 3}); !slices.Equal(got, want[1:4]) {
		t.Errorf("%q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Rejections(ctx, broker.RejectionFilter{Limit: 3}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestOpenReaderSaysWhatIsMissing(t *testing.T) {
	s := server(t)
	_, err := broker.OpenReader(t.Context(), broker.Access{URL: s.URL()}, zerolog.Nop(), broker.StreamRejections)
	var wrong *broker.TopologyError
	if !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
}
