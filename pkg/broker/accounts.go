package broker

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// AccountName is the account of the services and their streams in NATS.
const AccountName = "JOBRELAY"

// TapAPI stands for $JS.API in a tap's account, where that is the account's own
// JetStream: the client is told of it as its API prefix.
const TapAPI = AccountName + ".API"

// exports are what accounts of taps may import of ours; each imports its own part.
// MSG.NEXT has many answers.
var exports = []string{
	`service: "$JS.API.CONSUMER.INFO.` + StreamEvents + `.*"`,
	`service: "$JS.API.CONSUMER.MSG.NEXT.` + StreamEvents + `.*", response_type: stream`,
	`service: "$JS.ACK.` + StreamEvents + `.*.>"`,
	`service: "$JS.API.CONSUMER.RESET.` + StreamEvents + `.*"`,
	`service: "$JS.FC.` + StreamEvents + `.*.>"`,
	`stream: "` + mirrorsPrefix + `*"`,
}

// Account is the account of the services, in the form of NATS's configuration: a
// user of each role, with key's answer as its public key.
func Account(key func(role string) string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s {\n  jetstream: enabled\n  users: [\n", AccountName)
	for _, r := range Roles() {
		fmt.Fprintf(&out, "    # %s: %s\n", r.Name, r.What)
		user(&out, "    ", key(r.Name), r.Publish(), r.Subscribe())
	}
	out.WriteString("  ]\n  exports: [\n")
	for _, e := range exports {
		fmt.Fprintf(&out, "    { %s }\n", e)
	}
	out.WriteString("  ]\n}\n")
	return out.String()
}

// Apart is Account for who trusts no service with another's work: each role has an
// account of its own, JOBRELAY_<ROLE>, which imports what the role may do and nothing
// else, so that a reply that it names can only be in there. Its processes are told of
// the prefix TapAPI (Login). NATS does about twice the work for each message.
func Apart(key func(role string) string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s {\n  jetstream: enabled\n  exports: [\n", AccountName)
	for _, e := range exports {
		fmt.Fprintf(&out, "    { %s }\n", e)
	}
	exported := map[string]bool{}
	for _, r := range Roles() {
		for _, s := range r.Publish() {
			if exported[s] {
				continue
			}
			exported[s] = true
			answers := ""
			if strings.HasPrefix(s, "$JS.API.CONSUMER.MSG.NEXT.") || strings.HasPrefix(s, "$JS.API.DIRECT.GET.") {
				answers = ", response_type: stream"
			}
			fmt.Fprintf(&out, "    { service: %q%s }\n", s, answers)
		}
	}
	out.WriteString("  ]\n}\n")
	for _, r := range Roles() {
		fmt.Fprintf(&out, "# %s: %s\n%s_%s {\n  users: [\n", r.Name, r.What, AccountName, strings.ToUpper(strings.ReplaceAll(r.Name, "-", "_")))
		imports(&out, key(r.Name), r.Publish(), r.Subscribe())
		out.WriteString("  ]\n}\n")
	}
	return out.String()
}

// Account is the account of a tap, in the form of NATS's configuration. It is not
// that of the services: the server sends what is pulled to whatever subject the tap
// names, and in our account that could be the ledger's.
func (t Tap) Account(key string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "TAP_%s {\n", strings.ToUpper(strings.ReplaceAll(t.Name, "-", "_")))
	if t.Mirror {
		t.tenant(&out, key)
	} else {
		t.reader(&out, key)
	}
	out.WriteString("  ]\n}\n")
	return out.String()
}

// reader is the account of who pulls from the durable, and can do nothing else.
func (t Tap) reader(out *strings.Builder, key string) {
	out.WriteString("  users: [\n")
	imports(out, key, pulls(StreamEvents, t.Durable()), []string{"_INBOX.>"})
}

// imports are an account's one user and the imports of what it may publish to in ours.
func imports(out *strings.Builder, key string, theirs, subscribe []string) {
	var ours []string
	for _, s := range theirs {
		ours = append(ours, inTapAPI(s))
	}
	user(out, "    ", key, ours, subscribe)
	out.WriteString("  ]\n  imports: [\n")
	for i, s := range theirs {
		fmt.Fprintf(out, "    { service: { account: %s, subject: %q }, to: %q }\n", AccountName, s, ours[i])
	}
}

// tenant is the account of who has a mirror: its user may do in it what it likes. What
// it imports is its mirror's alone.
func (t Tap) tenant(out *strings.Builder, key string) {
	fmt.Fprintf(out, "  jetstream: { max_file: 10GB, max_mem: 64MB, max_streams: 4, max_consumers: 100 }\n  users: [\n    { nkey: %s }\n  ]\n  imports: [\n", key)
	reset, flow := "$JS.API.CONSUMER.RESET."+StreamEvents+"."+t.Durable(), "$JS.FC."+StreamEvents+"."+t.Durable()+".>"
	fmt.Fprintf(out, "    { service: { account: %s, subject: %q }, to: %q }\n", AccountName, reset, inTapAPI(reset))
	fmt.Fprintf(out, "    { service: { account: %s, subject: %q } }\n", AccountName, flow)
	fmt.Fprintf(out, "    { stream: { account: %s, subject: %q } }\n", AccountName, mirrorsPrefix+t.Name)
}

// MirrorConfig is the configuration of the stream in a tenant's account that mirrors
// EVENTS, as JetStream's API takes it. It keeps what EVENTS does, and events keep their
// sequences.
func (t Tap) MirrorConfig() ([]byte, error) {
	return json.MarshalIndent(jetstream.StreamConfig{
		Name: StreamEvents, Description: "a mirror of the job events", MaxAge: eventsAge, AllowDirect: true,
		MaxBytes: -1, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1, Replicas: 1,
		Mirror: &jetstream.StreamSource{
			Name: StreamEvents, External: &jetstream.ExternalStream{APIPrefix: TapAPI},
			Consumer: &jetstream.StreamConsumerSource{Name: t.Durable(), DeliverSubject: mirrorsPrefix + t.Name},
		},
	}, "", "  ")
}

// inTapAPI is a request of JetStream's API as an account of a tap has it.
func inTapAPI(subject string) string { return strings.Replace(subject, "$JS.API", TapAPI, 1) }

// user is one entry of an account's users.
func user(out *strings.Builder, indent, key string, publish, subscribe []string) {
	fmt.Fprintf(out, "%s{\n%s  nkey: %s\n%s  permissions: {\n", indent, indent, key, indent)
	for _, p := range []struct {
		verb     string
		subjects []string
	}{{"publish", publish}, {"subscribe", subscribe}} {
		fmt.Fprintf(out, "%s    %s: [\n", indent, p.verb)
		for _, s := range p.subjects {
			fmt.Fprintf(out, "%s      %q\n", indent, s)
		}
		fmt.Fprintf(out, "%s    ]\n", indent)
	}
	fmt.Fprintf(out, "%s  }\n%s}\n", indent, indent)
}
