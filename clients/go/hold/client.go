// Package hold asks Holdgate whether a piece of work may go ahead, and keeps what it was given until the work is done.
package hold

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	quota "holdgate/gateway/gen/quota/v1"
)

const (
	within     = 2 * time.Second // a call is repeated for this long
	oneAttempt = time.Second     // one try waits no longer
	firstPause = 20 * time.Millisecond
)

// TLS names PEM files; without CA the connection is in plaintext. Certificate and Key are shown where the server asks.
type TLS struct{ CA, Certificate, Key string }

// Client asks one server about one policy.
type Client struct {
	Conn   *grpc.ClientConn
	quota  quota.QuotaServiceClient
	policy string
}

// Dial makes a client; the connection itself is made with the first call.
func Dial(address, policy string, files TLS) (*Client, error) {
	transport, err := files.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(transport))
	if err != nil {
		return nil, err
	}
	return &Client{Conn: conn, quota: quota.NewQuotaServiceClient(conn), policy: policy}, nil
}

func (files TLS) credentials() (credentials.TransportCredentials, error) {
	if files.CA == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", files.CA)
	}
	if files.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

// Ask is one question; an empty RequestID is made up. Amounts are in the meters' base units.
type Ask struct {
	Tenant, Action, RequestID string
	Amounts                   map[string]int64
}

// Refused says which limits blocked, or that the request would have had to wait in a queue, which it has left. Nothing
// was taken.
type Refused struct{ Decision *quota.Decision }

func (r *Refused) Error() string {
	if r.queued() {
		return "all places are taken"
	}
	return r.Decision.GetRefusal().GetMessage()
}

func (r *Refused) queued() bool { return r.Decision.Outcome == quota.Outcome_OUTCOME_QUEUED }

// Reserve takes everything that was asked for, or returns *Refused. The caller ends the hold, with Settle or Release.
func (c *Client) Reserve(ctx context.Context, ask Ask) (*Hold, error) {
	if ask.RequestID == "" {
		ask.RequestID = uuid.NewString()
	}
	request := &quota.CheckAndReserveRequest{
		Policy: c.policy, Tenant: ask.Tenant, RequestId: ask.RequestID, Action: ask.Action, Amounts: ask.Amounts,
	}
	answer, err := repeated(ctx, c.quota.CheckAndReserve, request)
	if err != nil {
		return nil, err
	}
	switch answer.Decision.Outcome {
	case quota.Outcome_OUTCOME_GRANTED:
		return c.kept(ask.Tenant, answer.Decision), nil
	case quota.Outcome_OUTCOME_QUEUED:
		_ = c.kept(ask.Tenant, answer.Decision).Release(ctx) // a ticket that is not released lapses soon
	}
	return nil, &Refused{answer.Decision}
}

// Undecided tells whether an error means that no decision could be had, and the caller is not to blame.
func Undecided(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}

type method[Request, Response any] func(context.Context, *Request, ...grpc.CallOption) (*Response, error)

// repeated calls until there is a decision: the request names its operation, so a repeat is never counted twice.
func repeated[Request, Response any](
	ctx context.Context, call method[Request, Response], request *Request,
) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for pause := firstPause; ; pause *= 2 {
		attempt, end := context.WithTimeout(ctx, oneAttempt)
		answer, err := call(attempt, request)
		end()
		if err == nil || !Undecided(err) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}
