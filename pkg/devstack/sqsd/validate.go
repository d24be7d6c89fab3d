package sqsd

import (
	"regexp"
	"strings"
	"time"
)

const (
	maxMessageSize = 1 << 20 // of a body with its attributes, and of all in a batch
	maxBatch       = 10      // entries of a batch, and messages of a receive
	maxAttributes  = 10      // of a message
	maxWait        = 20      // seconds of a long poll
	maxDelay       = 900     // seconds before a message is visible
)

var (
	batchIDPattern       = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	fifoIDPattern        = regexp.MustCompile("^[A-Za-z0-9!\"#$%&'()*+,./:;<=>?@\\[\\\\\\]^_`{|}~-]{1,128}$")
	attributeNamePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,256}$`)
	numberPattern        = regexp.MustCompile(`^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$`)
)

// checkBatch holds the ids of a batch against the rules for all batches.
// entry is the name of the entries, for the message of an empty batch.
func checkBatch(entry string, ids []string) error {
	if len(ids) == 0 {
		return errEmptyBatchRequest(entry)
	}
	if len(ids) > maxBatch {
		return errTooManyEntries(len(ids))
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if !batchIDPattern.MatchString(id) {
			return errInvalidBatchEntryID()
		}
		if seen[id] {
			return errBatchEntryIDsNotDistinct(id)
		}
		seen[id] = true
	}
	return nil
}

// messageInput is what SendMessage and an entry of its batch have in common.
type messageInput struct {
	MessageBody             *string
	DelaySeconds            *int
	MessageAttributes       map[string]messageAttribute
	MessageSystemAttributes map[string]messageAttribute
	MessageDeduplicationID  *string `json:"MessageDeduplicationId"`
	MessageGroupID          *string `json:"MessageGroupId"`
}

// size counts what SQS counts: the body and of each attribute the name, the
// type and the value. System attributes are free.
func (in messageInput) size() int {
	n := 0
	if in.MessageBody != nil {
		n = len(*in.MessageBody)
	}
	for name, a := range in.MessageAttributes {
		n += len(name) + len(a.DataType) + len(a.BinaryValue)
		if a.StringValue != nil {
			n += len(*a.StringValue)
		}
	}
	return n
}

// check turns the input into a sending for a queue with the attributes.
func (in messageInput) check(queue attributes) (sending, error) {
	if in.MessageBody == nil || *in.MessageBody == "" {
		return sending{}, errMissingParameter("MessageBody")
	}
	if r, found := foreign(*in.MessageBody); found {
		return sending{}, errInvalidMessageContents(invalidCharacter, r, "message body")
	}
	if err := checkMessageAttributes(in.MessageAttributes); err != nil {
		return sending{}, err
	}
	if size := in.size(); size > queue.maxSize {
		return sending{}, errInvalidParameter("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", queue.maxSize)
	}
	s := sending{Body: *in.MessageBody, Attributes: in.MessageAttributes}
	var err error
	if s.Group, err = checkFIFOID("MessageGroupId", in.MessageGroupID); err != nil {
		return sending{}, err
	}
	if s.DedupID, err = checkFIFOID("MessageDeduplicationId", in.MessageDeduplicationID); err != nil {
		return sending{}, err
	}
	for name, a := range in.MessageSystemAttributes {
		if name != "AWSTraceHeader" || a.DataType != "String" || a.StringValue == nil {
			return sending{}, errInvalidParameter("Message system attribute name '%s' is invalid. Only AWSTraceHeader, a String, can be sent.", name)
		}
		s.TraceHeader = &a
	}
	if in.DelaySeconds != nil {
		if *in.DelaySeconds < 0 || *in.DelaySeconds > maxDelay {
			return sending{}, errOutOfRange("DelaySeconds", *in.DelaySeconds, 0, maxDelay)
		}
		delay := time.Duration(*in.DelaySeconds) * time.Second
		s.Delay = &delay
	}
	return s, in.checkOrder(queue, s)
}

// checkFIFOID gives the id, or no text for none.
func checkFIFOID(name string, id *string) (string, error) {
	if id == nil {
		return "", nil
	}
	if !fifoIDPattern.MatchString(*id) {
		return "", errInvalidParameter("Value %s for parameter %s is invalid. Reason: %s can only include alphanumeric and punctuation characters. 1 to 128 in length.", *id, name, name)
	}
	return *id, nil
}

// checkOrder holds the group, the deduplication id and the delay against the
// kind of the queue. A group is allowed in a standard queue since fair queues,
// and means nothing here.
func (in messageInput) checkOrder(queue attributes, s sending) error {
	const wrongType = "Value %v for parameter %s is invalid. Reason: The request include parameter that is not valid for this queue type."
	switch {
	case !queue.fifo && s.DedupID != "":
		return errInvalidParameter(wrongType, s.DedupID, "MessageDeduplicationId")
	case !queue.fifo:
		return nil
	case s.Delay != nil && *s.Delay != 0:
		return errInvalidParameter(wrongType, *in.DelaySeconds, "DelaySeconds")
	}
	if lack := in.lack(queue); lack != nil {
		return lack
	}
	return nil
}

// lack is what a message needs in a FIFO queue and does not have.
func (in messageInput) lack(queue attributes) *Error {
	switch {
	case !queue.fifo:
		return nil
	case in.MessageGroupID == nil:
		return errMissingParameter("MessageGroupId")
	case in.MessageDeduplicationID == nil && !queue.contentDedup:
		return errInvalidParameter("The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly")
	}
	return nil
}

// foreign finds a character that SQS does not take; it takes those of XML 1.0.
func foreign(text string) (r rune, found bool) {
	for _, r := range text {
		if r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 {
			continue
		}
		return r, true
	}
	return 0, false
}

const invalidCharacter = "Invalid binary character '#x%X' was found in the %s, the set of allowed characters is #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF"

func checkMessageAttributes(all map[string]messageAttribute) error {
	if len(all) > maxAttributes {
		return errInvalidParameter("Number of message attributes [%d] exceeds the allowed maximum [%d].", len(all), maxAttributes)
	}
	for name, a := range all {
		lower := strings.ToLower(name)
		kind, _, _ := strings.Cut(a.DataType, ".")
		switch {
		case !attributeNamePattern.MatchString(name), strings.HasPrefix(name, "."), strings.HasSuffix(name, "."), strings.Contains(name, ".."),
			strings.HasPrefix(lower, "aws."), strings.HasPrefix(lower, "amazon."):
			return errInvalidParameter("The message attribute name '%s' is invalid. It can have alphanumeric characters, hyphens, underscores and single inner periods, at most 256 in all, and no AWS. or Amazon. prefix.", name)
		case kind != "String" && kind != "Number" && kind != "Binary" || len(a.DataType) > 256:
			return errInvalidParameter("The message attribute '%s' has an invalid message attribute type, the set of supported type prefixes is Binary, Number, and String.", name)
		case kind == "Binary" && len(a.BinaryValue) == 0, kind != "Binary" && (a.StringValue == nil || *a.StringValue == ""):
			return errInvalidParameter("The message attribute '%s' must contain a non-empty value of its type.", name)
		case kind == "Number" && !numberPattern.MatchString(*a.StringValue):
			return errInvalidParameter("Can't cast the value of message (user) attribute '%s' to a number.", name)
		}
		if a.StringValue == nil {
			continue
		}
		if r, found := foreign(*a.StringValue); found { // not InvalidMessageContents, which is about the body
			return errInvalidParameter(invalidCharacter, r, "message attribute "+name)
		}
	}
	return nil
}

// selectAttributes picks the message attributes that a receive asks for: a
// name, a prefix with ".*" (which need not end at a period), or all of them
// with All, "*" or ".*".
func selectAttributes(all map[string]messageAttribute, asked []string) map[string]messageAttribute {
	selected := map[string]messageAttribute{}
	for name, a := range all {
		for _, want := range asked {
			prefix, isPrefix := strings.CutSuffix(want, ".*")
			if want == "All" || want == "*" || want == name || isPrefix && strings.HasPrefix(name, prefix) {
				selected[name] = a
			}
		}
	}
	return selected
}
