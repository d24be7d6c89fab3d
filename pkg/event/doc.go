// Package event is the contract between jobrelay's processes and with its
// subscribers: the types of events, their subjects and keys, their data
// (package jobsv1, generated from proto/) and the CloudEvents codec.
//
// A job's log is the messages on events.<service>.<log key>.>, in order. The
// log key is the first 32 hex characters of sha256(id), followed for a
// rejected message by a dash and 16 hex characters of its body's hash.
package event
