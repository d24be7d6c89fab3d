package sqsd

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// attributes are a queue's settings, read from the names and texts of the API.
type attributes struct {
	delay         time.Duration
	maxSize       int
	retention     time.Duration
	wait          time.Duration
	visibility    time.Duration
	fifo          bool
	contentDedup  bool
	dedupPerGroup bool
	redrive       redrivePolicy
}

// redrivePolicy is the zero value in a queue without one.
type redrivePolicy struct {
	TargetARN   string
	MaxReceives int
}

// Names, ranges and defaults are those of SetQueueAttributes in the API reference.
var numericAttributes = map[string]struct{ low, high, def int }{
	"DelaySeconds":                  {0, 900, 0},
	"MaximumMessageSize":            {1024, maxMessageSize, maxMessageSize},
	"MessageRetentionPeriod":        {60, 1_209_600, 345_600},
	"ReceiveMessageWaitTimeSeconds": {0, 20, 0},
	"VisibilityTimeout":             {0, 43_200, 30},
}

// uninterpreted attributes are kept and given back; they have no effect here.
var uninterpreted = []string{"Policy", "RedriveAllowPolicy", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds", "SqsManagedSseEnabled"}

var fifoAttributes = map[string][]string{
	"FifoQueue":                 {"true"},
	"ContentBasedDeduplication": {"true", "false"},
	"DeduplicationScope":        {"queue", "messageGroup"},
	"FifoThroughputLimit":       {"perQueue", "perMessageGroupId"},
}

// computed attributes can be asked for and not set.
var computed = []string{
	"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed",
	"CreatedTimestamp", "LastModifiedTimestamp", "QueueArn",
}

var queueNamePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// checkQueueName holds a name against the kind of its queue.
func checkQueueName(name string, fifo bool) error {
	base, suffixed := strings.CutSuffix(name, ".fifo")
	switch {
	case fifo && (!suffixed || len(name) > 80 || !queueNamePattern.MatchString(base)):
		return errInvalidParameter("The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo suffix and be 1 to 80 in length.")
	case !fifo && !queueNamePattern.MatchString(name):
		return errInvalidParameter("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length.")
	}
	return nil
}

// readAttributes reads all attributes of a queue; what is not set has its default.
func readAttributes(set map[string]string) (attributes, error) {
	number := map[string]int{}
	for name, n := range numericAttributes {
		number[name] = n.def
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		value := set[name]
		if limits, ok := numericAttributes[name]; ok {
			n, err := strconv.Atoi(value)
			if err != nil || n < limits.low || n > limits.high {
				return attributes{}, errInvalidAttributeValue(name)
			}
			number[name] = n
			continue
		}
		if values, ok := fifoAttributes[name]; ok {
			switch {
			case name == "FifoQueue" && value == "false":
				return attributes{}, errInvalidAttributeName("Unknown Attribute FifoQueue.") // as AWS: leave it out
			case !slices.Contains(values, value):
				return attributes{}, errInvalidAttributeValue(name)
			case set["FifoQueue"] != "true":
				return attributes{}, errInvalidAttributeName("You can specify the %s only when FifoQueue is set to true.", name)
			}
			continue
		}
		if name != "RedrivePolicy" && !slices.Contains(uninterpreted, name) {
			return attributes{}, errInvalidAttributeName("Unknown Attribute %s.", name)
		}
	}
	redrive, err := readRedrivePolicy(set["RedrivePolicy"])
	if err != nil {
		return attributes{}, err
	}
	seconds := func(name string) time.Duration { return time.Duration(number[name]) * time.Second }
	return attributes{
		delay:         seconds("DelaySeconds"),
		maxSize:       number["MaximumMessageSize"],
		retention:     seconds("MessageRetentionPeriod"),
		wait:          seconds("ReceiveMessageWaitTimeSeconds"),
		visibility:    seconds("VisibilityTimeout"),
		fifo:          set["FifoQueue"] == "true",
		contentDedup:  set["ContentBasedDeduplication"] == "true",
		dedupPerGroup: set["DeduplicationScope"] == "messageGroup",
		redrive:       redrive,
	}, nil
}

// readRedrivePolicy reads the policy's JSON. maxReceiveCount is from 1 to
// 1,000 and may be a number or a text, as on AWS. Empty is no policy.
func readRedrivePolicy(text string) (redrivePolicy, error) {
	if text == "" {
		return redrivePolicy{}, nil
	}
	var policy struct {
		DeadLetterTargetARN string          `json:"deadLetterTargetArn"`
		MaxReceiveCount     json.RawMessage `json:"maxReceiveCount"`
	}
	invalid := func(reason string) error {
		return errInvalidParameter("Value %s for parameter RedrivePolicy is invalid. Reason: %s", text, reason)
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		return redrivePolicy{}, invalid("Redrive policy is not a valid JSON map.")
	}
	n, err := strconv.Atoi(strings.Trim(string(policy.MaxReceiveCount), `"`))
	switch {
	case policy.DeadLetterTargetARN == "":
		return redrivePolicy{}, invalid("Redrive policy does not contain mandatory attribute: deadLetterTargetArn.")
	case len(policy.MaxReceiveCount) == 0:
		return redrivePolicy{}, invalid("Redrive policy does not contain mandatory attribute: maxReceiveCount.")
	case err != nil || n < 1 || n > 1000:
		return redrivePolicy{}, invalid("Invalid value for maxReceiveCount; it must be from 1 to 1000.")
	}
	return redrivePolicy{TargetARN: policy.DeadLetterTargetARN, MaxReceives: n}, nil
}

// describe gives the attributes that were asked for; names may hold All.
func (q *queue) describe(now time.Time, arn string, names []string) (map[string]string, error) {
	visible, inFlight, delayed := q.counts(now)
	all := map[string]string{
		"ApproximateNumberOfMessages":           strconv.Itoa(visible),
		"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(inFlight),
		"ApproximateNumberOfMessagesDelayed":    strconv.Itoa(delayed),
		"CreatedTimestamp":                      strconv.FormatInt(q.CreatedAt.Unix(), 10),
		"LastModifiedTimestamp":                 strconv.FormatInt(q.ModifiedAt.Unix(), 10),
		"QueueArn":                              arn,
	}
	for name, n := range numericAttributes {
		all[name] = strconv.Itoa(n.def)
	}
	if q.attributes.fifo {
		all["ContentBasedDeduplication"] = "false"
		all["DeduplicationScope"] = "queue"
		all["FifoThroughputLimit"] = "perQueue"
	}
	all["SqsManagedSseEnabled"] = strconv.FormatBool(q.Set["KmsMasterKeyId"] == "")
	maps.Copy(all, q.Set)
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" }) // a policy or key that was taken away

	asked := map[string]string{}
	for _, name := range names {
		value, ok := all[name]
		switch {
		case name == "All":
			return all, nil
		case ok:
			asked[name] = value
		case !knownAttribute(name):
			return nil, errInvalidAttributeName("Unknown Attribute %s.", name)
		}
	}
	return asked, nil
}

func knownAttribute(name string) bool {
	_, numeric := numericAttributes[name]
	_, fifo := fifoAttributes[name]
	return numeric || fifo || name == "RedrivePolicy" || slices.Contains(uninterpreted, name) || slices.Contains(computed, name)
}
