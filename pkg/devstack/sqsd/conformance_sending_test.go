package sqsd_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var sending = []behaviour{
	{"a message is received with its id, its body and their MD5", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		sent := e.send(url, "msg")
		wantEqual(t, "MD5 that was sent", *sent.MD5OfMessageBody, "6e2baaf3b97dbeef01c0043275f9a0e7") // of AWS
		m := e.one(url)
		wantEqual(t, "id", *m.MessageId, *sent.MessageId)
		wantEqual(t, "body", *m.Body, "msg")
		wantEqual(t, "MD5 that was received", *m.MD5OfBody, *sent.MD5OfMessageBody)
	}},
	{"a body keeps every character that is allowed", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		body := "{\r\n\t\"<&>\": \"\u0020\u00e9\ud7ff\ue000\ufffd\U00010000\U0010ffff\"}"
		e.send(url, body)
		wantEqual(t, "body", *e.one(url).Body, body)
	}},
	{"a body with another character is InvalidMessageContents", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for _, body := range []string{"\x00", "a\x08", "\x1f", "\ufffe", "\uffff"} {
			_, err := e.trySend(url, body)
			wantCode(t, err, "InvalidMessageContents")
			wantType[*types.InvalidMessageContents](t, err)
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
	{"an empty body is a missing parameter", refuses("MissingParameter", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "")
		return err
	})},
	{"DelaySeconds hides a message until then", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m", delayed(900))
		e.clock.Advance(900*time.Second - time.Millisecond)
		wantEqual(t, "before", e.bodies(url), "")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "after", e.bodies(url), "m")
	}},
	{"the queue's delay is for messages without their own", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"DelaySeconds": "5"})
		e.send(url, "queue's")
		e.send(url, "own", delayed(20))
		wantEqual(t, "counts", e.counts(url), "0 0 2")
		e.clock.Advance(5 * time.Second)
		wantEqual(t, "after 5 s", e.bodies(url), "queue's")
		e.clock.Advance(15 * time.Second)
		wantEqual(t, "after 20 s", e.bodies(url), "own")
	}},
	{"a delay over 900 seconds is refused", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "m", delayed(901))
		return err
	})},
	{"a message is gone after the retention period, also from the delay or in flight", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"MessageRetentionPeriod": "60", "VisibilityTimeout": "120"})
		e.send(url, "in flight")
		m := e.one(url)
		e.send(url, "visible")
		e.send(url, "delayed", delayed(900))
		e.clock.Advance(60*time.Second - time.Millisecond)
		wantEqual(t, "counts before", e.counts(url), "1 1 1")
		e.clock.Advance(time.Millisecond)
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		check(t, e.delete(url, m))
	}},
	{"a standard queue takes a group and gives it back", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 2 {
			e.send(url, "m", inGroup("g", ""))
		}
		got := e.receive(url)
		wantEqual(t, "received at once", len(got), 2)
		wantEqual(t, "MessageGroupId", got[0].Attributes["MessageGroupId"], "g")
	}},
	{"a standard queue takes no deduplication id", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "m", inGroup("g", "d"))
		return err
	})},
	{"a group is of 1 to 128 letters, digits and punctuation", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m", inGroup(strings.Repeat("g", 126)+"!~", ""))
		for _, group := range []string{"", "a b", "é", strings.Repeat("g", 129)} {
			_, err := e.trySend(url, "m", inGroup(group, ""))
			wantCode(t, err, "InvalidParameterValue")
		}
	}},
}

