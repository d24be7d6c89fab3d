package callback_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

const id = "31a89a91-43d8-4786-a195-9b25cec28a44"

// original are the callbacks of the original specification as it prints them;
// ours are the same without the white space.
var original = []struct {
	data proto.Message
	body string
}{
	{&jobsv1.JobStarted{JobId: "08c87282-97e8-4993-9da4-359f3e84fdfd", JobName: "bb-fbe70e59"}, `{
"id": "31a89a91-43d8-4786-a195-9b25cec28a44",
"status": 0,
"detail": {
"jobId": "08c87282-97e8-4993-9da4-359f3e84fdfd",
"jobName": "bb-fbe70e59"
}
}`},
	{&jobsv1.PodStarted{PodId: "08c87282-97e8-4993-9da4-359f3e84fdfd", PodName: "bb-fbe70e59-ww7g2"}, `{
"id": "31a89a91-43d8-4786-a195-9b25cec28a44",
"status": 1,
"detail": {
"podId": "08c87282-97e8-4993-9da4-359f3e84fdfd",
"podName": "bb-fbe70e59-ww7g2"
}
}`},
	{&jobsv1.JobCompleted{}, `{
"id": "31a89a91-43d8-4786-a195-9b25cec28a44",
"status": 2,
"detail": {
"duration": 0
}
}`},
	{&jobsv1.JobFailed{Error: &jobsv1.Error{ErrorCode: "ERROR_CODE", Message: "error message"}}, `{
"id": "31a89a91-43d8-4786-a195-9b25cec28a44",
"status": 3,
"detail": {
"error": {
"errorCode": "ERROR_CODE",
"message": "error message"
}
}
}`},
}

func TestBodiesAreTheOriginals(t *testing.T) {
	for _, c := range original {
		var want bytes.Buffer
		if err := json.Compact(&want, []byte(c.body)); err != nil {
			t.Fatal(err)
		}
		if got := body(t, c.data); got != want.String() {
			t.Errorf("got  %s\nwant %s", got, want.String())
		}
	}
	cause := &jobsv1.Error{ErrorCode: "JOB_DELETED", Message: `<deleted> & "gone"`}
	want := `{"id":"` + id + `","status":99,"detail":{"error":{"errorCode":"JOB_DELETED","message":"<deleted> & \"gone\""}}}`
	for _, d := range []proto.Message{&jobsv1.JobException{Error: cause}, &jobsv1.RequestRejected{Error: cause}} {
		if got := body(t, d); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func body(t *testing.T, data proto.Message) string {
	t.Helper()
	e, err := event.New(event.Key(id), "s", id, 0, time.Now(), data)
	if err != nil {
		t.Fatal(err)
	}
	b, err := callback.Body(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRequestHasNoCallback(t *testing.T) {
	e, err := event.New(event.Key(id), "s", id, 0, time.Now(), &jobsv1.JobRequested{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := callback.Body(e); err == nil {
		t.Errorf("got %s", b)
	}
}

func TestID(t *testing.T) {
	key := event.Key(id)
	// Made once with: printf 'fbe70e599335ef43191d77f908d2e6ef\0000' | sha256sum | xxd -r -p | base32
	const golden = "msg_sneiwd5j2yaanixmolq3nziuv7mzwhagbuj55mdxxmgvjnby666q"
	if got := callback.ID(key, 0); got != golden {
		t.Errorf("got %s, want %s", got, golden)
	}
	seen := map[string]bool{}
	for _, log := range []string{key, event.RejectedLogKey(id, []byte("{}")), key + "1"} {
		for n := range 20 {
			seen[callback.ID(log, n)] = true
		}
	}
	if len(seen) != 60 {
		t.Errorf("%d different ids of 60", len(seen))
	}
}
