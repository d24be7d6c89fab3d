package messages

import "strings"

// spoil breaks the message in one to three ways that do not hide each other.
func (d *draft) spoil() {
	if d.IntN(12) == 0 {
		d.breaks = []string{alone[d.IntN(len(alone))](d)}
		return
	}
	for _, area := range d.Perm(len(areas))[:1+d.IntN(3)] {
		ways := areas[area]
		d.breaks = append(d.breaks, ways[d.IntN(len(ways))](d))
	}
}

// way breaks one thing and gives its path.
type way func(d *draft) string

// alone are ways that hide every other.
var alone = []way{
	func(d *draft) string { return d.whole(func(body string) string { return body + "{}" }) },
	func(d *draft) string { return d.whole(func(body string) string { return body[:len(body)-1] }) },
	func(d *draft) string { return d.whole(func(body string) string { return "[" + body + "]" }) },
	func(d *draft) string { return d.whole(func(body string) string { return "\ufeff" + body }) },
	func(d *draft) string { d.root.drop("job"); return "$.job" },
	func(d *draft) string { d.root.set("job", []any{d.unique}); return "$.job" },
	func(d *draft) string { d.root.add("Job", nil); return "$.Job" },
}

// whole breaks the body itself: nothing of it can be read.
func (d *draft) whole(finish func(body string) string) string {
	d.id, d.finish = "", finish
	return "$"
}

