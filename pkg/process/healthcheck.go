package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

const (
	healthcheckVerb = "healthcheck"
	// maxAnswer bounds what is read of a probe's answer, in bytes.
	maxAnswer = 4 << 10
)

// healthcheck asks a process of this host whether it is ready: for container
// images that hold nothing else that could.
func healthcheck(name string, args []string) int {
	var cli struct {
		MetricsAddr string        `name:"metrics-addr" default:":9090" help:"Address that the process serves /readyz on."`
		Live        bool          `name:"live" env:"-" help:"Ask only whether it lives (/healthz)."`
		Timeout     time.Duration `name:"timeout" env:"-" default:"3s" help:"How long to wait for an answer."`
	}
	parser, err := newParser(&cli, nil, kong.Name(name+" "+healthcheckVerb), kong.Description("Asks the running process whether it is ready: exit code 0, or 1 and one line that says why not."))
	if err == nil {
		_, err = parser.Parse(args)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", name, healthcheckVerb, err)
		return exitUsage
	}
	path := "/readyz"
	if cli.Live {
		path = "/healthz"
	}
	host, err := localAddress(cli.MetricsAddr)
	if err == nil {
		err = Healthy(context.Background(), "http://"+host+path, cli.Timeout)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s is not healthy: %v\n", name, err)
		return exitFailed
	}
	return 0
}

// localAddress is where a listener on address is reached from its own host.
func localAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("--metrics-addr: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// Healthy is nil where url answers 2xx within timeout. Its error says what the
// answer was.
func Healthy(ctx context.Context, url string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return &unhealthyError{strings.TrimSpace(string(body)), res.Status}
	}
	return nil
}

type unhealthyError struct{ answer, status string }

func (e *unhealthyError) Error() string {
	if e.answer == "" {
		return e.status
	}
	return e.answer
}

// AwaitReady waits until the process at address is ready; when ctx ends first,
// the error says what it was waiting for.
func AwaitReady(ctx context.Context, address string) error {
	last := "no answer yet"
	for {
		err := Healthy(ctx, "http://"+address+"/readyz", 5*time.Second)
		if err == nil {
			return nil
		}
		if answer := (*unhealthyError)(nil); errors.As(err, &answer) {
			last = answer.Error()
		}
		if err := Sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("not ready: %s: %w", last, context.Cause(ctx))
		}
	}
}
