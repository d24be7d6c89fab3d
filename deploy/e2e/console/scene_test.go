//go:build browser

package console

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
)

// scene is a made-up shop's hour. Ids, names and the distances between times are the
// same in each run.
type scene struct {
	w   *writer
	now time.Time

	// Jobs that tests look at by name.
	invoice   *job // its memory ran out; callback 0 came through at the third try, 3 is parked
	order     *job // completed, each callback delivered at once
	running   *job
	started   *job // no Pod of it runs
	training  *job // no node has room
	cancelled *job
	lost      *job // its callbacks are dead letters
	// Log keys of refused messages.
	invalid, denied, reused, garbled string
	// all is how many jobs have an event.
	all int
}

const (
	shopHooks   = "https://hooks.shop.example"
	partner     = "https://api.partner.example:8443"
	oldCRM      = "http://crm.old.example"
	warehouse   = "https://events.warehouse.example"
	exampleTrim = "registry.shop.example/"
)

// services are those of the shop.
var services = []struct {
	name, namespace, image, prefix, id, endpoint string
	run                                          time.Duration // of most jobs
}{
	{"billing", "billing", exampleTrim + "billing/invoice-pdf:2026.11.3", "inv", "invoice-2026-11-%04d", shopHooks, 9 * time.Second},
	{"thumbnails", "media", exampleTrim + "media/thumbs:5.2.0", "thumb", "photo-%06x", shopHooks, 3 * time.Second},
	{"reports", "analytics", exampleTrim + "analytics/report@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945", "report", "report/eu/%d", warehouse, 95 * time.Second},
	{"mail", "mail", exampleTrim + "mail/campaign:17", "mail", "campaign:autumn:%d", partner, 20 * time.Second},
}

// fill writes the scene, all of it before now.
func fill(w *writer, now time.Time) *scene {
	w.t.Helper()
	s := &scene{w: w, now: now}
	w.inOrder(func() {
		s.usual()
		s.latest()
		s.special()
		s.refused()
		s.waiting()
	})
	s.replicas()
	return s
}

func (s *scene) ago(d time.Duration) time.Time { return s.now.Add(-d) }

// of is the n-th job of a service of the shop.
func (s *scene) of(service, n int, ago time.Duration) *job {
	s.w.t.Helper()
	v := services[service]
	s.all++
	return s.w.job(job{id: fmt.Sprintf(v.id, n), service: v.name, namespace: v.namespace, image: v.image, prefix: v.prefix, endpoint: v.endpoint, queued: s.ago(ago)})
}

// usual are the jobs that nobody asks about: more of them in the last half hour.
func (s *scene) usual() {
	s.w.t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	ms := func(from, to int) time.Duration {
		return time.Duration(from+random.IntN(to-from)) * time.Millisecond
	}
	for i := range 140 {
		ago := time.Duration(3+random.IntN(68)) * time.Minute
		if i%3 == 0 {
			ago = time.Duration(3+random.IntN(20)) * time.Minute
		}
		ago += ms(0, 60000)
		service := []int{0, 0, 1, 1, 1, 1, 2, 3}[random.IntN(8)]
		j := s.of(service, 4200+i*7, ago)
		created := ms(300, 2400)
		ran := created + ms(900, 5000)
		ended := ran + services[service].run/2 + ms(0, int(services[service].run.Milliseconds()))
		j.started(created).podStarted(ran)
		code := 204
		switch i {
		case 17, 61:
			j.failed(created, ran, ended, "CONTAINER_EXIT_NONZERO", `container "`+j.service+`" exited with code 2`, &jobsv1.Evidence{Container: j.service, ExitCode: 2, Reason: "Error", TerminationMessage: "template not found: letter-de"})
		case 44:
			j.failed(created, ran, ended, "DEADLINE_EXCEEDED", "The Job was active for longer than its activeDeadlineSeconds, 600.", nil)
		case 90:
			j.failed(created, ran, ended, "EVICTED", "The Pod was evicted: the node was low on resource: memory.", &jobsv1.Evidence{Container: j.service, Reason: "Evicted"})
		default:
			j.completed(created, ran, ended)
		}
		j.delivered(j.attempt(created+ms(20, 90), code, ms(8, 120)))
		j.delivered(j.attempt(ran+ms(20, 90), code, ms(8, 120)))
		j.delivered(j.attempt(ended+ms(20, 90), code, ms(8, 120)))
	}
}

