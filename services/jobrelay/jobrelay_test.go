package jobrelay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/callback"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/child"
	"github.com/jobrelay/jobrelay/pkg/devstack/natsd"
	"github.com/jobrelay/jobrelay/pkg/devstack/sqsd"
	"github.com/jobrelay/jobrelay/pkg/event"
	"github.com/jobrelay/jobrelay/pkg/process"
	"github.com/jobrelay/jobrelay/pkg/request"
	"github.com/jobrelay/jobrelay/pkg/webhook"
	"github.com/jobrelay/jobrelay/services/ingest"
)

func TestMain(m *testing.M) {
	main := func() { os.Exit(Main()) } // by the name that it is called by
	testscript.Main(m, map[string]func(){"jobrelay": main, "ingest": main, "launcher": main, "watcher": main, "notifier": main})
}

// TestCommands runs what people type, as processes of their own, beside a real
// NATS and a real SQS endpoint.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor, "until": until, "until-count": untilCount, "exits": exits, "ingesting": ingesting, "keep": keep, "giveup": giveUp, "failing": notReached,
			"happened": happened, "until-tailed": untilTailed,
		},
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			n, err := natsd.Start(context.Background(), natsd.Config{Dir: env.Cd + "/nats"})
			if err != nil {
				return err
			}
			env.Defer(n.Stop)
			q, err := sqsd.Start(sqsd.Config{})
			if err != nil {
				return err
			}
			env.Defer(func() { _ = q.Stop(context.Background()) })
			queues := map[string]string{}
			for _, name := range []string{"jobs", "jobs.fifo", "dead", "redriven"} {
				if queues[name], err = q.CreateQueue(name, queueAttributes[name]); err != nil {
					return err
				}
			}
			env.Values["sqs"] = q
			ports, err := child.FreePorts(1)
			if err != nil {
				return err
			}
			recordings, err := filepath.Abs("../../pkg/jobstatus/testdata/recordings")
			if err != nil {
				return err
			}
			env.Vars = append(env.Vars, "PORT="+strconv.Itoa(ports[0]), "RECORDINGS="+recordings, "NATS="+n.URL(), "QUEUE="+queues["jobs"], "FIFO="+queues["jobs.fifo"], "REDRIVEN="+queues["redriven"], "AWS_ENDPOINT_URL_SQS="+q.URL(),
				"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=us-east-1")
			return os.WriteFile(env.Cd+"/sample.json", request.Sample, 0o600)
		},
	})
}

// queueAttributes are those of the queues that have some.
var queueAttributes = map[string]map[string]string{
	"jobs.fifo": {"FifoQueue": "true"},
	"redriven":  {"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":2}`},
}

// TestDemo runs the whole pipeline in this process, so that the race detector
// sees it.
func TestDemo(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := (&demoCommand{}).Run(t.Context(), &console{out: out, log: process.Log{Level: "debug", Format: "json"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"status":0,"detail":{"jobId":`, `"status":1,"detail":{"podId":`, `"status":2,"detail":{"duration":`, "dev.jobrelay.job.completed.v1"} {
		if strings.Count(string(b), want) != 1 {
			t.Errorf("%s is not there once:\n%s", want, b)
		}
	}
}

