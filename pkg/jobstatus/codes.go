package jobstatus

import "slices"

// Code is the cause of an end that is not success, as callbacks carry it.
// Codes are append-only: what a receiver once read keeps its meaning.
type Code string

// Before a Job exists.
const (
	MessageInvalid       Code = "MESSAGE_INVALID"
	PolicyDenied         Code = "POLICY_DENIED"
	IDReused             Code = "ID_REUSED"
	JobSpecInvalid       Code = "JOB_SPEC_INVALID"
	AdmissionDenied      Code = "ADMISSION_DENIED"
	LaunchForbidden      Code = "LAUNCH_FORBIDDEN"
	NamespaceNotFound    Code = "NAMESPACE_NOT_FOUND"
	NamespaceTerminating Code = "NAMESPACE_TERMINATING"
	QuotaExceeded        Code = "QUOTA_EXCEEDED"
	NameConflict         Code = "NAME_CONFLICT"
	LaunchExpired        Code = "LAUNCH_EXPIRED"
	LaunchUnavailable    Code = "LAUNCH_UNAVAILABLE"
)

// The Job exists and nothing runs.
const (
	PodQuotaExceeded       Code = "POD_QUOTA_EXCEEDED"
	PodForbidden           Code = "POD_FORBIDDEN"
	ServiceAccountNotFound Code = "SERVICE_ACCOUNT_NOT_FOUND"
	Unschedulable          Code = "UNSCHEDULABLE"
	SchedulingGated        Code = "SCHEDULING_GATED"
	VolumeNotFound         Code = "VOLUME_NOT_FOUND"
	ImageNameInvalid       Code = "IMAGE_NAME_INVALID"
	ImagePullFailed        Code = "IMAGE_PULL_FAILED"
	ImageNotPresent        Code = "IMAGE_NOT_PRESENT"
	ContainerConfigError   Code = "CONTAINER_CONFIG_ERROR"
	ContainerCreateFailed  Code = "CONTAINER_CREATE_FAILED"
	VolumeMountFailed      Code = "VOLUME_MOUNT_FAILED"
	SandboxFailed          Code = "SANDBOX_FAILED"
	StartTimeout           Code = "START_TIMEOUT"
)

// The Job ended Failed.
const (
	ContainerExitNonzero   Code = "CONTAINER_EXIT_NONZERO"
	OOMKilled              Code = "OOM_KILLED"
	ContainerStartFailed   Code = "CONTAINER_START_FAILED"
	ContainerKilled        Code = "CONTAINER_KILLED"
	DeadlineExceeded       Code = "DEADLINE_EXCEEDED"
	Evicted                Code = "EVICTED"
	Preempted              Code = "PREEMPTED"
	PodEvictedAPI          Code = "POD_EVICTED_API"
	NodeShutdown           Code = "NODE_SHUTDOWN"
	NodeLost               Code = "NODE_LOST"
	NodeAdmissionRejected  Code = "NODE_ADMISSION_REJECTED"
	PodDeleted             Code = "POD_DELETED"
	InitContainerFailed    Code = "INIT_CONTAINER_FAILED"
	ContainerStatusUnknown Code = "CONTAINER_STATUS_UNKNOWN"
	PodFailurePolicy       Code = "POD_FAILURE_POLICY"
	JobFailed              Code = "JOB_FAILED"
)

// The Job came to no verdict.
const (
	JobDeleted       Code = "JOB_DELETED"
	NamespaceDeleted Code = "NAMESPACE_DELETED"
	Cancelled        Code = "CANCELLED"
	OutcomeUnknown   Code = "OUTCOME_UNKNOWN"
	TerminationStuck Code = "TERMINATION_STUCK"
	InternalError    Code = "INTERNAL_ERROR"
)

// Definition is what is fixed about a code.
type Definition struct {
	Code    Code
	Phase   Phase
	Meaning string // one sentence
	Hint    string // what a person can do about it
	Seen    string // where Kubernetes, or the pipeline, shows it
}

// Phase is when a code ends a job; it settles the callback's status.
type Phase string

// The phases, in the order of a job's life.
const (
	PhaseLaunch    Phase = "Before a Job exists"
	PhaseStart     Phase = "The Job exists and nothing runs"
	PhaseFailed    Phase = "The Job ended Failed"
	PhaseNoVerdict Phase = "The Job came to no verdict"
)

// Status is the callback's status: 3 if and only if the Kubernetes Job itself
// ended Failed. NamespaceDeleted alone is also sent with 3, where the
// namespace's deletion made the Job Failed before it went.
func (p Phase) Status() int {
	if p == PhaseFailed {
		return 3
	}
	return 99
}

// Codes returns every code, in the order of a job's life.
func Codes() []Definition { return slices.Clone(definitions) }

// Known reports whether c is a code of ours.
func (c Code) Known() bool {
	return slices.ContainsFunc(definitions, func(d Definition) bool { return d.Code == c })
}