// latest are jobs of the last minutes, all of them quick.
func (s *scene) latest() {
	s.w.t.Helper()
	for i := range 14 {
		sec := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
		j := s.of(1, 0x5c3300+i*41, sec(float64(18+i*12)))
		j.started(sec(0.6)).podStarted(sec(2.2)).completed(sec(0.6), sec(2.2), sec(5.1))
		j.delivered(j.attempt(sec(0.7), 204, sec(0.02))).delivered(j.attempt(sec(2.3), 204, sec(0.02))).delivered(j.attempt(sec(5.2), 204, sec(0.02)))
	}
}

// special are jobs with a story.
func (s *scene) special() {
	s.w.t.Helper()
	sec := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

	j := s.of(0, 417, 9*time.Minute)
	j.endpoint = partner
	j.started(sec(1.4)).podStarted(sec(39.8))
	j.failed(sec(1.4), sec(39.8), sec(372), "OOM_KILLED", `container "billing" was killed: it used more than its memory limit of 512Mi`, &jobsv1.Evidence{
		Container: "billing", ExitCode: 137, Signal: 9, Reason: "OOMKilled", RestartCount: 2,
		LogTail: "rendering page 811 of 2204\nrendering page 812 of 2204\nheap 508 MiB, limit 512 MiB",
	})
	j.delivered(j.attempt(sec(1.5), 503, sec(0.21)), j.attempt(sec(6.7), 0, sec(15)), j.attempt(sec(52.1), 204, sec(0.34)))
	j.delivered(j.attempt(sec(53), 204, sec(0.09)))
	j.parked(s.now.Add(4*time.Minute), j.attempt(sec(372.2), 500, sec(1.1)), j.attempt(sec(377.9), 500, sec(0.9)), j.attempt(sec(409), 429, sec(0.05)))
	s.invoice = j

	j = s.of(0, 418, 6*time.Minute)
	j.started(sec(0.9)).podStarted(sec(4.2)).completed(sec(0.9), sec(4.2), sec(13.6))
	j.delivered(j.attempt(sec(1), 204, sec(0.04))).delivered(j.attempt(sec(4.3), 204, sec(0.03))).delivered(j.attempt(sec(13.7), 200, sec(0.05)))
	s.order = j

	j = s.of(2, 20261128, 22*time.Minute)
	j.started(sec(1.1)).podStarted(sec(11))
	j.delivered(j.attempt(sec(1.2), 204, sec(0.06))).delivered(j.attempt(sec(11.1), 204, sec(0.04)))
	s.running = j
	for i, ago := range []float64{41, 95, 260} {
		j := s.of(1, 900_001+i, sec(ago))
		j.started(sec(0.8)).podStarted(sec(3.1))
		j.delivered(j.attempt(sec(0.9), 204, sec(0.02))).delivered(j.attempt(sec(3.2), 204, sec(0.02)))
	}

	j = s.of(3, 31, 75*time.Second)
	j.started(sec(1.2)).delivered(j.attempt(sec(1.3), 204, sec(0.4)))
	s.started = j

	s.all++
	j = s.w.job(job{id: "nightly-training-57", service: "ml.training", namespace: "ml", image: exampleTrim + "ml/train:3", prefix: "train", queued: s.ago(33 * time.Minute), endpoint: warehouse})
	j.started(sec(1.3))
	j.exception(sec(921), "UNSCHEDULABLE", "No node could take the Pod: 0/12 nodes are available: 4 node(s) had untolerated taint {gpu: reserved}, 8 Insufficient nvidia.com/gpu.")
	j.delivered(j.attempt(sec(1.4), 204, sec(0.03))).delivered(j.attempt(sec(921.1), 204, sec(0.03)))
	s.training = j

	s.all++
	j = s.w.job(job{id: "nightly-training-58", service: "ml.training", namespace: "ml", image: exampleTrim + "ml/train:3", prefix: "train", queued: s.ago(26 * time.Minute), endpoint: warehouse})
	j.started(sec(1.3)).podStarted(sec(14)).exception(sec(301), "CANCELLED", "Cancelled by an operator: the data of last night are wrong.")
	j.delivered(j.attempt(sec(1.4), 204, sec(0.03))).delivered(j.attempt(sec(14.1), 204, sec(0.03))).delivered(j.attempt(sec(301.1), 204, sec(0.03)))
	s.cancelled = j

	s.deadLetters()
}

