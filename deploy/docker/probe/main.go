// Command probe asks one address: the health check of images that hold no
// shell, and what switches toxiproxy's links. It is bound into the container
// of NATS, so that any image of NATS can be asked.
//
//	probe URL        GET it
//	probe URL JSON   POST the JSON to it
//
// A 2xx is exit code 0; all else is 1, with one line that says what came.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	timeout   = 3 * time.Second
	maxAnswer = 4 << 10
)

func main() {
	if len(os.Args) != 2 && len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: probe URL [JSON]")
		os.Exit(2)
	}
	if err := ask(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func ask(url string, body []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	method, payload := http.MethodGet, io.Reader(http.NoBody)
	if len(body) == 1 {
		method, payload = http.MethodPost, strings.NewReader(body[0])
	}
	req, err := http.NewRequestWithContext(ctx, method, url, payload) //nolint:gosec // it asks what its caller names
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req) //nolint:gosec // as above
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s answered %s: %s", url, res.Status, strings.TrimSpace(string(answer)))
	}
	return err
}