var messageAttributes = []behaviour{
	{"text, number and binary attributes come back as they were sent, with their labels", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m", with("text", "String.label", "x"), with("number", "Number.int", "-4.2e1"), with("bytes", "Binary.gif", "\x00\x01\xff"))
		got := e.one(url).MessageAttributes
		wantEqual(t, "text", *got["text"].DataType+" "+*got["text"].StringValue, "String.label x")
		wantEqual(t, "number", *got["number"].DataType+" "+*got["number"].StringValue, "Number.int -4.2e1")
		wantEqual(t, "bytes", *got["bytes"].DataType+" "+string(got["bytes"].BinaryValue), "Binary.gif \x00\x01\xff")
	}},
	{"the MD5 of attributes is that of AWS", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for want, attributes := range map[string][]func(*sqs.SendMessageInput){
			"ae7155c6026991b6d54b11589678bf9c": {with("Foo", "String", "Bar")},                                                                           // of AWS
			"4c360f3fdafd970e05fae2f149d997f5": {with("Help.Me", "String", "Me"), with("Hello", "String", "There"), with("General", "String", "Kenobi")}, // of AWS
			// Reckoned apart with Python's hashlib, by the Developer Guide's algorithm.
			"1c5baba21183f1b365df7051c5b0c8ed": {with("text", "String.label", "x"), with("number", "Number", "42"), with("bytes", "Binary", "\x00\x01\xff")},
		} {
			sent := e.send(url, "m", attributes...)
			wantEqual(t, "MD5 that was sent", *sent.MD5OfMessageAttributes, want)
			wantEqual(t, "MD5 that was received", *e.one(url).MD5OfMessageAttributes, want)
		}
	}},
	{"a message without attributes has no MD5 of them", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		if sent := e.send(url, "m"); sent.MD5OfMessageAttributes != nil || sent.MD5OfMessageSystemAttributes != nil {
			t.Error("an MD5 of nothing was sent")
		}
		if m := e.one(url); m.MD5OfMessageAttributes != nil {
			t.Error("an MD5 of nothing was received")
		}
	}},
	{"attributes come only when asked for, by name, prefix or all, with the MD5 of the chosen", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"VisibilityTimeout": "0"})
		e.send(url, "msg", with("Help.Me", "String", "Me"), with("Hello", "String", "There"), with("General", "String", "Kenobi"))
		const all = "General Hello Help.Me 4c360f3fdafd970e05fae2f149d997f5"
		for _, c := range []struct{ asked, want string }{ // the answers are of AWS
			{"", ""},
			{"All", all}, {"*", all}, {".*", all},
			{"Foo Help", ""},
			{"Hello General", "General Hello fca026605781cb4126a1e9044df24232"},
			{"Foo Hello", "Hello a311262e065454b75da111d535b8dacd"},
			{"Hel.*", "Hello Help.Me 83fee93c1bcd8b9a5a923ffacdc636c7"},
			{"AWS.", ""}, {"..foo", ""},
		} {
			m := e.one(url, func(in *sqs.ReceiveMessageInput) { in.MessageAttributeNames = strings.Fields(c.asked) })
			var got []string
			for name := range m.MessageAttributes {
				got = append(got, name)
			}
			slices.Sort(got)
			if m.MD5OfMessageAttributes != nil {
				got = append(got, *m.MD5OfMessageAttributes)
			}
			wantEqual(t, "asked for "+c.asked, strings.Join(got, " "), c.want)
		}
	}},
	{"a trace header is a system attribute, apart from the others", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		sent := e.send(url, "m", with("Foo", "String", "Bar"), func(in *sqs.SendMessageInput) {
			in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{
				"AWSTraceHeader": {DataType: aws.String("String"), StringValue: aws.String("Root=1-5759e988-bd862e3fe1be46a994272793")},
			}
		})
		wantEqual(t, "MD5 of the attributes", *sent.MD5OfMessageAttributes, "ae7155c6026991b6d54b11589678bf9c")
		wantEqual(t, "MD5 of the system attributes", len(*sent.MD5OfMessageSystemAttributes), 32)
		wantEqual(t, "AWSTraceHeader", e.one(url).Attributes["AWSTraceHeader"], "Root=1-5759e988-bd862e3fe1be46a994272793")
	}},
	{"another system attribute cannot be sent", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), "m", func(in *sqs.SendMessageInput) {
			in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{"SenderId": {DataType: aws.String("String"), StringValue: aws.String("x")}}
		})
		return err
	})},
	{"a message has ten attributes at most", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		var attributes []func(*sqs.SendMessageInput)
		for i := range 11 {
			attributes = append(attributes, with(fmt.Sprint("a", i), "String", "v"))
		}
		e.send(url, "m", attributes[:10]...)
		_, err := e.trySend(url, "m", attributes...)
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"an attribute's name, type and value are checked", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for _, a := range [][3]string{
			{"AWS.x", "String", "v"}, {"amazon.x", "String", "v"}, {".x", "String", "v"}, {"x.", "String", "v"}, {"x..y", "String", "v"},
			{"a b", "String", "v"}, {"x?", "String", "v"}, {strings.Repeat("x", 257), "String", "v"},
			{"x", "Text", "v"}, {"x", "string", "v"}, {"x", "Number." + strings.Repeat("x", 256), "1"},
			{"x", "String", ""}, {"x", "Binary", ""}, {"x", "String", "\x08"}, {"x", "Number", "Hello"}, {"x", "Number", "0x1F"},
		} {
			_, err := e.trySend(url, "m", with(a[0], a[1], a[2]))
			wantCode(t, err, "InvalidParameterValue")
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
	}},
}

