package sqsd

import (
	"fmt"
	"net/http"
)

// Error is an answer other than 200, in AWS's own names.
//
// The JSON protocol gives a shape name in __type. SDKs that knew the older
// query protocol read the code of that time from the x-amzn-query-error header
// and prefer it, so both are sent. The pairs are those of the awsQueryError
// traits in AWS's service model; common errors, which the model does not list,
// carry the names of AWS's web framework.
type Error struct {
	Code    string // of the query protocol, such as AWS.SimpleQueueService.NonExistentQueue
	Type    string // of the JSON protocol, such as com.amazonaws.sqs#QueueDoesNotExist
	Status  int    // of HTTP
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// senderFault tells a caller's mistake from the endpoint's own failure.
func (e *Error) senderFault() bool { return e.Status < http.StatusInternalServerError }

const (
	modelled  = "com.amazonaws.sqs#"
	framework = "com.amazon.coral.service#"
	legacy    = "AWS.SimpleQueueService."
)

func badRequest(code, typ, format string, args ...any) *Error {
	return &Error{Code: code, Type: typ, Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func errQueueDoesNotExist() *Error {
	return badRequest(legacy+"NonExistentQueue", modelled+"QueueDoesNotExist", "The specified queue does not exist.")
}

func errQueueNameExists(attribute string) *Error {
	return badRequest("QueueAlreadyExists", modelled+"QueueNameExists",
		"A queue already exists with the same name and a different value for attribute %s", attribute)
}

func errInvalidAttributeName(format string, args ...any) *Error {
	return badRequest("InvalidAttributeName", modelled+"InvalidAttributeName", format, args...)
}

func errInvalidAttributeValue(name string) *Error {
	return badRequest("InvalidAttributeValue", modelled+"InvalidAttributeValue", "Invalid value for the parameter %s.", name)
}

func errInvalidMessageContents(format string, args ...any) *Error {
	return badRequest("InvalidMessageContents", modelled+"InvalidMessageContents", format, args...)
}

func errInvalidAddress(address string) *Error {
	e := badRequest("InvalidAddress", modelled+"InvalidAddress", "The address %s is not valid for this endpoint.", address)
	e.Status = http.StatusNotFound
	return e
}

func errReceiptHandleIsInvalid(format string, args ...any) *Error {
	return badRequest("ReceiptHandleIsInvalid", modelled+"ReceiptHandleIsInvalid", format, args...)
}

func errMessageNotInflight() *Error {
	return badRequest(legacy+"MessageNotInflight", modelled+"MessageNotInflight",
		"The message referred to is not in flight: its visibility timeout has passed.")
}

func errOverLimit(format string, args ...any) *Error {
	e := badRequest("OverLimit", modelled+"OverLimit", format, args...)
	e.Status = http.StatusForbidden
	return e
}

func errPurgeQueueInProgress(name string) *Error {
	e := badRequest(legacy+"PurgeQueueInProgress", modelled+"PurgeQueueInProgress",
		"Only one PurgeQueue operation on %s is allowed every 60 seconds.", name)
	e.Status = http.StatusForbidden
	return e
}

func errEmptyBatchRequest(entry string) *Error {
	return badRequest(legacy+"EmptyBatchRequest", modelled+"EmptyBatchRequest",
		"There should be at least one %s in the request.", entry)
}

func errTooManyEntries(n int) *Error {
	return badRequest(legacy+"TooManyEntriesInBatchRequest", modelled+"TooManyEntriesInBatchRequest",
		"Maximum number of entries per request are %d. You have sent %d.", maxBatch, n)
}

func errBatchEntryIDsNotDistinct(id string) *Error {
	return badRequest(legacy+"BatchEntryIdsNotDistinct", modelled+"BatchEntryIdsNotDistinct", "Id %s repeated.", id)
}

func errInvalidBatchEntryID() *Error {
	return badRequest(legacy+"InvalidBatchEntryId", modelled+"InvalidBatchEntryId",
		"A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.")
}

func errBatchRequestTooLong(size int) *Error {
	return badRequest(legacy+"BatchRequestTooLong", modelled+"BatchRequestTooLong",
		"Batch requests cannot be longer than %d bytes. You have sent %d bytes.", maxMessageSize, size)
}

func errMissingParameter(name string) *Error {
	return badRequest("MissingParameter", framework+"MissingRequiredParameterException",
		"The request must contain the parameter %s.", name)
}

func errInvalidParameter(format string, args ...any) *Error {
	return badRequest("InvalidParameterValue", framework+"InvalidParameterValueException", format, args...)
}

func errOutOfRange(name string, value, low, high int) *Error {
	return errInvalidParameter("Value %d for parameter %s is invalid. Reason: Must be between %d and %d, if provided.", value, name, low, high)
}

func errReceiptHandleExpired(handle string) *Error {
	return errInvalidParameter("Value %s for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.", handle)
}

func errMalformedRequest(err error) *Error {
	return badRequest("MalformedInput", framework+"SerializationException", "The request is not the JSON that its action wants: %v", err)
}

func errInvalidAction(target string) *Error {
	return badRequest("InvalidAction", framework+"UnknownOperationException",
		"X-Amz-Target %q is not an action of this endpoint; it speaks AmazonSQS over the AWS JSON protocol 1.0.", target)
}

func errRequestTooLarge() *Error {
	return &Error{Code: "RequestEntityTooLarge", Type: framework + "RequestEntityTooLargeException",
		Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("A request may have %d bytes.", maxRequestBody)}
}

func errInternal(err error) *Error {
	return &Error{Code: "InternalFailure", Type: framework + "InternalFailure",
		Status: http.StatusInternalServerError, Message: err.Error()}
}

// errInjected is what Fault answers.
func errInjected(status int) *Error {
	e := &Error{Code: "InternalFailure", Type: framework + "InternalFailure", Status: status, Message: "An injected fault."}
	switch status {
	case http.StatusServiceUnavailable:
		e.Code, e.Type = "ServiceUnavailable", framework+"ServiceUnavailableException"
	case http.StatusTooManyRequests, http.StatusBadRequest, http.StatusForbidden:
		e.Code, e.Type = "RequestThrottled", modelled+"RequestThrottled"
	}
	return e
}