// deadLetters are callbacks that nobody took.
func (s *scene) deadLetters() {
	s.w.t.Helper()
	sec := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	all := []event.Type{event.TypeJobStarted, event.TypePodStarted, event.TypeJobCompleted}

	// A day ago, and tried for a day.
	s.all++
	j := s.w.job(job{id: "customer-88121-export", service: "billing", namespace: "billing", image: exampleTrim + "billing/export:9", prefix: "export", queued: s.ago(25 * time.Hour), endpoint: oldCRM})
	j.started(sec(1)).podStarted(sec(3)).completed(sec(1), sec(3), sec(45))
	var attempts []delivery.Attempt
	for i, after := range []float64{1, 6, 36, 156, 456, 1356, 3156, 6756, 13956, 28356, 57156, 85956} {
		attempts = append(attempts, j.attempt(sec(after), []int{502, 502, 0}[i%3], []time.Duration{sec(0.3), sec(0.2), sec(5)}[i%3]))
	}
	s.lost = j.letters(delivery.ReasonExhausted, j.queued.Add(24*time.Hour), all, attempts...)

	s.all++
	j = s.w.job(job{id: "customer-88122-export", service: "billing", namespace: "billing", image: exampleTrim + "billing/export:9", prefix: "export", queued: s.ago(70 * time.Minute), endpoint: oldCRM})
	j.started(sec(1)).podStarted(sec(3)).completed(sec(1), sec(3), sec(41))
	j.letters(delivery.ReasonGone, j.queued.Add(sec(1.2)), all, j.attempt(sec(1.1), 410, sec(0.1)))

	s.all++
	j = s.w.job(job{id: "campaign:autumn:7", service: "mail", namespace: "mail", image: exampleTrim + "mail/campaign:17", prefix: "mail", queued: s.ago(3 * time.Hour), endpoint: partner})
	j.started(sec(1)).podStarted(sec(3)).completed(sec(1), sec(3), sec(31))
	refused := delivery.Done{At: j.queued.Add(time.Hour), Reason: delivery.ReasonRefused, Code: 422, Attempts: []delivery.Attempt{
		j.attempt(sec(1.1), 422, sec(0.1)), j.attempt(sec(61), 422, sec(0.1)), j.attempt(sec(361), 422, sec(0.1)), j.attempt(sec(1261), 422, sec(0.1)), j.attempt(sec(3600), 422, sec(0.1)),
	}}
	letter := j.letter(0, event.TypeJobStarted, refused)
	s.w.at(refused.At, func() {
		s.w.must(s.w.PutLetter(s.w.t.Context(), letter.Delivered("r1f2e3d4c5b6a798", s.ago(50*time.Minute))))
	})
	j.advance(refused)
	j.delivered(j.attempt(sec(3601), 204, sec(0.2))).delivered(j.attempt(sec(3602), 204, sec(0.2)))

	// Parked, of an endpoint that fails now.
	for i, n := range []float64{31, 47, 66, 128, 214} {
		j := s.of(3, 100+i, sec(n))
		j.started(sec(0.7))
		j.parked(s.now.Add(sec(20*n)), j.attempt(sec(0.8), []int{503, 0}[i%2], sec(2)), j.attempt(sec(5.9), 503, sec(1)))
	}
}