var sizes = []behaviour{
	{"a body has 1 MiB at most", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, strings.Repeat("<", mebibyte)) // which is six times as long in JSON
		_, err := e.trySend(url, strings.Repeat("x", mebibyte+1))
		wantCode(t, err, "InvalidParameterValue")
		wantEqual(t, "size of what is received", len(*e.one(url).Body), mebibyte)
	}},
	{"1 MiB is for the body and the attributes' names, types and values together", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		attributes := []func(*sqs.SendMessageInput){with("name", "String", "0123456789"), with("b", "Binary", "\x00\x01\x02")} // 4+6+10 + 1+6+3 bytes
		e.send(url, strings.Repeat("x", mebibyte-30), attributes...)
		_, err := e.trySend(url, strings.Repeat("x", mebibyte-29), attributes...)
		wantCode(t, err, "InvalidParameterValue")
	}},
	{"a size is counted in bytes of UTF-8", refuses("InvalidParameterValue", func(e endpoint) error {
		_, err := e.trySend(e.queue("q", nil), strings.Repeat("é", mebibyte/2)+"x")
		return err
	})},
	{"a queue has its own MaximumMessageSize", func(t *testing.T, e endpoint) {
		url := e.queue("q", map[string]string{"MaximumMessageSize": "1024"})
		e.send(url, strings.Repeat("x", 1024))
		_, err := e.trySend(url, strings.Repeat("x", 1025))
		wantCode(t, err, "InvalidParameterValue")
		out, err := e.sendBatch(url, entry("a", strings.Repeat("x", 1025)), entry("b", "x"))
		check(t, err)
		wantEqual(t, "in a batch", sentIDs(out), "sent b, failed a InvalidParameterValue true")
	}},
	{"a batch has 1 MiB in all, attributes included", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		half := strings.Repeat("x", mebibyte/2)
		out, err := e.sendBatch(url, entry("a", half), entry("b", half))
		check(t, err)
		wantEqual(t, "just 1 MiB", sentIDs(out), "sent a b, failed")
		long := entry("b", half)
		long.MessageAttributes = map[string]types.MessageAttributeValue{"n": {DataType: aws.String("String"), StringValue: aws.String("v")}}
		_, err = e.sendBatch(url, entry("a", half), long)
		wantCode(t, err, legacy+"BatchRequestTooLong")
		wantType[*types.BatchRequestTooLong](t, err)
		wantEqual(t, "counts", e.counts(url), "2 0 0")
	}},
}

