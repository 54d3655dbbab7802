package hold

import (
	"context"
	"log"
	"sync"
	"time"

	quota "holdgate/gateway/gen/quota/v1"
)

// Hold is what a grant left. Its lease is renewed until Settle or Release ends it.
type Hold struct {
	client   *Client
	tenant   string
	Decision *quota.Decision
	stop     context.CancelFunc
	renewer  sync.WaitGroup
}

func (c *Client) kept(tenant string, decision *quota.Decision) *Hold {
	ctx, stop := context.WithCancel(context.Background())
	hold := &Hold{client: c, tenant: tenant, Decision: decision, stop: stop}
	if decision.RenewAfterMs != nil {
		hold.renewer.Go(func() { hold.renew(ctx, decision) })
	}
	return hold
}

// ID names the hold.
func (h *Hold) ID() string { return h.Decision.HoldId }

// Settle charges what was used, as totals by meter, and gives the rest back.
func (h *Hold) Settle(ctx context.Context, used map[string]int64) (*quota.SettleResponse, error) {
	h.end()
	request := &quota.SettleRequest{Policy: h.client.policy, Tenant: h.tenant, HoldId: h.ID()}
	request.Delivered = &quota.SettleRequest_Usage{Usage: &quota.Usage{Used: used}}
	return repeated(ctx, h.client.quota.Settle, request)
}

// Release gives everything back.
func (h *Hold) Release(ctx context.Context) error {
	h.end()
	request := &quota.ReleaseRequest{Policy: h.client.policy, Tenant: h.tenant, HoldId: h.ID()}
	_, err := repeated(ctx, h.client.quota.Release, request)
	return err
}

func (h *Hold) end() {
	h.stop()
	h.renewer.Wait()
}

func (h *Hold) renew(ctx context.Context, decision *quota.Decision) {
	for decision.RenewAfterMs != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(decision.GetRenewAfterMs()) * time.Millisecond):
		}
		request := &quota.ExtendRequest{Policy: h.client.policy, Tenant: h.tenant, HoldId: h.ID()}
		answer, err := repeated(ctx, h.client.quota.Extend, request)
		switch {
		case err == nil:
			decision = answer.Decision
		case ctx.Err() != nil:
			return
		case Undecided(err):
			log.Printf("hold %s could not be renewed, and will be tried again: %v", h.ID(), err)
		default:
			log.Printf("hold %s is not renewed any more: %v", h.ID(), err)
			return
		}
	}
}
