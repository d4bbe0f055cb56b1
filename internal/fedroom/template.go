package fedroom

import (
	"encoding/json"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// versions lists the room versions that this server supports.
func versions() []string {
	var out []string
	for _, v := range roomver.All() {
		out = append(out, v.ID)
	}
	return out
}

// offer is a template of a membership event that another server made for a user of ours.
type offer struct {
	from    id.ServerName
	version *roomver.Version
	event   []byte
}

// versionOf finds the room version that a template names.
func versionOf(name string) (*roomver.Version, error) {
	v, ok := roomver.Get(name)
	if !ok {
		return nil, mxerr.New(mxerr.CodeUnsupportedRoomVersion, "this server does not support room version %.40q", name).With("room_version", name)
	}
	return v, nil
}

// complete makes an event of an offer. What the event follows and what authorises it is for the other server to say; what it says is
// ours, but for the user who vouches for a restricted join, who must be one of that server's.
//
// Spec: ss Joining Rooms
// Spec: ss Restricted rooms
func (o offer) complete(room id.RoomID, user id.UserID, membership graph.Membership, content []byte, key sign.Key) (*event.PDU, error) {
	template, err := canon.Canonicalize(nil, o.event, o.version.Canon)
	if err != nil {
		return nil, misfitf("its template is not canonical JSON: %v", err)
	}
	if membership == graph.Join && o.version.Restricted {
		if voucher := gjson.GetBytes(template, "content.join_authorised_via_users_server"); voucher.Exists() {
			by, err := id.ParseUserID(voucher.Str)
			if err != nil || by.Domain() != o.from {
				return nil, misfitf("its template names %.100q to vouch for the join, who is not one of its users", voucher.Str)
			}
			content = canon.With(nil, content, "join_authorised_via_users_server", canon.AppendString(nil, string(by)))
		}
	}
	fields := map[string]any{
		"type": "m.room.member", "room_id": room, "sender": user, "state_key": user, "content": json.RawMessage(content),
		"origin_server_ts": time.Now().UnixMilli(),
	}
	for _, name := range []string{"prev_events", "auth_events", "depth"} {
		value, ok := canon.Get(template, name)
		if !ok {
			return nil, misfitf("its template has no %s", name)
		}
		fields[name] = json.RawMessage(value)
	}
	if o.version.EventIDs == roomver.EventIDDomain {
		fields["event_id"] = newEventID(user.Domain())
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, misfitf("its template can't be completed: %v", err)
	}
	pdu, err := event.Seal(o.version, raw, user.Domain(), key)
	if err != nil {
		return nil, misfitf("its template makes no event: %v", err)
	}
	if len(pdu.PrevEvents()) > event.MaxPrevEvents || len(pdu.AuthEvents()) > event.MaxAuthEvents {
		return nil, misfitf("its template refers to too many events")
	}
	return pdu, nil
}
