package k8s_test

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// peer is one end of a connection: a Pod, or an address outside.
type peer struct {
	pod, namespace map[string]string // labels; nil: no Pod
	address        string
}

// allowed is what a network plugin decides on a connection from or to one of our Pods, as
// the API's documentation has it: a Pod that no policy of the direction selects is free;
// else one rule of one policy has to allow it. Ports by name are not known here.
func allowed(t *testing.T, policies []networkingv1.NetworkPolicy, direction networkingv1.PolicyType, own map[string]string, other peer, protocol corev1.Protocol, port int32) bool {
	t.Helper()
	selected := false
	for _, p := range policies {
		if !slices.Contains(p.Spec.PolicyTypes, direction) || !matches(t, &p.Spec.PodSelector, own) {
			continue
		}
		selected = true
		if direction == networkingv1.PolicyTypeEgress {
			for _, rule := range p.Spec.Egress {
				if onPort(t, rule.Ports, protocol, port) && among(t, rule.To, other) {
					return true
				}
			}
			continue
		}
		for _, rule := range p.Spec.Ingress {
			if onPort(t, rule.Ports, protocol, port) && among(t, rule.From, other) {
				return true
			}
		}
	}
	return !selected
}

func onPort(t *testing.T, ports []networkingv1.NetworkPolicyPort, protocol corev1.Protocol, port int32) bool {
	t.Helper()
	if len(ports) == 0 {
		return true
	}
	return slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Port != nil && p.Port.Type == intstr.String {
			t.Fatalf("port %s has a name", p.Port.StrVal)
		}
		if p.Protocol == nil && protocol != corev1.ProtocolTCP || p.Protocol != nil && *p.Protocol != protocol {
			return false
		}
		switch {
		case p.Port == nil:
			return true
		case p.EndPort == nil:
			return p.Port.IntVal == port
		}
		return p.Port.IntVal <= port && port <= *p.EndPort
	})
}

func among(t *testing.T, peers []networkingv1.NetworkPolicyPeer, other peer) bool {
	t.Helper()
	if len(peers) == 0 {
		return true
	}
	return slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			return inBlock(t, p.IPBlock, other.address)
		}
		if other.pod == nil {
			return false
		}
		// Without a namespace's selector the policy's own namespace is meant: no peer here.
		return p.NamespaceSelector != nil && matches(t, p.NamespaceSelector, other.namespace) && (p.PodSelector == nil || matches(t, p.PodSelector, other.pod))
	})
}

func inBlock(t *testing.T, b *networkingv1.IPBlock, address string) bool {
	t.Helper()
	contains := func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return prefix.Contains(netip.MustParseAddr(address))
	}
	return contains(b.CIDR) && !slices.ContainsFunc(b.Except, contains)
}

func matches(t *testing.T, s *metav1.LabelSelector, l map[string]string) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(labels.Set(l))
}

// TestWhoMaySpeakToWhom: the production overlay's policies, for each role and what it
// works with, and for what it has no business with. The simulated nodes enforce none of
// them: the API server takes them (TestEveryRootIsAccepted), and this evaluates them.
// The console may do what its name is listed for, with its proxy (console-oidc) that too.
func TestWhoMaySpeakToWhom(t *testing.T) {
	for _, r := range []root{withConsole, withActions} {
		t.Run(r.name, func(t *testing.T) { whoMaySpeakToWhom(t, r) })
	}
}