// TestREADME: the message that it shows is one, and the commands that it and
// docs/commands.md show can be typed.
func TestREADME(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(b, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d JSON examples", len(blocks))
	}
	parsed := request.Parse(blocks[0][1], request.Options{Strict: true})
	if parsed.Request == nil || len(parsed.Warnings) > 0 {
		t.Errorf("%v %v", parsed.Problems, parsed.Warnings)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range regexp.MustCompile(`(?m)^make ([a-z]+)`).FindAllSubmatch(b, -1) {
		if !strings.Contains(string(makefile), "\n"+string(target[1])+": ") {
			t.Errorf("make %s is not there", target[1])
		}
	}
	commands, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&cli{}, kong.Vars{"version": "", "loopback": ""})
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^(?:bin/|\$ )?jobrelay ([^#\n]+)`).FindAllSubmatch(append(b, commands...), -1)
	if len(shown) < 10 {
		t.Errorf("%d commands are shown", len(shown))
	}
	for _, command := range shown {
		args := strings.Fields(string(command[1]))
		if args[0] == "--help" {
			continue
		}
		if _, err := parser.Parse(args); err != nil {
			t.Errorf("jobrelay %s: %v", command[1], err)
		}
	}
}

func TestDescriptionIsAsOthersReadIt(t *testing.T) {
	var d description
	d.Metrics = map[string]string{"ingest": "", "launcher": "", "watcher": "", "notifier": ""}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"sqs":{"endpoint":"","queueUrl":"","region":""},"nats":{"url":"","eventsStream":""},"kubernetes":{"kubeconfig":""},"webhooks":{"url":""},"console":{"url":""},"metrics":{"ingest":"","launcher":"","notifier":"","watcher":""}}`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
}

func TestAStackThatCannotStartSaysWhy(t *testing.T) {
	t.Setenv("JOBRELAY_KUBE_BIN", "/nonexistent")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	_, err := startStack(ctx, stackConfig{Dir: dir, Progress: &strings.Builder{}})
	if err == nil || !strings.Contains(err.Error(), "JOBRELAY_KUBE_BIN") {
		t.Errorf("got %v", err)
	}
	if _, err := readDescription(dir); err == nil || !strings.Contains(err.Error(), "no jobrelay dev is running") {
		t.Errorf("got %v", err)
	}
}

// waitFor waits until a file is there.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, args[0]+" is not there", func() bool {
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil
	})
}

// until runs a command again and again until it succeeds.
func until(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, fmt.Sprint(args, " does not succeed"), func() bool { return ts.Exec(args[0], args[1:]...) == nil })
}

// untilCount runs a command until it prints so many lines.
func untilCount(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	eventually(ts, fmt.Sprint(args[1:], " does not print ", want, " lines"), func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && strings.Count(ts.ReadFile("stdout"), "\n") == want
	})
}

// eventually is await.That for a script.
func eventually(ts *testscript.TestScript, otherwise string, ok func() bool) {
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			ts.Fatalf("%s", otherwise)
		case <-tick.C:
		}
	}
}

// exits runs a command that ends with the exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v, not exit code %s", err, args[0])
	}
}

// ingesting runs ingest between the script's queue and its NATS, to its end.
func ingesting(ts *testscript.TestScript, _ bool, _ []string) {
	sqs, ok := ts.Value("sqs").(*sqsd.Server)
	if !ok {
		ts.Fatalf("no queue")
	}
	var cfg ingest.Config
	ts.Check(process.Parse(&cfg, nil, "--nats-url="+ts.Getenv("NATS"), "--sqs-queue-url="+ts.Getenv("QUEUE"), "--metrics-addr=127.0.0.1:"+ts.Getenv("PORT")))
	cfg.Endpoint = sqs.URL()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ingest.Run(ctx, cfg, zerolog.Nop()) }()
	ts.Defer(func() {
		cancel()
		sqs.EndPolls()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			ts.Logf("ingest: %v", err)
		}
	})
	until(ts, false, []string{"ingest", "healthcheck", "--metrics-addr=127.0.0.1:" + ts.Getenv("PORT")})
}

// keep puts the first log key that a command prints into a variable.
func keep(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("jobrelay", args[1:]...))
	found := regexp.MustCompile(`"logKey":"([^"]+)"`).FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("no log key")
	}
	ts.Setenv(args[0], found[1])
}

// giveUp stores dead letters as a notifier does: of an id, its service, the address
// and the statuses. Those of the service untried had no attempt: their endpoint was
// left alone.
func giveUp(ts *testscript.TestScript, _ bool, args []string) {
	b, err := broker.OpenAdmin(context.Background(), broker.Access{URL: ts.Getenv("NATS")}, zerolog.Nop())
	ts.Check(err)
	defer b.Close()
	key, now := event.Key(args[0]), time.Now()
	for n, status := range args[3:] {
		s, err := strconv.Atoi(status)
		ts.Check(err)
		tried := []delivery.Attempt{{At: now.UTC(), Class: delivery.Unwell, Code: 503, Milliseconds: 12}}
		if args[1] == "untried" {
			tried = nil
		}
		ts.Check(b.PutLetter(context.Background(), delivery.Letter{
			LogKey: key, N: n, ID: args[0], Service: args[1], Status: s, URL: args[2], Endpoint: webhook.Endpoint(args[2]), WebhookID: callback.ID(key, n),
			Body: fmt.Appendf(nil, `{"id":%q,"status":%d}`, args[0], s), Reason: delivery.ReasonExhausted, At: now.UTC(),
			Attempts: tried,
		}))
	}
}

// notReached reports as a notifier does whose attempts at an endpoint fail, and parks
// callbacks for it: the replica, the endpoint, the breaker, how many.
func notReached(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	b, err := broker.OpenAdmin(ctx, broker.Access{URL: ts.Getenv("NATS")}, zerolog.Nop())
	ts.Check(err)
	defer b.Close()
	now := time.Now().UTC()
	e := broker.Endpoint{
		Name: args[1], Breaker: args[2], Since: now.Add(-90 * time.Second), Failures: 7, Limit: 1,
		Last: delivery.Attempt{At: now, Class: delivery.Unwell, Code: 503, Milliseconds: 4}, Cause: webhook.CauseStatus,
	}
	if e.Breaker == string(delivery.Open) {
		e.Until = now.Add(time.Hour)
	}
	ts.Check(b.Report(ctx, broker.Status{Role: "notifier", Instance: args[0], Started: now, At: now, Ready: true, Failing: 1, Endpoints: []broker.Endpoint{e}}))
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	for i := range n {
		w := delivery.Wakeup{Key: event.Key(args[0] + strconv.Itoa(i)), First: now, Endpoint: args[1]}
		payload, err := json.Marshal(w)
		ts.Check(err)
		ts.Check(b.Schedule(ctx, broker.Wakeup{Purpose: broker.PurposeCallback, Token: w.Token(), Payload: payload}, now.Add(time.Hour)))
	}
}
