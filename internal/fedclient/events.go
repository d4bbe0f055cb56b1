package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// Transaction is what is sent to a server at once: 50 PDUs and 100 EDUs at most.
type Transaction struct {
	// OriginServerTS is when it was made, in milliseconds since the epoch.
	OriginServerTS int64
	PDUs, EDUs     []json.RawMessage
}

// SendTransaction delivers a transaction. It returns what the other server said against single PDUs.
//
// Spec: ss sendTransaction
func (c *Client) SendTransaction(ctx context.Context, call Call, txnID string, t Transaction) (refused map[id.EventID]string, err error) {
	if len(t.PDUs) > maxPDUs || len(t.EDUs) > maxEDUs {
		return nil, fmt.Errorf("a transaction of %d PDUs and %d EDUs is too large", len(t.PDUs), len(t.EDUs))
	}
	body := appendTransaction(nil, call.Origin, t)
	rq := request{op: "sendTransaction", method: http.MethodPut, path: segments(v1, "send", txnID), body: body, timeout: 2 * time.Minute, limit: maxMediumAnswer}
	var answer struct {
		PDUs json.RawMessage `json:"pdus"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return nil, err
	}
	return refusedPDUs(answer.PDUs), nil
}

// refusedPDUs reads what a server says against single events, as far as it can be understood: the transaction has arrived, and to send it again for
// the sake of a remark would be of no use to anybody.
func refusedPDUs(raw []byte) map[id.EventID]string {
	var results map[id.EventID]json.RawMessage
	if json.Unmarshal(raw, &results) != nil {
		return nil
	}
	var refused map[id.EventID]string
	for event, result := range results {
		var said struct {
			Error json.RawMessage `json:"error"`
		}
		if json.Unmarshal(result, &said) != nil || len(said.Error) == 0 || string(said.Error) == "null" {
			continue
		}
		why, ok := canon.Text(said.Error)
		if !ok {
			why = string(said.Error)
		}
		if why == "" {
			continue
		}
		if refused == nil {
			refused = make(map[id.EventID]string)
		}
		refused[event] = clip(why)
	}
	return refused
}

// appendTransaction writes the body of a transaction without looking into its parts.
func appendTransaction(b []byte, origin id.ServerName, t Transaction) []byte {
	size := 128 + len(origin)
	for _, list := range [][]json.RawMessage{t.PDUs, t.EDUs} {
		for _, raw := range list {
			size += len(raw) + 1
		}
	}
	b = append(make([]byte, 0, size), b...)
	list := func(raws []json.RawMessage) {
		b = append(b, '[')
		for i, raw := range raws {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, raw...)
		}
		b = append(b, ']')
	}
	b = append(b, `{"edus":`...)
	list(t.EDUs)
	b = append(b, `,"origin":"`...)
	b = append(b, origin...)
	b = append(b, `","origin_server_ts":`...)
	b = strconv.AppendInt(b, t.OriginServerTS, 10)
	b = append(b, `,"pdus":`...)
	list(t.PDUs)
	return append(b, '}')
}

// Backfill asks for the given events and those before them, at most limit. The events come unchecked, in no particular order.
//
// Spec: ss backfillRoom
func (c *Client) Backfill(ctx context.Context, call Call, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, e := range from {
		query.Add("v", string(e))
	}
	rq := request{op: "backfillRoom", method: http.MethodGet, path: segments(v1, "backfill", string(room)), query: query, timeout: 90 * time.Second, limit: maxEventsAnswer}
	return c.pdus(ctx, call, rq, max(limit, 0))
}

// Missing asks for events between those we have and those we heard of.
type Missing struct {
	// Earliest are held already; Latest are those whose ancestors are wanted.
	Earliest, Latest []id.EventID
	Limit            int
	MinDepth         int64
}

// MissingEvents asks for the ancestors of some events. The events come unchecked.
//
// Spec: ss getMissingPreviousEvents
func (c *Client) MissingEvents(ctx context.Context, call Call, room id.RoomID, m Missing) ([]json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"earliest_events": list(m.Earliest), "latest_events": list(m.Latest), "limit": m.Limit, "min_depth": m.MinDepth})
	if err != nil {
		return nil, fmt.Errorf("encode a request for missing events: %w", err)
	}
	rq := request{op: "getMissingPreviousEvents", method: http.MethodPost, path: segments(v1, "get_missing_events", string(room)), body: body, timeout: 90 * time.Second, limit: maxEventsAnswer}
	var answer struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return nil, err
	}
	if len(answer.Events) > max(m.Limit, 0) {
		answer.Events = answer.Events[:max(m.Limit, 0)]
	}
	return answer.Events, nil
}

