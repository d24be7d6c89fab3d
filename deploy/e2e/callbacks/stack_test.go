//go:build e2e

// Package callbacks runs real notifiers, as processes around a real NATS server
// and a receiver of the test's own, ends and stops them at chosen places, and
// checks what the receiver heard and what the ledgers say.
package callbacks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/event/jobsv1"
	"github.com/jobrelay/jobrelay/pkg/failpoint"
)

// service of every job.
const service = "callbacks"

// stack is a NATS server, notifiers and a receiver.
type stack struct {
	dir       string
	url       string
	nats      *child.Process
	binary    string
	env       []string
	notifiers []*replica
	hooks     *receiver
	broker    *broker.Broker
	jobs      []*job
}

// replica is one notifier.
type replica struct{ *child.Process }

const (
	readyMost  = time.Minute
	answerMost = 5 * time.Second // of NATS
	poll       = 50 * time.Millisecond
)

// start starts NATS and the receiver; binary is the notifier's, env what its
// replicas are told beside the addresses.
func start(ctx context.Context, dir, binary string, env ...string) (_ *stack, err error) {
	bin := os.Getenv("JOBRELAY_BIN_DIR")
	if bin == "" {
		return nil, errors.New("JOBRELAY_BIN_DIR names no folder of binaries: run make e2e or make mutants")
	}
	s := &stack{dir: dir, binary: binary}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.startNATS(ctx, filepath.Join(bin, "nats-server")); err != nil {
		return nil, err
	}
	if s.hooks, err = newReceiver(); err != nil {
		return nil, err
	}
	s.env = append(child.CleanEnvironment(), "JOBRELAY_NATS_URL="+s.url, "JOBRELAY_WEBHOOK_ALLOW=127.0.0.0/8", "JOBRELAY_LOG_FORMAT=json",
		"JOBRELAY_BREAKER_OPEN=100ms", "JOBRELAY_BREAKER_MOST=500ms") // some receivers never do well
	s.env = append(s.env, env...)
	opening, cancel := context.WithTimeout(ctx, readyMost)
	defer cancel()
	s.broker, err = broker.Open(opening, broker.Config{URL: s.url, Role: "e2e"}, zerolog.Nop())
	return s, err
}

func (s *stack) startNATS(ctx context.Context, binary string) error {
	return onFreePorts(ctx, 2, func(addresses []string) (*child.Process, string, error) {
		conf := filepath.Join(s.dir, "nats.conf")
		text := fmt.Sprintf("listen: %q\nhttp: %q\nmax_payload: 2MB\njetstream { store_dir: %q }\n", addresses[0], addresses[1], filepath.Join(s.dir, "nats"))
		s.url = "nats://" + addresses[0]
		s.nats = &child.Process{Name: "nats", Binary: binary, Args: []string{"-c", conf}, Env: child.CleanEnvironment(), Log: filepath.Join(s.dir, "nats.log")}
		return s.nats, "http://" + addresses[1] + "/healthz?js-enabled-only=true", os.WriteFile(conf, []byte(text), 0o600)
	})
}

// notifier starts one more, and waits until it is ready.
func (s *stack) notifier(ctx context.Context, env ...string) (*replica, error) {
	name := fmt.Sprintf("notifier-%d", len(s.notifiers)+1)
	r := &replica{&child.Process{Name: name}}
	err := onFreePorts(ctx, 1, func(addresses []string) (*child.Process, string, error) {
		r.Process = &child.Process{
			Name: name, Binary: s.binary, Log: filepath.Join(s.dir, name+".log"),
			Env: slices.Concat(s.env, []string{"JOBRELAY_METRICS_ADDR=" + addresses[0]}, env),
		}
		return r.Process, "http://" + addresses[0] + "/readyz", nil
	})
	s.notifiers = append(s.notifiers, r)
	return r, err
}

// portTries bounds the starts of one process: a port that was free may be
// somebody's by the time it listens.
const portTries = 3

