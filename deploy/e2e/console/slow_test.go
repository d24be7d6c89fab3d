//go:build browser && linux

package console

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

// TestASlowBrowserSlowsNobody: browsers that read nothing are cut off, cost no memory
// that grows, and others see each event within a second all the while.
func TestASlowBrowserSlowsNobody(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	c := s.ready()
	b := open(t, c.url)
	b.shows("/jobs?service=billing")
	b.live()
	_, before, err := c.Usage()
	w.must(err)
	var slow []net.Conn
	for range 40 {
		slow = append(slow, stuck(t, c.url, "/live?page=jobs"))
	}
	flood := make(chan struct{})
	go func() {
		defer close(flood)
		w.many("flood", 6000, 400)
	}()
	var all []time.Duration
	for i := 0; ; i++ {
		j := w.job(job{id: fmt.Sprintf("beside-%d", i)})
		there := b.sees(j.id, has(j.id))
		j.started(0)
		all = append(all, there.within(j.stored()))
		select {
		case <-flood:
			report(t, "a job in the list, beside 40 browsers that read nothing and 400 events a second", all)
			_, after, err := c.Usage()
			w.must(err)
			t.Logf("the console's memory: %d MB before, %d MB after", before>>20, after>>20)
			if after > 200<<20 {
				t.Errorf("the console has %d MB", after>>20)
			}
			await.That(t, "those that read nothing are cut off", func() bool { return c.sample(t, "jobrelay_console_live") == 1 })
			if n := c.sample(t, "jobrelay_console_live_cut_total"); n != float64(len(slow)) {
				t.Errorf("%v were counted as cut off", n)
			}
			return
		default:
		}
	}
}

// stuck is a browser that asks for a path and never reads the answer.
func stuck(t *testing.T, base, path string) net.Conn {
	t.Helper()
	// With segments as small as these and nowhere to put them, the server's kernel keeps
	// some 50 KB for it, and then the server waits.
	small := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		called := c.Control(func(fd uintptr) {
			err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<10), syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536))
		})
		return errors.Join(called, err)
	}}
	conn, err := small.DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", path, strings.TrimPrefix(base, "http://")); err != nil {
		t.Fatal(err)
	}
	return conn
}
