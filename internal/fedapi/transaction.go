package fedapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"myelin/internal/fedclient"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Bounds of a transaction. A body of the greatest numbers of the largest events has 9.4 MiB; EDUs have no size limit of their own.
//
// Spec: ss Transactions
const (
	maxPDUs        = 50
	maxEDUs        = 100
	maxTransaction = 10 << 20
	// transactionPatience is how long the handling of one takes at most. What is not done by then is sent again.
	transactionPatience = 2 * time.Minute
)

// transactionRoutes takes what other servers push.
//
// Spec: ss Transactions
func (a *API) transactionRoutes() []web.Route {
	return []web.Route{
		{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Op: "sendTransaction", Auth: web.Server, Rate: web.RateServer, MaxBody: maxTransaction, Handle: a.send},
	}
}

// transaction is the body of sendTransaction.
type transaction struct {
	Origin *id.ServerName    `json:"origin"`
	PDUs   []json.RawMessage `json:"pdus"`
	EDUs   []json.RawMessage `json:"edus"`
}

// edu is an ephemeral data unit.
//
// Spec: ss EDUs
type edu struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// check refuses a transaction that is none.
func (t *transaction) check(origin id.ServerName) error {
	switch {
	case t.Origin != nil && *t.Origin != origin:
		return mxerr.InvalidParam("The transaction is of %.100q, and %s signed it.", *t.Origin, origin)
	case t.PDUs == nil && t.EDUs == nil:
		return mxerr.MissingParam("\"pdus\" is missing.")
	case len(t.PDUs) > maxPDUs:
		return mxerr.InvalidParam("A transaction has at most %d PDUs.", maxPDUs)
	case len(t.EDUs) > maxEDUs:
		return mxerr.InvalidParam("A transaction has at most %d EDUs.", maxEDUs)
	}
	return nil
}

// result is what became of a PDU.
type result struct {
	Error string `json:"error,omitempty"`
}

// Spec: ss sendTransaction
func (a *API) send(ctx context.Context, r *web.Request) (*web.Response, error) {
	var t transaction
	if err := r.Decode(&t); err != nil {
		return nil, err
	}
	if err := t.check(r.Origin); err != nil {
		return nil, err
	}
	done, err := a.transactions.take(ctx, r.Origin)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, transactionPatience)
	defer cancel()
	results, err := a.takePDUs(ctx, r.Origin, t.PDUs)
	if err != nil {
		return nil, err
	}
	if err := a.takeEDUs(ctx, r.Origin, t.EDUs); err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"pdus": results}), nil
}

// takePDUs returns what became of events, by their IDs: those that could be read.
func (a *API) takePDUs(ctx context.Context, origin id.ServerName, raws []json.RawMessage) (map[id.EventID]result, error) {
	results := make(map[id.EventID]result, len(raws))
	if len(raws) == 0 {
		return results, nil
	}
	for _, o := range a.Federated.Receive(ctx, origin, raws) {
		why, err := said(o.Err)
		if err != nil {
			return nil, fmt.Errorf("receive %s: %w", o.Event, err)
		}
		if o.Event != "" {
			results[o.Event] = result{why}
		}
	}
	return results, nil
}

// said returns what another server is told of an event that was dropped. What went wrong on our side is returned as an error: the event
// must come again.
func said(err error) (string, error) {
	if err == nil {
		return "", nil
	}
	if e, ok := mxerr.Of(err); ok && e.Code != mxerr.CodeUnknown {
		return e.Text, nil
	}
	var fault *fedclient.Fault
	if !errors.As(err, &fault) {
		return "", err
	}
	switch fault.Kind {
	case fedclient.FaultMalformed:
		return "The event is not a valid one of its room version.", nil
	case fedclient.FaultKeys:
		return fmt.Sprintf("The keys of %s can't be had now.", fault.Signer), nil
	}
	return fmt.Sprintf("The event lacks a valid signature of %s.", fault.Signer), nil
}
