package fedclient

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// CheckPDU parses an event of another server, checks the signatures it needs, and redacts it where its content hash is wrong. Hints
// are servers of the room, which are asked for keys whose servers don't answer: that a key which is known is valid for longer. The error is a *Fault.
//
// Spec: ss Checks performed on receipt of a PDU
// Spec: ss Validating hashes and signatures on received events
func (c *Client) CheckPDU(ctx context.Context, v *roomver.Version, raw []byte, hint ...id.ServerName) (*event.PDU, error) {
	pdus, errs := c.CheckPDUs(ctx, v, [][]byte{raw}, hint...)
	return pdus[0], errs[0]
}

// CheckPDUs is CheckPDU for many: on all processors, with the keys of each server fetched once. For each i either pdus[i] or errs[i] is set.
func (c *Client) CheckPDUs(ctx context.Context, v *roomver.Version, raws [][]byte, hint ...id.ServerName) (pdus []*event.PDU, errs []error) {
	return c.check(ctx, v, raws, false, hint)
}

// CheckState is CheckPDUs for the state that a room has when this server comes into it: for that, the server which lets it in is believed also
// where it tells of keys that nobody else gives. Many rooms hold events of servers that are gone.
func (c *Client) CheckState(ctx context.Context, v *roomver.Version, raws [][]byte, from id.ServerName) (pdus []*event.PDU, errs []error) {
	return c.check(ctx, v, raws, true, []id.ServerName{from})
}

func (c *Client) check(ctx context.Context, v *roomver.Version, raws [][]byte, hearsay bool, hint []id.ServerName) (pdus []*event.PDU, errs []error) {
	pdus, errs = make([]*event.PDU, len(raws)), make([]error, len(raws))
	needs := make([][]want, len(raws))
	parallel(len(raws), func(i int) {
		if pdus[i], errs[i] = parsePDU(v, raws[i]); errs[i] == nil {
			needs[i], errs[i] = c.judge(pdus[i], hearsay)
		}
	})
	var again []int
	var wants []want
	for i, n := range needs {
		if len(n) > 0 {
			again = append(again, i)
			wants = append(wants, n...)
		}
	}
	if len(again) > 0 {
		err := c.obtain(ctx, c.ring.eventsOf(hint, hearsay), merge(wants), hint)
		parallel(len(again), func(k int) {
			i := again[k]
			var lacking []want
			if lacking, errs[i] = c.judge(pdus[i], hearsay); len(lacking) == 0 || errs[i] != nil {
				return
			}
			fault := c.noKeys(lacking[0], pdus[i].ID())
			if err != nil {
				fault = &Fault{Kind: FaultKeys, Event: fault.Event, Signer: fault.Signer, Err: err}
			}
			errs[i] = fault
		})
	}
	parallel(len(raws), func(i int) {
		outcome := "ok"
		if errs[i] == nil && !pdus[i].HashOK() {
			outcome = "redacted"
			var err error
			if pdus[i], err = pdus[i].Redacted(); err != nil {
				errs[i] = &Fault{Kind: FaultMalformed, Err: err}
			}
		}
		if errs[i] != nil {
			pdus[i] = nil
			outcome = outcomeOf(errs[i])
		}
		c.metrics.checked.WithLabelValues(outcome).Inc()
	})
	return pdus, errs
}

func outcomeOf(err error) string {
	fault, _ := errors.AsType[*Fault](err)
	switch fault.Kind {
	case FaultMalformed:
		return "malformed"
	case FaultSignature:
		return "signature"
	}
	return "keys"
}

func parsePDU(v *roomver.Version, raw []byte) (*event.PDU, error) {
	pdu, err := event.Parse(v, raw)
	if err != nil {
		return nil, &Fault{Kind: FaultMalformed, Err: err}
	}
	return pdu, nil
}

// judge checks the signatures with the keys in memory. It returns what it lacks to do so, or a *Fault.
func (c *Client) judge(pdu *event.PDU, hearsay bool) ([]want, error) {
	var lacking []want
	for _, signer := range pdu.RequiredSigners() {
		ids := firstIDs(pdu.SignedWith(signer))
		if signer == "" || len(ids) == 0 {
			return nil, &Fault{Kind: FaultSignature, Event: pdu.ID(), Signer: signer, Err: sign.ErrMissing}
		}
		w := want{server: signer, ids: ids, at: pdu.OriginServerTS(), strict: pdu.Version().StrictKeyValidity, hearsay: hearsay}
		keys := c.valid(w)
		if len(keys) == 0 {
			lacking = append(lacking, w)
			continue
		}
		// Keys that nobody knows are skipped. Those that are known must all have signed well.
		for keyID, public := range keys {
			if err := pdu.VerifySignature(signer, keyID, public); err != nil {
				return nil, &Fault{Kind: FaultSignature, Event: pdu.ID(), Signer: signer, Err: err}
			}
		}
	}
	return lacking, nil
}

// merge leaves one want for each server, keys and strictness: that of the latest time, which a key in use must reach, and that of the
// earliest, for which a retired key may do. Names are cloned, since they share their events' memory.
func merge(wants []want) []want {
	type span struct{ first, last want }
	spans := make(map[string]*span)
	for _, w := range wants {
		key := fmt.Sprint(w.server, " ", w.strict, " ", w.ids)
		s := spans[key]
		if s == nil {
			w.server = id.ServerName(strings.Clone(string(w.server)))
			w.ids = slices.Clone(w.ids)
			for i, keyID := range w.ids {
				w.ids[i] = sign.KeyID(strings.Clone(string(keyID)))
			}
			spans[key] = &span{w, w}
			continue
		}
		s.first.at, s.last.at = min(s.first.at, w.at), max(s.last.at, w.at)
	}
	out := make([]want, 0, len(spans))
	for _, s := range spans {
		out = append(out, s.first)
		if s.last.at != s.first.at {
			out = append(out, s.last)
		}
	}
	return out
}

// parallel runs do for each index below n on all processors. A panic in one of them is one of the caller's.
func parallel(n int, do func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	var fatal atomic.Pointer[any]
	for range workers {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					fatal.Store(&p)
				}
			}()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
	if p := fatal.Load(); p != nil {
		panic(*p)
	}
}