func whoMaySpeakToWhom(t *testing.T, r root) {
	all := r.render(t)
	proxied := slices.Contains(r.components, "components/console-oidc")
	policies := of[networkingv1.NetworkPolicy](t, all, "NetworkPolicy")
	deployments := ours(t, all)
	in := func(namespace string) map[string]string {
		return map[string]string{"kubernetes.io/metadata.name": namespace}
	}
	pod := func(namespace, label, value, address string) peer {
		return peer{pod: map[string]string{label: value}, namespace: in(namespace), address: address}
	}
	dns := pod("kube-system", "k8s-app", "kube-dns", "10.96.0.10")
	nats := pod("nats", "app.kubernetes.io/name", "nats", "10.244.1.7")
	in10, in172, in192 := peer{address: "10.0.0.1"}, peer{address: "172.20.0.9"}, peer{address: "192.168.1.1"}
	world, world6 := peer{address: "93.184.216.34"}, peer{address: "2606:2800:220:1::1"}
	prometheus := pod("monitoring", "app", "prometheus", "10.244.2.2")
	ingressController := pod("ingress-nginx", "app.kubernetes.io/name", "ingress-nginx", "10.244.2.3")
	const everybody = "ingest launcher watcher notifier console"
	for _, c := range []struct {
		to       string
		peer     peer
		protocol corev1.Protocol
		port     int32
		may      string // the roles
	}{
		{"DNS by UDP", dns, corev1.ProtocolUDP, 53, everybody},
		{"DNS by TCP", dns, corev1.ProtocolTCP, 53, everybody},
		{"another Pod on DNS's port", pod("kube-system", "app", "other", "10.244.0.3"), corev1.ProtocolUDP, 53, ""},
		{"a Pod that calls itself DNS elsewhere", pod("jobs", "k8s-app", "kube-dns", "10.244.0.4"), corev1.ProtocolUDP, 53, ""},
		{"NATS in the cluster", nats, corev1.ProtocolTCP, 4222, everybody},
		{"NATS outside", peer{address: "192.0.2.10"}, corev1.ProtocolTCP, 4222, everybody},
		{"NATS's routes", nats, corev1.ProtocolTCP, 6222, ""},
		{"NATS's monitoring", nats, corev1.ProtocolTCP, 8222, ""},
		{"a Job that calls itself NATS", pod("jobs", "app.kubernetes.io/name", "nats", "10.244.3.3"), corev1.ProtocolTCP, 4222, ""},
		{"the API server", in10, corev1.ProtocolTCP, 443, "ingest launcher watcher console-oidc"}, // ingest: as a VPC endpoint of SQS
		{"the API server by its own port", peer{address: "172.18.0.2"}, corev1.ProtocolTCP, 6443, "launcher watcher"},
		{"SQS", world, corev1.ProtocolTCP, 443, "ingest launcher watcher notifier console-oidc"},
		{"SQS by IPv6", world6, corev1.ProtocolTCP, 443, "ingest launcher watcher notifier console-oidc"},
		{"a webhook on 8443", world, corev1.ProtocolTCP, 8443, "notifier"},
		{"a webhook without TLS", world, corev1.ProtocolTCP, 80, "notifier"},
		{"a webhook by IPv6", world6, corev1.ProtocolTCP, 80, "notifier"},
		{"a webhook by UDP", world, corev1.ProtocolUDP, 443, ""},
		{"the EKS agent for identities", peer{address: "169.254.170.23"}, corev1.ProtocolTCP, 80, "ingest"},
		{"the node's metadata", peer{address: "169.254.169.254"}, corev1.ProtocolTCP, 80, ""},
		{"the node's metadata by IPv6", peer{address: "fd00:ec2::254"}, corev1.ProtocolTCP, 80, ""},
		{"a Service", in10, corev1.ProtocolTCP, 8080, ""},
		{"a Pod", pod("jobs", "app", "x", "10.244.9.9"), corev1.ProtocolTCP, 8080, ""},
		{"a kubelet", peer{address: "172.18.0.3"}, corev1.ProtocolTCP, 10250, ""},
		{"the company's network", in172, corev1.ProtocolTCP, 80, ""},
		{"a network at home", in192, corev1.ProtocolTCP, 80, ""},
		{"carrier-grade NAT, as some clusters' Pods", peer{address: "100.64.3.4"}, corev1.ProtocolTCP, 80, ""},
		{"itself", peer{address: "127.0.0.1"}, corev1.ProtocolTCP, 9090, ""},
		{"a unique local address", peer{address: "fd12::1"}, corev1.ProtocolTCP, 80, ""},
		{"a link-local address", peer{address: "fe80::1"}, corev1.ProtocolTCP, 443, ""},
		{"an IPv4 address in IPv6 (NAT64)", peer{address: "64:ff9b::a00:1"}, corev1.ProtocolTCP, 80, ""},
		{"multicast", peer{address: "224.0.0.1"}, corev1.ProtocolTCP, 80, ""},
	} {
		for _, role := range allRoles {
			own := deployments[role].Spec.Template.Labels
			may := strings.Fields(c.may)
			want := slices.Contains(may, role) || proxied && role == "console" && slices.Contains(may, "console-oidc")
			if got := allowed(t, policies, networkingv1.PolicyTypeEgress, own, c.peer, c.protocol, c.port); got != want {
				t.Errorf("%s to %s (%s, port %d): %v, want %v", role, c.to, c.peer.address, c.port, got, want)
			}
		}
		t.Logf("to %-44s %s %d: %s", c.to, c.protocol, c.port, cmp.Or(c.may, "nobody"))
	}
	for _, role := range allRoles {
		own := deployments[role].Spec.Template.Labels
		pages := role == "console"
		for name, c := range map[string]struct {
			from peer
			port int32
			want bool
		}{
			"Prometheus":            {prometheus, 9090, true},
			"Prometheus, elsewhere": {prometheus, 8080, false},
			"Prometheus, the pages": {prometheus, 8090, false},
			"the ingress, pages":    {ingressController, 8090, pages},
			"the ingress, metrics":  {ingressController, 9090, false},
			"past its proxy":        {ingressController, 8091, false},
			"a Job, pages":          {pod("jobs", "app.kubernetes.io/name", "ingress-nginx", "10.244.9.9"), 8090, false},
			"the world, pages":      {world, 8090, false},
			"a Pod beside it":       {pod("jobrelay", "app", "x", "10.244.9.8"), 8090, false},
			"a Job":                 {pod("jobs", "app", "prometheus", "10.244.9.9"), 9090, false},
			"the world":             {world, 9090, false},
			"another Pod beside it": {pod("jobrelay", "app", "x", "10.244.9.8"), 9090, false},
			"a Pod of the system":   {pod("kube-system", "k8s-app", "kube-dns", "10.96.0.10"), 9090, false},
		} {
			if got := allowed(t, policies, networkingv1.PolicyTypeIngress, own, c.from, corev1.ProtocolTCP, c.port); got != c.want {
				t.Errorf("%s from %s: %v", role, name, got)
			}
		}
	}
}

