package request_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jobrelay/jobrelay/pkg/request"
)

func of(n int, c string) string { return strings.Repeat(c, n) }

func quoted(s string) string { return `"` + s + `"` }

// One row a field: texts that are taken, and texts with the problem they give.
// A problem is "code" of the field itself, or "path code" of another.
var fields = []struct {
	field string
	good  []string
	bad   map[string]string
}{
	{"id", []string{`"a"`, `" \u00e9 \u2028"`, quoted(of(256, "é")), `"\ud83d\ude00"`}, map[string]string{
		``: "required", `null`: "type", `1`: "type", `""`: "invalid", `"\n"`: "invalid", `"\u0085"`: "invalid",
		quoted(of(257, "é")): "too_long",
	}},
	{"service", []string{`"a"`, `"A_b.c-9"`, quoted(of(63, "s"))}, map[string]string{
		``: "required", `null`: "type", `""`: "invalid", `"-a"`: "invalid", `"a/b"`: "invalid", quoted(of(64, "s")): "too_long",
	}},
	{"job", nil, map[string]string{``: "required", `null`: "type", `[]`: "type"}},
	{"job.prefixName", []string{`"a"`, `"a-9"`, quoted(of(54, "p"))}, map[string]string{
		``: "required", `null`: "type", `""`: "invalid", `"9a"`: "invalid", `"a-"`: "invalid", `"A"`: "invalid",
		`"a.b"`: "invalid", quoted(of(55, "p")): "too_long",
	}},
	{"job.namespace", []string{`"default"`, `"9"`, quoted(of(63, "n"))}, map[string]string{
		``: "required", `""`: "invalid", `"a.b"`: "invalid", `"A"`: "invalid", quoted(of(64, "n")): "too_long", `{}`: "type",
	}},
	{"job.image", []string{
		`"busybox"`, `"sim/exit:3"`, `"sim/succeed:1m30s"`, `"host:5000/a/b:c"`, `"localhost/a"`,
		quoted("a@sha256:" + of(64, "0")), quoted("a:b@sha512:" + of(128, "0")), `"[::1]:80/a"`,
	}, map[string]string{
		``: "required", `null`: "type", `""`: "invalid", `" a"`: "invalid", `"a "`: "invalid", `"a b"`: "invalid",
		`"A"`: "invalid", `"a:"`: "invalid", `"a@sha256:0"`: "invalid", `"a@md5:00000000000000000000000000000000"`: "invalid",
		quoted(of(64, "a")): "invalid", quoted(of(256, "a")): "invalid", quoted(of(1025, "a")): "too_long",
		quoted("a:" + of(129, "t")): "invalid", `"https://h/a"`: "invalid",
	}},
	{"job.command", []string{`["a"]`, `["a",""]`, `["$(A)","é"]`}, map[string]string{
		``: "required", `null`: "type", `[]`: "invalid", `[""]`: "invalid", `"a"`: "type",
		`["a",1]`: "$.job.command[1] type", `["a",null]`: "$.job.command[1] type", `["","\u0000"]`: "$.job.command[1] invalid",
	}},
	{"job.args", []string{`[]`, `[""]`, `["a"]`}, map[string]string{
		`null`: "type", `{}`: "type", `[[]]`: "$.job.args[0] type", `["\u0000"]`: "$.job.args[0] invalid",
	}},
	{"job.env", []string{
		`[]`, `[{"name":"A","value":""},{"name":"A","value":"$(B)"}]`, `[{"name":"A"}]`, `[{"name":"1 a.-/#","value":"\n"}]`,
	}, map[string]string{
		`null`: "type", `{}`: "type", `[1]`: "$.job.env[0] type", `[{"value":"x"}]`: "$.job.env[0].name required",
		`[{"name":""}]`: "$.job.env[0].name invalid", `[{"name":"a=b"}]`: "$.job.env[0].name invalid",
		`[{"name":"é"}]`: "$.job.env[0].name invalid", `[{"name":"A","value":1}]`: "$.job.env[0].value type",
		`[{"name":"A","value":null}]`: "$.job.env[0].value type", `[{"name":"A"},{"name":"A","value":"\u0000"}]`: "$.job.env[1].value invalid",
		`[{"name":"A","NAME":"B"}]`: "$.job.env[0].NAME duplicate",
	}},
	{"job.serviceAccount", []string{`"default"`, `"a.b"`, quoted(of(253, "a"))}, map[string]string{
		`null`: "type", `""`: "invalid", `"A"`: "invalid", quoted(of(254, "a")): "too_long",
	}},
	{"job.ttlSecondsAfterFinished", []string{`60`, `2147483647`}, map[string]string{
		`59`: "range", `-60`: "range", `2147483648`: "range", `60.0`: "type", `6e1`: "type", `"60"`: "type", `null`: "type",
		`18446744073709551676`: "range",
	}},
	{"job.backoffLimit", []string{`0`, `-0`, `6`}, map[string]string{
		`7`: "range", `-1`: "range", `1.0`: "type", `1e0`: "type", `true`: "type", `null`: "type",
	}},
	{"job.activeDeadlineSeconds", []string{`1`, `86400`}, map[string]string{
		`0`: "range", `86401`: "range", `1E2`: "type", `null`: "type",
	}},
	{"job.resources", []string{
		`{}`, `{"limits":{}}`, `{"requests":{"cpu":"1"}}`, `{"limits":{"cpu":"1"},"requests":{"cpu":"1000m","memory":"1Gi"}}`,
	}, map[string]string{
		`null`: "type", `{"limits":[]}`: "$.job.resources.limits type",
		`{"limits":{"cpu":"1"},"requests":{"cpu":"1001m"}}`:          "$.job.resources.requests.cpu range",
		`{"limits":{"memory":"1Mi"},"requests":{"memory":"1.01Mi"}}`: "$.job.resources.requests.memory range",
	}},
	{"job.resources.limits.cpu", []string{
		`"0"`, `"1"`, `"+1"`, `"1."`, `".5"`, `"500m"`, `"0.000000000001"`, `"1e3"`, `"1E-3"`, `"1P"`, `"1e15"`, `"100n"`,
	}, map[string]string{
		`""`: "invalid", `"-1"`: "range", `1`: "type", `null`: "type", `"abc"`: "invalid", `"1 "`: "invalid", `"1e999999999"`: "invalid",
		`"1e-999999999"`: "invalid", `"1e99"`: "range", `"2P"`: "range", `"1Pi"`: "range", `"1E"`: "range", `"1Zi"`: "invalid",
		quoted(of(33, "1")): "invalid", quoted(of(32, "9")): "range", `"."`: "invalid", `"0x1"`: "invalid", `"1i"`: "invalid",
	}},
	{"job.resources.requests.memory", []string{`"256Mi"`, `"1G"`}, map[string]string{`"1KiB"`: "invalid", `"-1Mi"`: "range"}},
	{"job.nodeSelector", []string{
		`{"matchKey":"kubernetes.io/hostname","matchValue":"n1"}`, `{"matchKey":"a","matchValue":""}`,
	}, map[string]string{
		`null`: "type", `{"matchKey":"a"}`: "$.job.nodeSelector.matchValue required", `{"matchValue":"a"}`: "$.job.nodeSelector.matchKey required",
		`{"matchKey":"","matchValue":"a"}`: "$.job.nodeSelector.matchKey invalid", `{"matchKey":"a/b/c","matchValue":"a"}`: "$.job.nodeSelector.matchKey invalid",
		`{"matchKey":"a","matchValue":"a b"}`:                 "$.job.nodeSelector.matchValue invalid",
		`{"matchKey":"a","matchValue":"` + of(64, "v") + `"}`: "$.job.nodeSelector.matchValue too_long",
	}},
	{"job.toleration", []string{`{"key":"key","value":"value"}`, `{"key":"a.b/c"}`, `{"key":"a","value":""}`}, map[string]string{
		`null`: "type", `{}`: "$.job.toleration.key required", `{"key":""}`: "$.job.toleration.key invalid",
		`{"key":"a","value":"-"}`: "$.job.toleration.value invalid", `{"key":"a","value":null}`: "$.job.toleration.value type",
	}},
	{"job.volume", []string{
		`{"mountPath":"workdir","pvc":"ps-pvc"}`, `{"mountPath":"/a/..b/c","pvc":"a.b"}`, `{"mountPath":"...","pvc":"a"}`,
	}, map[string]string{
		`null`: "type", `{"pvc":"a"}`: "$.job.volume.mountPath required", `{"mountPath":"a"}`: "$.job.volume.pvc required",
		`{"mountPath":"","pvc":"a"}`: "$.job.volume.mountPath invalid", `{"mountPath":"/","pvc":"a"}`: "$.job.volume.mountPath invalid",
		`{"mountPath":"./.","pvc":"a"}`: "$.job.volume.mountPath invalid", `{"mountPath":"a:b","pvc":"a"}`: "$.job.volume.mountPath invalid",
		`{"mountPath":"a/../b","pvc":"a"}`: "$.job.volume.mountPath invalid", `{"mountPath":"..","pvc":"a"}`: "$.job.volume.mountPath invalid",
		`{"mountPath":"a\nb","pvc":"a"}`: "$.job.volume.mountPath invalid", `{"mountPath":"a","pvc":"A"}`: "$.job.volume.pvc invalid",
		`{"mountPath":"` + of(4097, "a") + `","pvc":"a"}`: "$.job.volume.mountPath too_long",
	}},
	{"job.volume:", []string{`{"mountPath":"workdir","pvc":"ps-pvc"}`}, map[string]string{
		`null`: `$.job["volume:"] type`, `{"mountPath":"a"}`: `$.job["volume:"].pvc required`,
	}},
	{"webhook", []string{`{}`, `{"url":"http://h"}`}, map[string]string{`null`: "type", `"http://h"`: "type"}},
	{"webhook.url", []string{
		`"http://webhook.com"`, `"HTTPS://h:443/p%20q?x=1&y=%23"`, `"http://[::1]:8080/"`, `"http://bücher.example/é"`, `"http://b%C3%BCcher.example"`,
		quoted("http://h/" + of(2039, "é")),
	}, map[string]string{
		`null`: "type", `""`: "invalid", `"h/p"`: "invalid", `"//h/p"`: "invalid", `"http:h"`: "invalid", `"http://"`: "invalid",
		`"http://:80/"`: "invalid", `"ftp://h"`: "invalid", `"http://u@h"`: "invalid", `"http://u:p@h"`: "invalid", `"http://@h"`: "invalid",
		`"http://h/#f"`: "invalid", `"http://h/#"`: "invalid", `"http://[fe80::1%25eth0]/"`: "invalid", `"http://h:0/"`: "invalid",
		`"http://h:65536/"`: "invalid", `"http://h:/"`: "invalid", `"http://h/a b"`: "invalid", `"http://h/\n"`: "invalid",
		`"http://h\\@i/"`: "invalid", `"http://h/%zz"`: "invalid", `"http://h/\u00a0"`: "invalid",
		`"http://\ufffd/"`: "invalid", `"http://]/"`: "invalid", `"http://a<b/"`: "invalid", `"http://%ff/"`: "invalid", `"http://%c2%a0/"`: "invalid", `"http://a%20b/"`: "invalid",
		quoted("http://h/" + of(2040, "é")): "too_long",
	}},
	{"webhook.statuses", []string{`[]`, `[0,1,2,3,99]`, `[99]`}, map[string]string{
		`null`: "type", `{}`: "type", `99`: "type", `[4]`: "$.webhook.statuses[0] invalid", `[2,2]`: "$.webhook.statuses[1] duplicate",
		`["2"]`: "$.webhook.statuses[0] type", `[2.0]`: "$.webhook.statuses[0] type", `[null]`: "$.webhook.statuses[0] type",
		`[99999999999]`: "$.webhook.statuses[0] range",
	}},
}

