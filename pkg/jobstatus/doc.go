// Package jobstatus decides what a job's log should say about its Job.
//
// Observe looks at a Job and its Pods; Decide compares what it sees with what
// the log holds and says which events to append and what to do with the Job.
// Both are pure. They are level-triggered: the same Job, Pods and log give the
// same decision, however often and from wherever they are looked at.
//
// Status 3 (JobFailed) means that the Kubernetes Job itself ended Failed, 99
// (JobException) is every other end that is not success. What a real node and
// control plane do, case by case, is in the recordings of testdata.
package jobstatus
