package jobstatus

import batchv1 "k8s.io/api/batch/v1"

// LastSeen says in a few words what the Job is doing, for people.
func (o Observation) LastSeen() string {
	if o.condition(batchv1.JobSuspended) != nil {
		return "Job " + o.job.Name + " suspended"
	}
	if pod := lastSeen(o); pod != "" {
		return pod
	}
	return "Job " + o.job.Name + " without a Pod"
}
