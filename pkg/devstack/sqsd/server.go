// Package sqsd is an SQS endpoint for tests and the development stack: what
// jobrelay needs of Amazon SQS, with its semantics, limits and error codes, in
// one process and with switches for faults. It speaks the AWS JSON protocol
// 1.0, which the current SDKs use; signatures and credentials are not checked.
//
// It serves CreateQueue, GetQueueUrl, ListQueues, GetQueueAttributes,
// SetQueueAttributes, DeleteQueue, PurgeQueue, SendMessage, ReceiveMessage,
// DeleteMessage, ChangeMessageVisibility and the three batch actions. Where it
// knowingly differs from AWS, the function concerned says so.
package sqsd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/jobrelay/jobrelay/pkg/drain"
)

const (
	// maxRequestBody bounds a request. A message of 1 MiB can be several times
	// as long in JSON, escaped or as base64.
	maxRequestBody = 8 << 20
	maxHeaderBytes = 64 << 10

	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 30 * time.Second // counted from when the answer is known
	idleTimeout       = 2 * time.Minute
)

// Config says where the endpoint listens and keeps its queues.
type Config struct {
	Addr   string // host:port; port 0 takes a free one. Default "127.0.0.1:0"
	Dir    string // state is kept in Dir/sqs.db, for one process at a time. Empty: in memory
	Region string // of the queues' ARNs. Default us-east-1
	Clock  Clock  // default: the time of day

	// MaxInFlight is how many messages of one queue can be received and not
	// deleted. Default 120,000, the quota of SQS.
	MaxInFlight int
}

// Server is a running endpoint.
type Server struct {
	addr    string
	base    string
	http    *drain.Server
	account *account
	faults  *Faults
	calls   map[string]*calls
	metrics http.Handler

	stopping context.Context // ends waiting polls and injected latency
	stop     context.CancelFunc
	endPolls context.CancelFunc
	closed   func() error
}

// Start opens the queues and serves them until Stop. A taken address and a
// state file that cannot be read or is in use are errors.
//
// With Config.Dir a change is on disk before it is answered: a killed endpoint
// loses no acknowledged send and brings no acknowledged delete back, and what
// is in flight keeps its visibility timeout over a restart.
func Start(cfg Config) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = maxInFlight
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("sqsd: listen on %s, is it in use? %w", cfg.Addr, err)
	}
	s := &Server{addr: ln.Addr().String(), faults: newFaults()}
	s.base = "http://" + reachable(s.addr)
	s.stopping, s.stop = context.WithCancel(context.Background())
	var polling context.Context
	polling, s.endPolls = context.WithCancel(s.stopping)
	if s.account, err = openAccount(cfg, polling.Done()); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s.closed = sync.OnceValue(s.account.store.close)
	m := newMetrics(s.account)
	s.calls, s.metrics = m.calls, m.handler()
	s.http = drain.New(&http.Server{
		Handler:           http.HandlerFunc(s.serve),
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
	})
	go func() { _ = s.http.Serve(ln) }() // ends by Stop
	return s, nil
}

// reachable replaces an address that means all interfaces by the loopback's.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// Addr is the host:port that the endpoint listens on.
func (s *Server) Addr() string { return s.addr }

// URL is the endpoint for a client's BaseEndpoint or AWS_ENDPOINT_URL_SQS.
func (s *Server) URL() string { return s.base }

// QueueURL is the URL of the queue with the name, whether it exists or not.
func (s *Server) QueueURL(name string) string { return call{base: s.base}.queueURL(name) }

// Faults are the endpoint's fault switches, at first all off.
func (s *Server) Faults() *Faults { return s.faults }

// CreateQueue does what the action of that name does, without HTTP: it returns
// the URL of a new queue, or of the one there is when no given attribute
// differs. attributes may be nil. The error is an *Error.
func (s *Server) CreateQueue(name string, attributes map[string]string) (queueURL string, err error) {
	if err := s.account.createQueue(name, attributes); err != nil {
		return "", fmt.Errorf("sqsd: create the queue %q: %w", name, err)
	}
	return s.QueueURL(name), nil
}