// onFreePorts starts a process that listens on n ports, and waits until its
// health page answers.
func onFreePorts(ctx context.Context, n int, process func(addresses []string) (p *child.Process, health string, err error)) error {
	for try := 1; ; try++ {
		ports, err := child.FreePorts(n)
		if err != nil {
			return err
		}
		var addresses []string
		for _, port := range ports {
			addresses = append(addresses, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		}
		p, health, err := process(addresses)
		if err != nil {
			return err
		}
		if err := p.Start(); err != nil {
			return err
		}
		if err := await(ctx, p.Name+" is ready", readyMost, func() bool { return !p.Running() || answers(health) }); err != nil {
			return err
		}
		if p.Running() {
			return nil
		}
		if try == portTries {
			return fmt.Errorf("%s does not start:\n%s", p.Name, p.LastLines())
		}
	}
}

// failpointEnv arms a failpoint; pkg/failpoint has it only in binaries of its tag.
const failpointEnv = "JOBRELAY_FAILPOINT="

func armedWith(p failpoint.Point, action string) string {
	return failpointEnv + string(p) + "=" + action
}

// unarmed starts a replica that a failpoint ended, without it.
func (r *replica) unarmed() error {
	r.Env = slices.DeleteFunc(r.Env, func(v string) bool { return strings.HasPrefix(v, failpointEnv) })
	return r.Start()
}

// at reports whether the replica came to the failpoint.
func (r *replica) at(p failpoint.Point) bool {
	b, err := os.ReadFile(r.Log)
	return err == nil && strings.Contains(string(b), "failpoint "+string(p)+": ")
}

// stop ends all, whatever is frozen or dead already.
func (s *stack) stop() error {
	var failed []error
	for _, r := range s.notifiers {
		failed = append(failed, r.Stop())
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.nats != nil {
		failed = append(failed, s.nats.Stop())
	}
	if s.hooks != nil {
		ctx, cancel := context.WithTimeout(context.Background(), readyMost)
		defer cancel()
		failed = append(failed, s.hooks.stop(ctx))
	}
	return errors.Join(failed...)
}

// logs are the ends of what the notifiers said.
func (s *stack) logs() string {
	var out strings.Builder
	for _, r := range s.notifiers {
		fmt.Fprintf(&out, "%s ends with:\n%s\n", r.Name, r.LastLines())
	}
	return out.String()
}

// accept stores the request of a job. It may be called again.
func (s *stack) accept(ctx context.Context, j *job) error {
	hook := &jobsv1.Webhook{Url: s.hooks.address(j), Statuses: j.kind.statuses()}
	e, err := event.New(j.key, "e2e", j.id, 0, time.Now(), &jobsv1.JobRequested{Id: j.id, Service: service, Webhook: hook})
	if err != nil {
		return err
	}
	if err := s.broker.Accept(ctx, e); err != nil && !errors.Is(err, broker.ErrConflict) {
		return err
	}
	return nil
}

// events of a job that succeeds; their ordinals are their callbacks' statuses.
func events() []proto.Message {
	return []proto.Message{&jobsv1.JobStarted{JobId: "u"}, &jobsv1.PodStarted{JobId: "u"}, &jobsv1.JobCompleted{JobId: "u"}}
}

// append puts the job's event n on its log. It may be called again.
func (s *stack) append(ctx context.Context, j *job, n int) error {
	tail, err := s.broker.Tail(ctx, service, j.key)
	if err != nil || tail.Next() > n {
		return err
	}
	e, err := event.New(j.key, "e2e", j.id, 0, time.Now(), events()[n])
	if err != nil {
		return err
	}
	_, err = s.broker.Append(ctx, service, tail, e)
	return err
}

// work is what is left for the notifiers to do.
type work struct {
	unacknowledged int // handed out and not acknowledged, or not handed out yet
	parked         int // schedules and wake-ups
	awake          int // wake-ups, as unacknowledged
}

func (s *stack) work(ctx context.Context) (work, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMost)
	defer cancel()
	js := s.broker.JetStream()
	log, err0 := js.Stream(ctx, broker.StreamEvents)
	events, err1 := js.Consumer(ctx, broker.StreamEvents, broker.NotifierEvents.Name)
	wakeups, err2 := js.Stream(ctx, broker.StreamWakeups)
	awake, err3 := js.Consumer(ctx, broker.StreamWakeups, broker.NotifierWakeups.Name)
	if err := errors.Join(err0, err1, err2, err3); err != nil {
		return work{}, err
	}
	i, last := events.CachedInfo(), log.CachedInfo().State.LastSeq
	a := awake.CachedInfo()
	w := work{
		unacknowledged: i.NumAckPending + int(i.NumPending), parked: int(wakeups.CachedInfo().State.Msgs),
		awake: a.NumAckPending + int(a.NumPending),
	}
	if w.unacknowledged == 0 && i.AckFloor.Stream < last { // the server counts what is pending some time after it has stored it
		w.unacknowledged = int(last - i.AckFloor.Stream)
	}
	return w, nil
}

// idle reports whether nothing is in hand, pending or parked.
func (s *stack) idle(ctx context.Context) bool {
	w, err := s.work(ctx)
	return err == nil && w == work{}
}

// check is what the receiver heard and what the ledgers say against what was
// promised for each job.
func (s *stack) check(ctx context.Context) ([]string, error) {
	violations := s.hooks.check(s.jobs)
	letters := map[string]string{} // statuses of each id's dead letters
	if err := s.broker.Letters(ctx, broker.LetterFilter{}, func(l delivery.Letter) error {
		letters[l.ID] += fmt.Sprint(l.N)
		return nil
	}); err != nil {
		return nil, err
	}
	for _, j := range s.jobs {
		if want := map[kind]string{gone: "012", refusing: "1"}[j.kind]; sorted(letters[j.id]) != want {
			violations = append(violations, fmt.Sprintf("%s has dead letters of %q, not of %q", j.id, letters[j.id], want))
		}
		l, err := s.broker.Ledger(ctx, j.key)
		if err != nil {
			return nil, err
		}
		if j.kind == gone && l.GaveUp == nil {
			violations = append(violations, j.id+" is not given up in its ledger")
		}
		if l.Next != len(events()) {
			violations = append(violations, fmt.Sprintf("%s has next %d in its ledger, and %d events", j.id, l.Next, len(events())))
		}
		if len(l.Wait) > 0 {
			violations = append(violations, fmt.Sprintf("%s has tokens %v waiting in its ledger", j.id, l.Wait))
		}
	}
	return violations, nil
}

// sorted are the characters in order: a letter that is stored again comes last.
func sorted(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(b)
}

var probe = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func answers(url string) bool {
	res, err := probe.Get(url)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// await waits until ok; what is not in time is an error.
func await(ctx context.Context, what string, most time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s", what, most)
		case <-tick.C:
		}
	}
	return nil
}
