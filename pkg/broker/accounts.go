package broker

import (
	"fmt"
	"strings"
)

// AccountName is the account of the services and their streams in NATS.
const AccountName = "JOBRELAY"

// TapAPI stands for $JS.API in a tap's account, where that is the account's own
// JetStream: the client is told of it as its API prefix.
const TapAPI = AccountName + ".API"

// exports are what accounts of taps may import of ours; a tap's account imports its
// own part. MSG.NEXT has many answers.
var exports = []struct {
	subject string
	stream  bool
}{
	{"$JS.API.CONSUMER.INFO." + StreamEvents + ".*", false},
	{"$JS.API.CONSUMER.MSG.NEXT." + StreamEvents + ".*", true},
	{"$JS.ACK." + StreamEvents + ".*.>", false},
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
		answers := ""
		if e.stream {
			answers = ", response_type: stream"
		}
		fmt.Fprintf(&out, "    { service: %q%s }\n", e.subject, answers)
	}
	out.WriteString("  ]\n}\n")
	return out.String()
}

// Account is the account of a tap, in the form of NATS's configuration. It is not
// that of the services: the server sends what is pulled to whatever subject the tap
// names, and in our account that could be the ledger's.
func (t Tap) Account(key string) string {
	theirs := pulls(StreamEvents, t.Durable())
	var ours []string
	for _, s := range theirs {
		ours = append(ours, strings.Replace(s, "$JS.API", TapAPI, 1))
	}
	var out strings.Builder
	fmt.Fprintf(&out, "TAP_%s {\n  users: [\n", strings.ToUpper(strings.ReplaceAll(t.Name, "-", "_")))
	user(&out, "    ", key, ours, []string{"_INBOX.>"})
	out.WriteString("  ]\n  imports: [\n")
	for i, s := range theirs {
		fmt.Fprintf(&out, "    { service: { account: %s, subject: %q }, to: %q }\n", AccountName, s, ours[i])
	}
	out.WriteString("  ]\n}\n")
	return out.String()
}

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