// State asks for the state before an event, with its auth chain. The events go to each as they arrive.
//
// Spec: ss getRoomState
func (c *Client) State(ctx context.Context, call Call, room id.RoomID, at id.EventID, each Events) error {
	rq := request{
		op: "getRoomState", method: http.MethodGet, path: segments(v1, "state", string(room)), query: url.Values{"event_id": {string(at)}},
		timeout: 10 * time.Minute, limit: maxStateAnswer,
	}
	return c.stream(ctx, call, rq, stateAnswer{arrays: map[string]func(json.RawMessage) error{"pdus": each.State, "auth_chain": each.AuthChain}})
}

// StateIDs names the state before an event and its auth chain.
type StateIDs struct {
	State, AuthChain []id.EventID
}

// StateIDs asks for the IDs of the state before an event.
//
// Spec: ss getRoomStateIds
func (c *Client) StateIDs(ctx context.Context, call Call, room id.RoomID, at id.EventID) (StateIDs, error) {
	rq := request{
		op: "getRoomStateIds", method: http.MethodGet, path: segments(v1, "state_ids", string(room)), query: url.Values{"event_id": {string(at)}},
		timeout: 3 * time.Minute, limit: maxIDsAnswer,
	}
	var answer struct {
		State     []string `json:"pdu_ids"`
		AuthChain []string `json:"auth_chain_ids"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return StateIDs{}, err
	}
	state, err := eventIDs(answer.State)
	if err != nil {
		return StateIDs{}, c.malformed(call, rq.op, err)
	}
	chain, err := eventIDs(answer.AuthChain)
	if err != nil {
		return StateIDs{}, c.malformed(call, rq.op, err)
	}
	return StateIDs{state, chain}, nil
}

// Event asks for one event. It comes unchecked, and may be another one than was asked for.
//
// Spec: ss getEvent
func (c *Client) Event(ctx context.Context, call Call, event id.EventID) (json.RawMessage, error) {
	rq := request{op: "getEvent", method: http.MethodGet, path: segments(v1, "event", string(event)), timeout: 45 * time.Second, limit: maxEventAnswer}
	pdus, err := c.pdus(ctx, call, rq, 1)
	if err != nil {
		return nil, err
	}
	if len(pdus) == 0 {
		return nil, c.malformed(call, rq.op, errors.New("there is no event"))
	}
	return pdus[0], nil
}

// EventAuth asks for the auth chain of an event. The events come unchecked.
//
// Spec: ss getEventAuth
func (c *Client) EventAuth(ctx context.Context, call Call, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	rq := request{op: "getEventAuth", method: http.MethodGet, path: segments(v1, "event_auth", string(room), string(event)), timeout: 3 * time.Minute, limit: maxEventsAnswer}
	var answer struct {
		AuthChain []json.RawMessage `json:"auth_chain"`
	}
	err := c.decode(ctx, call, rq, &answer)
	return answer.AuthChain, err
}

// TimestampToEvent asks for the event that is nearest to a time, in milliseconds since the epoch, looking forwards or backwards.
//
// Spec: ss getEventByTimestamp
func (c *Client) TimestampToEvent(ctx context.Context, call Call, room id.RoomID, ts int64, forwards bool) (id.EventID, int64, error) {
	dir := "b"
	if forwards {
		dir = "f"
	}
	rq := request{
		op: "getEventByTimestamp", method: http.MethodGet, path: segments(v1, "timestamp_to_event", string(room)),
		query: url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}, timeout: 30 * time.Second, limit: maxSmallAnswer,
	}
	var answer struct {
		Event string `json:"event_id"`
		TS    int64  `json:"origin_server_ts"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return "", 0, err
	}
	event, err := id.ParseEventID(answer.Event)
	if err != nil {
		return "", 0, c.malformed(call, rq.op, err)
	}
	return event, answer.TS, nil
}

// PolicySign asks a policy server to sign an event. It returns that server's signatures, unchecked; the destination is the policy server.
//
// Spec: ss askPolicyServerToSign
func (c *Client) PolicySign(ctx context.Context, call Call, event []byte) (map[sign.KeyID]string, error) {
	rq := request{op: "askPolicyServerToSign", method: http.MethodPost, path: "/_matrix/policy/v1/sign", body: event, timeout: 20 * time.Second, limit: maxSmallAnswer}
	var answer map[id.ServerName]map[sign.KeyID]string
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return nil, err
	}
	return answer[call.Destination], nil
}

// pdus is for answers that have the form of a transaction.
func (c *Client) pdus(ctx context.Context, call Call, rq request, most int) ([]json.RawMessage, error) {
	var answer struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return nil, err
	}
	if len(answer.PDUs) > most {
		answer.PDUs = answer.PDUs[:most]
	}
	return answer.PDUs, nil
}

func eventIDs(texts []string) ([]id.EventID, error) {
	out := make([]id.EventID, len(texts))
	for i, s := range texts {
		e, err := id.ParseEventID(s)
		if err != nil {
			return nil, err
		}
		out[i] = e
	}
	return out, nil
}

// list is an empty array instead of null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