// EndPolls answers waiting polls, and those to come, at once. All else goes on:
// receivers that stop can still delete and give back what they hold.
func (s *Server) EndPolls() { s.endPolls() }

// Stop answers waiting polls at once with no messages, lets the other answers
// finish and closes the state file. When ctx ends first it closes the
// connections anyway and returns its error. Later calls change nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.stop()
	err := s.http.Stop(ctx)
	if err != nil {
		err = fmt.Errorf("sqsd: stopped before all requests were answered: %w", err)
	}
	return errors.Join(err, s.closed())
}

type handler func(ctx context.Context, c call, body []byte) (any, error)

// action gives a typed action the form of the others.
func action[In, Out any](do func(context.Context, call, In) (Out, error)) handler {
	return func(ctx context.Context, c call, body []byte) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, errMalformedRequest(err)
		}
		return do(ctx, c, in)
	}
}

var actions = map[string]handler{
	"ChangeMessageVisibility":      action(changeMessageVisibility),
	"ChangeMessageVisibilityBatch": action(changeMessageVisibilityBatch),
	"CreateQueue":                  action(createQueue),
	"DeleteMessage":                action(deleteMessage),
	"DeleteMessageBatch":           action(deleteMessageBatch),
	"DeleteQueue":                  action(deleteQueue),
	"GetQueueAttributes":           action(getQueueAttributes),
	"GetQueueUrl":                  action(getQueueURL),
	"ListQueues":                   action(listQueues),
	"PurgeQueue":                   action(purgeQueue),
	"ReceiveMessage":               action(receiveMessage),
	"SendMessage":                  action(sendMessage),
	"SendMessageBatch":             action(sendMessageBatch),
	"SetQueueAttributes":           action(setQueueAttributes),
}

// healthPath answers 200 to a GET, for whoever waits for the endpoint.
const healthPath = "/healthz"

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == healthPath {
		return // 200
	}
	if r.Method == http.MethodGet && r.URL.Path == metricsPath {
		s.metrics.ServeHTTP(w, r)
		return
	}
	// The whole body is read before anything is answered: a client that is
	// still writing when the answer comes may lose it with its connection.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		answer(w, nil, errRequestTooLarge())
		return
	}
	if err != nil {
		return // the client went away while it was sending
	}
	// The read deadline was for the request; a poll waits longer.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})

	target := r.Header.Get("X-Amz-Target")
	name, ours := strings.CutPrefix(target, "AmazonSQS.")
	do := actions[name]
	if r.Method != http.MethodPost || !ours || do == nil {
		answer(w, nil, errInvalidAction(target))
		return
	}
	s.calls[name].arrive(time.Now())
	defer func() { s.calls[name].answer(time.Now()) }()
	v := s.faults.judge(name)
	if !s.delay(r.Context(), v.latency) {
		panic(http.ErrAbortHandler)
	}
	if v.fail != 0 {
		answer(w, nil, errInjected(v.fail))
		return
	}
	c := call{account: s.account, base: s.base, duplicate: v.duplicate, refuse: func() bool { return s.faults.refuse(name) }}
	if r.Host != "" {
		c.base = "http://" + r.Host // the name by which this client reaches the endpoint
	}
	out, err := do(r.Context(), c, body)
	if v.drop {
		panic(http.ErrAbortHandler) // closes the connection
	}
	answer(w, out, err)
}

// delay returns false when the wait was cut short.
func (s *Server) delay(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-s.stopping.Done():
	}
	return false
}

func answer(w http.ResponseWriter, out any, err error) {
	status := http.StatusOK
	if err != nil {
		var known *Error
		if !errors.As(err, &known) {
			known = errInternal(err)
		}
		fault := "Receiver"
		if known.senderFault() {
			fault = "Sender"
		}
		status = known.Status
		w.Header().Set("x-amzn-query-error", known.Code+";"+fault)
		out = map[string]string{"__type": known.Type, "message": known.Message}
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Sprintf("sqsd: an answer that is not JSON: %v", err)) // answers are ours
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.Header().Set("x-amzn-RequestId", uuid.NewString())
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away misses its answer
}