// refused are messages that were not accepted.
func (s *scene) refused() {
	s.w.t.Helper()
	s.invalid = s.w.refuse(s.ago(4*time.Minute), "invoice-2026-11-0500", "billing", "MESSAGE_INVALID", "$.job.image is required, and 2 more.",
		`{"id":"invoice-2026-11-0500","service":"billing","job":{"prefixName":"inv_","namespace":"billing","resources":{"limits":{"memory":"half a gig"}}},"webhook":{"url":"https://hooks.shop.example/jobs"}}`,
		&jobsv1.Problem{Path: "$.job.image", Code: "required", Message: "is required"},
		&jobsv1.Problem{Path: "$.job.prefixName", Code: "format", Message: "must be lower-case letters, digits and dashes, and start with a letter"},
		&jobsv1.Problem{Path: "$.job.resources.limits.memory", Code: "quantity", Message: "is no quantity of Kubernetes, such as 512Mi"})
	s.denied = s.w.refuse(s.ago(17*time.Minute), "photo-0badf0", "thumbnails", "POLICY_DENIED", "$.job.namespace is not one of those that the policy allows thumbnails.",
		`{"id":"photo-0badf0","service":"thumbnails","job":{"prefixName":"thumb","namespace":"kube-system","image":"registry.shop.example/media/thumbs:5.2.0"}}`,
		&jobsv1.Problem{Path: "$.job.namespace", Code: "policy", Message: "is not one of those that the policy allows thumbnails"})
	s.reused = s.w.refuse(s.ago(41*time.Minute), s.order.id, "billing", "ID_REUSED", "$.id the id was accepted before with a different request; an id is spent for 15 days.",
		`{"id":"`+s.order.id+`","service":"billing","job":{"prefixName":"inv","namespace":"billing","image":"busybox"}}`,
		&jobsv1.Problem{Path: "$.id", Code: "reused", Message: "the id was accepted before with a different request; an id is spent for 15 days"})
	s.garbled = s.w.refuse(s.ago(2*time.Hour), "", "", "MESSAGE_INVALID", "$ is not JSON.", "<?xml version=\"1.0\"?>\n<job xmlns=\"urn:shop\">\x00\x1b[31m\xff\xfe</job>\n",
		&jobsv1.Problem{Path: "$", Code: "syntax", Message: "is not JSON: invalid character '<' looking for beginning of value"})
}

// waiting are launches that are parked: their requests the console does not read.
func (s *scene) waiting() {
	s.w.t.Helper()
	for i, cause := range []string{"QUOTA_EXCEEDED", "QUOTA_EXCEEDED", "waiting for one of 20 places of thumbnails"} {
		v := services[1]
		j := s.w.job(job{id: fmt.Sprintf(v.id, 0xabc000+i), service: v.name, namespace: v.namespace, image: v.image, prefix: v.prefix, endpoint: v.endpoint, queued: s.ago(time.Duration(2+i) * time.Minute)})
		s.w.at(j.queued.Add(time.Second), func() {
			s.w.schedule(broker.PurposeLaunch, j.key(), broker.ParkedLaunch{Key: j.key(), Tries: 40 - i, Cause: cause}, s.now.Add(time.Duration(2+i)*time.Minute))
		})
	}
}

func (s *scene) replicas() {
	s.w.t.Helper()
	last := func(ago time.Duration, code int) delivery.Attempt {
		return delivery.Attempt{At: s.ago(ago), Class: delivery.Unwell, Code: code, Milliseconds: 5000}
	}
	one := replica("notifier", "one", "callbacks", "ok")
	one.Failing = 2
	one.Endpoints = []broker.Endpoint{
		{Name: oldCRM, Breaker: "open", Since: s.ago(25 * time.Hour), Until: s.now.Add(7 * time.Minute), Failures: 212, Limit: 1, Waiting: 3, Last: last(3*time.Minute, 0), Cause: "connection refused"},
		{Name: partner, Breaker: "half-open", Since: s.ago(4 * time.Minute), Until: s.now.Add(20 * time.Second), Failures: 7, Limit: 2, InFlight: 1, Waiting: 11, Last: last(20*time.Second, 503), Cause: "503"},
	}
	late := replica("watcher", "two", "leader", "stands by", "kubernetes", "ok")
	ingest := replica("ingest", "two", "queue jobs", "the last poll failed: the queue does not exist")
	ingest.Ready = false
	s.w.reports(
		replica("ingest", "one", "queue jobs", "ok"), ingest,
		replica("launcher", "one", "kubernetes", "ok"), replica("launcher", "two", "kubernetes", "ok"),
		replica("watcher", "one", "leader", "leads", "kubernetes", "ok"), late,
		one, replica("notifier", "two", "callbacks", "ok"),
	)
}
