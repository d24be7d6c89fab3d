package sqsd_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestMetrics: what a client did is counted, by action and queue, and looking
// at it is no request.
func TestMetrics(t *testing.T) {
	e := newEndpoint(t)
	url := e.queue("q", nil)
	for range 3 {
		_, err := e.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("x")})
		check(t, err)
	}
	_, err := e.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 2})
	check(t, err)
	got := map[string]float64{}
	for range 2 {
		res, err := http.Get(e.URL() + "/metrics")
		check(t, err)
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(res.Body)
		check(t, err)
		_ = res.Body.Close()
		for name, f := range families {
			for _, m := range f.GetMetric() {
				key := name
				for _, l := range m.GetLabel() {
					key += " " + l.GetValue()
				}
				got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	for key, want := range map[string]float64{
		"sqsd_requests_total SendMessage": 3, "sqsd_requests_total ReceiveMessage": 1, "sqsd_requests_total DeleteMessage": 0,
		"sqsd_requests_in_progress SendMessage": 0, "sqsd_messages q in_flight": 2, "sqsd_messages q visible": 1, "sqsd_messages q delayed": 0,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v", key, v, want)
		}
	}
	first, last := got["sqsd_first_request_timestamp_seconds SendMessage"], got["sqsd_last_answer_timestamp_seconds SendMessage"]
	if receive := got["sqsd_first_request_timestamp_seconds ReceiveMessage"]; first == 0 || last <= first || receive <= last {
		t.Error(fmt.Sprint(first, last, receive))
	}
}