// areas are the ways to break one field each; ways of different areas can be
// combined.
var areas = [][]way{
	{ // id
		func(d *draft) string { d.root.drop("id"); d.root.add("identifier", d.unique); return d.noID("$.id") },
		func(d *draft) string { d.root.set("id", []any{d.unique}); return d.noID("$.id") },
		func(d *draft) string { d.root.set("id", d.unique+"\n"); return d.noID("$.id") },
		func(d *draft) string { d.root.set("id", d.unique+strings.Repeat("é", 256)); return d.noID("$.id") },
		func(d *draft) string { d.root.add("id", d.unique); return d.noID("$.id") },
		func(d *draft) string { d.root.add("ID", d.unique); return d.noID("$.ID") },
	},
	append(of("$", "service", strings.Repeat("s", 64), "a/b", "", nil, raw("1")),
		func(d *draft) string { d.root.add("Service", "b"); return "$.Service" },
		func(d *draft) string { d.root.add("\u017fervice", "b"); return `$["ſervice"]` }), // a long s folds to s
	of("$.job", "prefixName", "Upper", "9a", "a-", strings.Repeat("p", 55), nil),
	of("$.job", "namespace", "a.b", strings.Repeat("n", 64), "", raw("{}")),
	of("$.job", "image", "Busybox", " busybox", "busybox:", "", "https://registry.example/app", nil),
	of("$.job", "command", []any{}, []any{""}, "/bin/true", nil),
	{
		func(d *draft) string { d.job.set("args", []any{"a", 1}); return "$.job.args[1]" },
		func(d *draft) string { d.job.set("args", []any{"\x00"}); return "$.job.args[0]" },
		func(d *draft) string { d.job.set("args", "a"); return "$.job.args" },
	},
	{
		func(d *draft) string { d.job.set("env", &object{{"A", "1"}}); return "$.job.env" },
		func(d *draft) string { d.job.set("env", []any{&object{{"value", "1"}}}); return "$.job.env[0].name" },
		func(d *draft) string {
			d.job.set("env", []any{&object{{"name", "A"}}, &object{{"name", "A=B"}}})
			return "$.job.env[1].name"
		},
		func(d *draft) string {
			d.job.set("env", []any{&object{{"name", "A"}, {"value", 1}}})
			return "$.job.env[0].value"
		},
		func(d *draft) string {
			d.job.set("env", []any{&object{{"name", "A"}, {"Name", "B"}}})
			return "$.job.env[0].Name"
		},
	},
	of("$.job", "serviceAccount", "Upper", "a_b", "", nil),
	of("$.job", "ttlSecondsAfterFinished", 59, -60, raw("60.0"), raw("2147483648"), "60", nil),
	of("$.job", "backoffLimit", 7, -1, raw("true")),
	of("$.job", "activeDeadlineSeconds", 0, 86401, raw("6e1")),
	{
		func(d *draft) string { d.job.set("resources", nil); return "$.job.resources" },
		func(d *draft) string {
			d.job.set("resources", &object{{"limits", &object{{"cpu", d.any("1x", 1, "-1", "1e999999999", "2P")}}}})
			return "$.job.resources.limits.cpu"
		},
		func(d *draft) string {
			d.job.set("resources", &object{{"limits", &object{{"memory", "1Gi"}}}, {"requests", &object{{"memory", "1.1G"}}}})
			return "$.job.resources.requests.memory"
		},
	},
	{
		func(d *draft) string {
			d.job.set("nodeSelector", &object{{"matchKey", "disk"}})
			return "$.job.nodeSelector.matchValue"
		},
		func(d *draft) string {
			d.job.set("nodeSelector", &object{{"matchKey", "a/b/c"}, {"matchValue", "v"}})
			return "$.job.nodeSelector.matchKey"
		},
	},
	{
		func(d *draft) string { d.job.set("toleration", &object{{"value", "v"}}); return "$.job.toleration.key" },
		func(d *draft) string {
			d.job.set("toleration", &object{{"key", "k"}, {"value", "a b"}})
			return "$.job.toleration.value"
		},
	},
	{
		func(d *draft) string { return d.volume("volume", d.any("a:b", "a/../b", "/", "")) + ".mountPath" },
		func(d *draft) string { return d.volume("volume:", d.any("..", "a\tb", nil)) + ".mountPath" },
		func(d *draft) string { // in both spellings
			d.volume("volume:", "a")
			d.job.add("volume", &object{{"mountPath", "a"}, {"pvc", "ps-pvc"}})
			return "$.job.volume"
		},
	},
	{
		func(d *draft) string { d.root.set("webhook", "http://hooks.example"); return "$.webhook" },
		func(d *draft) string {
			d.root.set("webhook", &object{{"url", d.any("ftp://h", "http://u:p@h", "http://h/#f", "/jobs", "http://h:0", nil)}})
			return "$.webhook.url"
		},
		func(d *draft) string {
			d.root.set("webhook", &object{{"statuses", []any{99, d.any(4, "2", 99, raw("2.0"))}}, {"url", "http://h"}})
			return "$.webhook.statuses[1]"
		},
	},
	{ // fields that the contract does not know
		func(d *draft) string { d.root.add("x", raw(`"\ud800"`)); return "$.x" },
		func(d *draft) string { d.root.add("x", &object{{"a", 1}, {"A", 1}}); return "$.x.A" },
		func(d *draft) string {
			const most = 31 // arrays that still may be in a message's field
			d.job.add("x y", raw(strings.Repeat("[", most)+strings.Repeat("]", most)))
			return `$.job["x y"]` + strings.Repeat("[0]", most-1)
		},
	},
}

// of are the ways to break a field by a value, or by its absence where the field
// is one that is required.
func of(path, key string, values ...any) []way {
	var out []way
	parent := func(d *draft) *object {
		if path == "$" {
			return d.root
		}
		return d.job
	}
	for _, v := range values {
		out = append(out, func(d *draft) string { parent(d).set(key, v); return path + "." + key })
	}
	switch key {
	case "service", "prefixName", "namespace", "image", "command":
		out = append(out, func(d *draft) string { parent(d).drop(key); return path + "." + key })
	}
	return out
}

func (d *draft) noID(path string) string {
	d.id = ""
	return path
}

// volume gives the job one volume, in that spelling.
func (d *draft) volume(spelling string, mountPath any) string {
	d.job.drop("volume")
	d.job.drop("volume:")
	d.job.add(spelling, &object{{"mountPath", mountPath}, {"pvc", "ps-pvc"}})
	if spelling == "volume" {
		return "$.job.volume"
	}
	return `$.job["volume:"]`
}
