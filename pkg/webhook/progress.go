package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/jobrelay/jobrelay/pkg/delivery"
)

// progress is how far an attempt came, which its error does not tell.
type progress struct {
	cancel func() // ends the attempt

	connections atomic.Int32
	handshake   atomic.Bool // it failed
	answered    atomic.Bool // with a byte at least
}

func (p *progress) follow(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			if p.connections.Add(1) > maxConnections {
				p.cancel()
			}
		},
		TLSHandshakeDone:     func(_ tls.ConnectionState, err error) { p.handshake.Store(err != nil) },
		GotFirstResponseByte: func() { p.answered.Store(true) },
	})
}

// outcomeOf classifies an attempt that got no answer.
func (p *progress) outcomeOf(err error) Outcome {
	var (
		certificate *tls.CertificateVerificationError
		dns         *net.DNSError
		timeout     net.Error
	)
	switch {
	case errors.As(err, &certificate):
		return failure(delivery.Refused, CauseCertificate)
	case errors.Is(err, errRefused):
		return failure(delivery.Refused, CauseAddress)
	case errors.As(err, &dns) && dns.IsNotFound:
		return failure(delivery.Refused, CauseNoHost)
	case errors.As(err, &timeout) && timeout.Timeout():
		return failure(delivery.Unwell, CauseTimeout)
	case dns != nil:
		return failure(delivery.Unwell, CauseLookup)
	case p.connections.Load() > maxConnections:
		return failure(delivery.Unwell, CauseConnection)
	case p.handshake.Load():
		return failure(delivery.Unwell, CauseTLS)
	case p.answered.Load():
		return failure(delivery.Unwell, CauseAnswer)
	default:
		return failure(delivery.Unwell, CauseConnection)
	}
}