func TestFields(t *testing.T) {
	for _, f := range fields {
		for _, text := range f.good {
			if res := request.Parse(message(t, f.field, text), request.Options{}); len(res.Problems) > 0 || res.Request == nil {
				t.Errorf("%s %s: %v", f.field, text, res.Problems)
			}
		}
		for text, want := range f.bad {
			if !strings.Contains(want, " ") {
				want = "$." + f.field + " " + want
			}
			res := request.Parse(message(t, f.field, text), request.Options{})
			if diff := cmp.Diff([]string{want}, codes(res.Problems)); diff != "" || res.Request != nil {
				t.Errorf("%s %s: %s", f.field, text, diff)
			}
		}
	}
}

func TestMountPathIsAbsolute(t *testing.T) {
	for text, want := range map[string]string{"workdir": "/workdir", "/a/b/": "/a/b", "./a//b": "/a/b"} {
		for _, spelling := range []string{"volume", "volume:"} {
			got := accepted(t, message(t, "job."+spelling, `{"mountPath":"`+text+`","pvc":"p"}`), request.Options{})
			if got := got.GetJob().GetVolume().GetMountPath(); got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
		}
	}
}

func TestBothVolumesAreAConflict(t *testing.T) {
	body := strings.Replace(base, `"image"`, `"volume":{"mountPath":"a","pvc":"p"},"volume:":{"mountPath":"a","pvc":"p"},"image"`, 1)
	res := request.Parse([]byte(body), request.Options{})
	if diff := cmp.Diff([]string{"$.job.volume conflict"}, codes(res.Problems)); diff != "" || len(res.Warnings) > 0 {
		t.Error(diff, res.Warnings)
	}
}
