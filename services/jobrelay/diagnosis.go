package jobrelay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/cluster"
	"github.com/jobrelay/jobrelay/pkg/sqsqueue"
)

// finding is one thing that the doctor looked at.
type finding struct {
	State  string `json:"state"` // wrong, hint, skipped, ok
	Check  string `json:"check"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// The states of a finding. What is wrong keeps jobs or callbacks from their way, now
// or on a bad day; a hint may be meant so.
const (
	stateWrong   = "wrong"
	stateHint    = "hint"
	stateSkipped = "skipped"
	stateOK      = "ok"
)

func severity(state string) int {
	return slices.Index([]string{stateOK, stateSkipped, stateHint, stateWrong}, state)
}

func wrong(check, found, remedy string) finding { return finding{stateWrong, check, found, remedy} }
func hint(check, found, remedy string) finding  { return finding{stateHint, check, found, remedy} }
func skipped(check, found, remedy string) finding {
	return finding{stateSkipped, check, found, remedy}
}
func ok(check, found string) finding { return finding{State: stateOK, Check: check, Found: found} }

// Bounds that a doctor goes by.
const (
	// maxSkew is how far clocks may be apart: a schedule fires by the server's clock,
	// and SQS and the API server tell whole seconds.
	maxSkew = 3 * time.Second
	// fullHint is the part of a stream's bytes from which it is told. Past its end a
	// stream takes nothing, and everything waits.
	fullHint = 0.8

	minVisibility = 30 * time.Second   // ingest's publish, with its retries, and the delete
	minRetention  = 24 * time.Hour     // an outage of a night and a morning
	goodRetention = 4 * 24 * time.Hour // of a long weekend
	minReceives   = 5                  // ingest receives a message again after each of its own stops
)

// The least versions: of NATS for message schedules as they are used, of Kubernetes
// for the admission policies and the preStop of deploy/k8s.
const (
	minNATS       = "2.12.0"
	minKubernetes = "1.30.0"
)

// older reports whether a version is known to be below another.
func older(have, least string) bool {
	v, err := version.ParseGeneric(have)
	return err == nil && v.LessThan(version.MustParseGeneric(least))
}

func judgeSkew(check string, skew time.Duration) finding {
	if skew.Abs() > maxSkew {
		return wrong(check, fmt.Sprintf("the clock is %s away from this machine's", skew.Round(time.Millisecond)), "let NTP set both; retries fire, and signatures are judged, by them")
	}
	return ok(check, "the clocks agree within "+maxSkew.String())
}

func judgeNATS(in broker.Inspection, replicas int) (found []finding) {
	if in.JetStream != nil {
		return []finding{wrong("nats: JetStream", in.JetStream.Error(), "enable it (a jetstream block in the server's configuration) for this account")}
	}
	found = append(found, ok("nats", "reachable, server "+in.Server))
	if older(in.Server, minNATS) {
		found = append(found, wrong("nats: version", "server "+in.Server+" has no message schedules", "use NATS 2.12 or later"))
	}
	if in.MaxPayload < broker.MinPayload {
		found = append(found, wrong("nats: limits", fmt.Sprintf("max_payload is %d bytes, and a request may have %d", in.MaxPayload, broker.MinPayload), "set max_payload: 2MB in the servers' configuration"))
	} else {
		found = append(found, ok("nats: limits", fmt.Sprintf("max_payload is %d bytes", in.MaxPayload)))
	}
	if len(in.Topology) == 0 && len(in.Failed) == 0 && in.Short == 0 {
		found = append(found, ok("nats: streams", "every stream and consumer is as expected"))
	}
	for _, problem := range in.Topology {
		found = append(found, wrong("nats: streams", problem, "run `jobrelay topology apply` with an operator's login; what it cannot change it names"))
	}
	if in.Short > 0 {
		found = append(found, wrong("nats: streams", fmt.Sprintf("%s keeps %s, and must keep %s: 2 days longer than %s", broker.StreamEvents, in.Keeps, in.Short, broker.StreamRequests),
			fmt.Sprintf("nats stream edit %s --max-age=%s, or keep %s for less", broker.StreamEvents, in.Short, broker.StreamRequests)))
	}
	for _, question := range in.Failed {
		found = append(found, wrong("nats: streams", question, "look at the servers' logs and their /healthz: a stream without a leader answers nobody"))
	}
	for _, subject := range in.Denied {
		found = append(found, wrong("nats: permissions", "the login may not publish to "+subject, "allow it to this role's user (docs/security.md)"))
	}
	if in.Clock {
		found = append(found, judgeSkew("nats: clock", in.Skew))
	}
	var single []string
	for _, s := range in.Streams {
		if len(s.Lagging) > 0 {
			found = append(found, wrong("nats: replicas", fmt.Sprintf("%s is not whole on %s", s.Name, strings.Join(s.Lagging, ", ")), "bring that server back, or wait until it has caught up; until then one more loss stops the stream"))
		}
		if s.File && s.Replicas < max(replicas, 1) {
			found = append(found, wrong("nats: replicas", fmt.Sprintf("%s has %d, and --nats-replicas asks for %d", s.Name, s.Replicas, replicas), fmt.Sprintf("change it on each stream: nats stream edit %s --replicas %d", s.Name, replicas)))
		} else if s.File && s.Replicas == 1 {
			single = append(single, s.Name)
		}
		if s.MaxBytes > 0 {
			switch part := float64(s.Bytes) / float64(s.MaxBytes); {
			case part >= 1:
				found = append(found, wrong("nats: space", s.Name+" is full, and takes nothing more", "raise its max_bytes: nats stream edit "+s.Name+" --max-bytes"))
			case part >= fullHint:
				found = append(found, hint("nats: space", fmt.Sprintf("%s is filled to %.0f %%", s.Name, part*100), "raise its max_bytes before it is full: it takes nothing more then"))
			}
		}
	}
	if len(single) > 0 {
		found = append(found, hint("nats: durability", "one replica each of "+strings.Join(single, ", ")+": an acknowledged write may be lost in a power cut",
			"run three servers with --nats-replicas=3, or set sync_interval: always (no client can see it)"))
	}
	for _, c := range in.Consumers {
		name := c.Stream + "/" + c.Name
		switch {
		case c.Paused:
			found = append(found, wrong("nats: consumers", name+" is paused", "nats consumer resume "+c.Stream+" "+c.Name))
		case c.AckPending >= c.MaxAckPending && c.MaxAckPending > 0:
			found = append(found, wrong("nats: consumers", fmt.Sprintf("%s has %d messages out, all that it may: nothing new is handed out", name, c.AckPending), "look at what its replicas say (`jobrelay replicas`), and at their logs"))
		case c.Pending > 0 && c.Waiting == 0 && c.AckPending == 0:
			found = append(found, hint("nats: consumers", fmt.Sprintf("%s has %d messages that nobody takes", name, c.Pending), "start a replica of the "+c.Name+", or see why it does not pull (`jobrelay replicas`)"))
		}
		if c.Raise != "" {
			found = append(found, hint("nats: consumers", fmt.Sprintf("%s may have %d messages out, as an older version made it", name, c.MaxAckPending), "once no older version runs: "+c.Raise+" (docs/upgrade.md)"))
		}
	}
	return found
}

func judgeQueue(in sqsqueue.Inspection) (found []finding) {
	check := "sqs: " + in.Name
	found = append(found, ok(check, fmt.Sprintf("reachable; about %d messages wait, %d are in flight", in.Waiting, in.InFlight)), judgeSkew(check+" clock", in.Skew))
	for _, action := range in.Denied {
		found = append(found, wrong(check, "the credentials may not do "+action, "allow it in ingest's IAM policy (docs/install.md)"))
	}
	if in.Visibility < minVisibility {
		found = append(found, wrong(check, fmt.Sprintf("its visibility timeout is %s: messages come again while they are worked on", in.Visibility), "set VisibilityTimeout to 60 seconds"))
	}
	switch {
	case in.Retention < minRetention:
		found = append(found, wrong(check, fmt.Sprintf("it keeps messages for %s: an outage of that length loses them", in.Retention), "set MessageRetentionPeriod to 1209600 (14 days)"))
	case in.Retention < goodRetention:
		found = append(found, hint(check, fmt.Sprintf("it keeps messages for %s", in.Retention), "set MessageRetentionPeriod to 1209600 (14 days): it is what an outage may last"))
	}
	if in.Delay > 0 {
		found = append(found, hint(check, fmt.Sprintf("each message waits %s before it can be received", in.Delay), "set DelaySeconds to 0, unless it is meant so"))
	}
	switch {
	case in.DeadLetters == "":
		found = append(found, wrong(check, "it has no dead-letter queue: a message that ingest cannot settle comes again until it expires", "give it a RedrivePolicy with maxReceiveCount 20 (docs/install.md)"))
	case in.DeadLetterErr != nil:
		found = append(found, hint(check, "its dead-letter queue "+in.DeadLetters+" cannot be looked at: "+in.DeadLetterErr.Error(), "see that it exists; sqs:GetQueueAttributes on it lets the doctor look"))
	default:
		if in.MaxReceives < minReceives {
			found = append(found, wrong(check, fmt.Sprintf("after %d receives a message goes to %s: stops and outages of ours use them up", in.MaxReceives, in.DeadLetters), "set maxReceiveCount to 20"))
		}
		if in.DeadLetterRetention < in.Retention {
			found = append(found, wrong(check, fmt.Sprintf("its dead-letter queue %s keeps messages for %s, from when they were first sent", in.DeadLetters, in.DeadLetterRetention), "set that queue's MessageRetentionPeriod to 1209600, and at least to this queue's"))
		}
	}
	return found
}

// excesses are rights that no role of jobrelay has: an account of one that has them
// is given too much. For all, an administrator's account is no fault.
func excesses(role string) []cluster.Permission {
	if role == "all" {
		return nil
	}
	return []cluster.Permission{
		{Verb: "get", Resource: "secrets"}, {Verb: "create", Resource: "pods"}, {Verb: "create", Resource: "pods", Subresource: "exec"},
		{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
	}
}

func judgeCluster(in cluster.Inspection, needs, wishes, excess []cluster.Permission) (found []finding) {
	who := in.Account
	if who == "" {
		who = "the account"
	}
	found = append(found, ok("kubernetes", fmt.Sprintf("reachable, %s, as %s", in.Version, who)), judgeSkew("kubernetes: clock", in.Skew))
	if older(in.Version, minKubernetes) {
		found = append(found, hint("kubernetes: version", in.Version+" is older than what deploy/k8s is written for", "use Kubernetes 1.30 or later, or leave out the admission policies and preStop"))
	}
	missing := 0
	for _, p := range needs {
		if slices.Contains(in.Denied, p) {
			missing++
			found = append(found, wrong("kubernetes: permissions", who+" may not "+p.String(), "grant it (deploy/k8s/base has the roles)"))
		}
	}
	if missing == 0 {
		found = append(found, ok("kubernetes: permissions", fmt.Sprintf("all %d are there", len(needs))))
	}
	for _, p := range wishes {
		if slices.Contains(in.Denied, p) {
			found = append(found, hint("kubernetes: permissions", who+" may not "+p.String()+": some error codes stay general", "grant it (deploy/k8s/base/watcher.yaml; docs/adr/0012)"))
		}
	}
	for _, p := range excess {
		if !slices.Contains(in.Denied, p) {
			found = append(found, hint("kubernetes: permissions", who+" may "+p.String()+", which no service needs", "take it away"))
		}
	}
	return found
}