var batches = []behaviour{
	{"SendMessageBatch sends each entry, and says by id which failed and why", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		late := entry("d", "m")
		late.DelaySeconds = 901
		out, err := e.sendBatch(url, entry("a", "one"), entry("b", "\x01"), entry("c", "two"), late, entry("e", ""))
		check(t, err)
		wantEqual(t, "answer", sentIDs(out), "sent a c, failed b InvalidMessageContents true d InvalidParameterValue true e MissingParameter true")
		wantEqual(t, "MD5", *out.Successful[0].MD5OfMessageBody, "f97c5d29941bfb1b2fdab0874906ab82")
		got := e.receive(url)
		wantEqual(t, "received", *got[0].Body+" "+*got[1].Body, "one two")
		wantEqual(t, "id", *got[0].MessageId, *out.Successful[0].MessageId)
	}},
	{"SendMessageBatch has each entry's delay and attributes", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		late, labelled := entry("a", "late"), entry("b", "labelled")
		late.DelaySeconds = 5
		labelled.MessageAttributes = map[string]types.MessageAttributeValue{"Foo": {DataType: aws.String("String"), StringValue: aws.String("Bar")}}
		out, err := e.sendBatch(url, late, labelled)
		check(t, err)
		wantEqual(t, "MD5 of the attributes", *out.Successful[1].MD5OfMessageAttributes, "ae7155c6026991b6d54b11589678bf9c")
		wantEqual(t, "at once", e.bodies(url), "labelled")
		e.clock.Advance(5 * time.Second)
		wantEqual(t, "after the delay", e.bodies(url), "late")
	}},
	{"SendMessageBatch to a FIFO queue fails as a whole without a group or a deduplication id", func(t *testing.T, e endpoint) {
		url := e.fifo("q.fifo", nil)
		good, noGroup, noID := entry("a", "m"), entry("b", "m"), entry("c", "m")
		good.MessageGroupId, good.MessageDeduplicationId = aws.String("g"), aws.String("d")
		noGroup.MessageDeduplicationId, noID.MessageGroupId = aws.String("e"), aws.String("g")
		for _, bad := range []types.SendMessageBatchRequestEntry{noGroup, noID} {
			_, err := e.sendBatch(url, good, bad)
			wantCode(t, err, "InvalidParameterValue")
		}
		wantEqual(t, "counts", e.counts(url), "0 0 0")
		out, err := e.sendBatch(url, good)
		check(t, err)
		wantEqual(t, "SequenceNumber", len(*out.Successful[0].SequenceNumber), 20)
	}},
	{"DeleteMessageBatch deletes each entry, and says by id which failed and why", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		e.send(url, "m")
		e.send(url, "n")
		out, err := e.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{
			{Id: aws.String("a"), ReceiptHandle: e.one(url).ReceiptHandle},
			{Id: aws.String("b"), ReceiptHandle: aws.String("nonsense")},
		}})
		check(t, err)
		wantEqual(t, "deleted", *out.Successful[0].Id, "a")
		wantEqual(t, "failed", failures(out.Failed), " b ReceiptHandleIsInvalid true")
		wantEqual(t, "counts", e.counts(url), "1 0 0")
	}},
	{"ChangeMessageVisibilityBatch changes each entry, and says by id which failed and why", func(t *testing.T, e endpoint) {
		url := e.queue("q", nil)
		for range 3 {
			e.send(url, "m")
		}
		got := e.receive(url)
		check(t, e.changeVisibility(url, got[2], 0))
		change := func(id string, handle *string, seconds int32) types.ChangeMessageVisibilityBatchRequestEntry {
			return types.ChangeMessageVisibilityBatchRequestEntry{Id: &id, ReceiptHandle: handle, VisibilityTimeout: seconds}
		}
		out, err := e.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{
			change("keep", got[0].ReceiptHandle, 100), change("back", got[1].ReceiptHandle, 0),
			change("bad", aws.String("nonsense"), 1), change("long", got[0].ReceiptHandle, 43201), change("late", got[2].ReceiptHandle, 1),
		}})
		check(t, err)
		wantEqual(t, "changed", *out.Successful[0].Id+" "+*out.Successful[1].Id, "keep back")
		wantEqual(t, "failed", failures(out.Failed), " bad ReceiptHandleIsInvalid true long InvalidParameterValue true late "+legacy+"MessageNotInflight true")
		wantEqual(t, "counts", e.counts(url), "2 1 0")
	}},
	{"an empty batch is EmptyBatchRequest", func(t *testing.T, e endpoint) {
		for _, err := range e.batchesOf() {
			wantCode(t, err, legacy+"EmptyBatchRequest")
			wantType[*types.EmptyBatchRequest](t, err)
		}
	}},
	{"a batch of eleven is TooManyEntriesInBatchRequest", func(t *testing.T, e endpoint) {
		for _, err := range e.batchesOf(strings.Split("abcdefghijk", "")...) {
			wantCode(t, err, legacy+"TooManyEntriesInBatchRequest")
			wantType[*types.TooManyEntriesInBatchRequest](t, err)
		}
	}},
	{"a batch with an id twice is BatchEntryIdsNotDistinct", func(t *testing.T, e endpoint) {
		for _, err := range e.batchesOf("a", "b", "a") {
			wantCode(t, err, legacy+"BatchEntryIdsNotDistinct")
			wantType[*types.BatchEntryIdsNotDistinct](t, err)
		}
	}},
	{"a batch with a wrong id is InvalidBatchEntryId", func(t *testing.T, e endpoint) {
		for _, id := range []string{"", "a b", "a:b", strings.Repeat("a", 81)} {
			for _, err := range e.batchesOf(id) {
				wantCode(t, err, legacy+"InvalidBatchEntryId")
				wantType[*types.InvalidBatchEntryId](t, err)
			}
		}
	}},
}
