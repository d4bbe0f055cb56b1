package fedroom

import (
	"context"
	"encoding/json"

	"github.com/tidwall/gjson"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

const (
	// maxStripped bounds the stripped state of an invite or a knock.
	maxStripped = 100
	// maxStrippedField bounds the identifiers in an entry that was stripped before it was sent.
	maxStrippedField = 255
)

// description is stripped state that another server gave of a room.
type description struct {
	// stripped are the entries that may be shown to clients.
	stripped []json.RawMessage
	// faulty counts entries that were left out.
	faulty int
}

// describe takes what another server says of a room that this server isn't in. Whole events must be of the room and well signed, or they are left out.
// Entries that hold only what clients see, as servers used to send them, can't be checked. They are shown as they always were.
//
// Spec: ss sendInviteV2
// Spec: ss sendKnock
// Deviates: ss sendInviteV2
func (f *Federated) describe(ctx context.Context, v *roomver.Version, room id.RoomID, from id.ServerName, state []json.RawMessage) description {
	var d description
	var whole [][]byte
	for i, raw := range state {
		if i == maxStripped {
			break
		}
		switch entry := gjson.ParseBytes(raw); {
		case entry.Get("signatures").IsObject():
			whole = append(whole, raw)
		default:
			d.add(restrip(entry))
		}
	}
	pdus, errs := f.cfg.Client.CheckPDUs(ctx, v, whole, from)
	for i, p := range pdus {
		if errs[i] != nil || p.RoomID() != room || !p.IsState() {
			d.faulty++
			continue
		}
		d.stripped = append(d.stripped, p.AppendStripped(nil))
	}
	return d
}

// add takes an entry that was stripped already.
func (d *description) add(entry []byte) {
	if entry == nil {
		d.faulty++
		return
	}
	d.stripped = append(d.stripped, entry)
}

// restrip leaves of an entry what clients may see, nil if it isn't stripped state.
//
// Spec: cs Stripped state
func restrip(entry gjson.Result) []byte {
	fields := make(map[string]any, 4)
	for _, name := range []string{"type", "state_key", "sender"} {
		field := entry.Get(name)
		if field.Type != gjson.String || len(field.Str) > maxStrippedField {
			return nil
		}
		fields[name] = field.Str
	}
	content := entry.Get("content")
	if _, err := id.ParseUserID(entry.Get("sender").Str); err != nil || !content.IsObject() || len(content.Raw) > event.MaxSize {
		return nil
	}
	fields["content"] = json.RawMessage(content.Raw)
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	raw, err = canon.Canonicalize(nil, raw, canon.Lax)
	if err != nil {
		return nil
	}
	return raw
}

// with returns the entries and the member event as one array.
func (d *description) with(member *event.PDU) []byte {
	out := []byte{'['}
	for _, entry := range d.stripped {
		// The member event comes from the one who sent it.
		if gjson.GetBytes(entry, "type").Str == member.Type() && gjson.GetBytes(entry, "state_key").Str == member.Key().StateKey {
			continue
		}
		out = append(append(out, entry...), ',')
	}
	return append(member.AppendStripped(out), ']')
}

// createdVersion returns the room version that a create event in stripped state says, false for any other entry.
func createdVersion(raw []byte) (string, bool) {
	e := gjson.ParseBytes(raw)
	if e.Get("type").Str != "m.room.create" {
		return "", false
	}
	v := e.Get("content.room_version")
	return v.Str, v.Type == gjson.String
}