// TestEvaluator: cases of the API's documentation, so that the table above says something.
func TestEvaluator(t *testing.T) {
	yes := map[string]string{"a": "b"}
	tcp := corev1.ProtocolTCP
	policy := func(rules ...networkingv1.NetworkPolicyEgressRule) []networkingv1.NetworkPolicy {
		return []networkingv1.NetworkPolicy{{Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: yes}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, Egress: rules,
		}}}
	}
	both := networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: yes}, PodSelector: &metav1.LabelSelector{MatchLabels: yes}}
	block := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}}
	port := networkingv1.NetworkPolicyPort{Protocol: &tcp, Port: new(intstr.FromInt32(80)), EndPort: new(int32(90))}
	for name, c := range map[string]struct {
		policies []networkingv1.NetworkPolicy
		own      map[string]string
		other    peer
		port     int32
		want     bool
	}{
		"no policy":                  {nil, yes, peer{address: "10.0.0.1"}, 80, true},
		"a policy of others":         {policy(), map[string]string{"a": "c"}, peer{address: "10.0.0.1"}, 80, true},
		"a policy without a rule":    {policy(), yes, peer{address: "10.0.0.1"}, 80, false},
		"a rule for all":             {policy(networkingv1.NetworkPolicyEgressRule{}), yes, peer{address: "10.0.0.1"}, 80, true},
		"a block":                    {policy(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{block}}), yes, peer{address: "10.0.0.1"}, 80, true},
		"what a block excepts":       {policy(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{block}}), yes, peer{address: "10.1.0.1"}, 80, false},
		"namespace and Pod":          {policy(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{both}}), yes, peer{yes, yes, "1.1.1.1"}, 80, true},
		"the Pod alone":              {policy(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{both}}), yes, peer{yes, nil, "1.1.1.1"}, 80, false},
		"the namespace alone":        {policy(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{both}}), yes, peer{map[string]string{}, yes, "1.1.1.1"}, 80, false},
		"within ports":               {policy(networkingv1.NetworkPolicyEgressRule{Ports: []networkingv1.NetworkPolicyPort{port}}), yes, peer{address: "1.1.1.1"}, 85, true},
		"past ports":                 {policy(networkingv1.NetworkPolicyEgressRule{Ports: []networkingv1.NetworkPolicyPort{port}}), yes, peer{address: "1.1.1.1"}, 91, false},
		"a second rule that permits": {policy(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{both}}, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{block}}), yes, peer{address: "10.0.0.1"}, 80, true},
	} {
		if got := allowed(t, c.policies, networkingv1.PolicyTypeEgress, c.own, c.other, tcp, c.port); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
