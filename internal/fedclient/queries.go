package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"myelin/matrix/id"
)

// Software is what runs on another server.
type Software struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Version asks which software a server runs. The request is not signed, and goes out whether or not the server failed before.
//
// Spec: ss getVersion
func (c *Client) Version(ctx context.Context, call Call) (Software, error) {
	var answer struct {
		Server Software `json:"server"`
	}
	rq := request{op: "getVersion", method: http.MethodGet, path: segments(v1, "version"), unsigned: true, timeout: 20 * time.Second, limit: maxSmallAnswer}
	call.Urgent = true
	err := c.decode(ctx, call, rq, &answer)
	return Software{clip(answer.Server.Name), clip(answer.Server.Version)}, err
}

// PublicRoomsQuery asks for a part of a server's room directory.
type PublicRoomsQuery struct {
	Limit int    `json:"limit,omitempty"`
	Since string `json:"since,omitempty"`
	// Filter is the filter object of the client's request; nil for none.
	Filter               json.RawMessage `json:"filter,omitempty"`
	IncludeAllNetworks   bool            `json:"include_all_networks,omitempty"`
	ThirdPartyInstanceID string          `json:"third_party_instance_id,omitempty"`
}

// PublicRooms is a part of a room directory. The rooms are unchecked objects.
type PublicRooms struct {
	Chunk     []json.RawMessage `json:"chunk"`
	NextBatch string            `json:"next_batch"`
	PrevBatch string            `json:"prev_batch"`
	Total     *int64            `json:"total_room_count_estimate"`
}

// PublicRooms asks for a server's room directory.
//
// Spec: ss queryPublicRooms
func (c *Client) PublicRooms(ctx context.Context, call Call, q PublicRoomsQuery) (PublicRooms, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return PublicRooms{}, fmt.Errorf("encode a query for public rooms: %w", err)
	}
	rq := request{op: "queryPublicRooms", method: http.MethodPost, path: segments(v1, "publicRooms"), body: body, timeout: 30 * time.Second, limit: maxMediumAnswer}
	var answer PublicRooms
	err = c.decode(ctx, call, rq, &answer)
	return answer, err
}

// Hierarchy is a space and its children as one server sees them. Room and Children are unchecked objects.
type Hierarchy struct {
	Room         json.RawMessage   `json:"room"`
	Children     []json.RawMessage `json:"children"`
	Inaccessible []id.RoomID       `json:"inaccessible_children"`
}

// Hierarchy asks for a space and its children.
//
// Spec: ss getSpaceHierarchy
func (c *Client) Hierarchy(ctx context.Context, call Call, room id.RoomID, suggestedOnly bool) (Hierarchy, error) {
	var query url.Values
	if suggestedOnly {
		query = url.Values{"suggested_only": {"true"}}
	}
	rq := request{op: "getSpaceHierarchy", method: http.MethodGet, path: segments(v1, "hierarchy", string(room)), query: query, timeout: 30 * time.Second, limit: maxMediumAnswer}
	var answer Hierarchy
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return Hierarchy{}, err
	}
	if len(answer.Room) == 0 || answer.Room[0] != '{' {
		return Hierarchy{}, c.malformed(call, rq.op, fmt.Errorf("there is no room"))
	}
	for _, r := range answer.Inaccessible {
		if _, err := id.ParseRoomID(string(r)); err != nil {
			return Hierarchy{}, c.malformed(call, rq.op, err)
		}
	}
	return answer, nil
}

// QueryDirectory asks which room an alias stands for, and who is in it. The destination is the alias's server.
//
// Spec: ss queryRoomDirectory
func (c *Client) QueryDirectory(ctx context.Context, call Call, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	rq := request{op: "queryRoomDirectory", method: http.MethodGet, path: segments(v1, "query", "directory"), query: url.Values{"room_alias": {string(alias)}}, timeout: 20 * time.Second, limit: maxMediumAnswer}
	var answer struct {
		Room    string      `json:"room_id"`
		Servers serverNames `json:"servers"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return "", nil, err
	}
	room, err := id.ParseRoomID(answer.Room)
	if err != nil {
		return "", nil, c.malformed(call, rq.op, err)
	}
	return room, answer.Servers, nil
}

// QueryProfile asks for a user's profile, or for one field of it. The destination is the user's server.
//
// Spec: ss queryProfile
func (c *Client) QueryProfile(ctx context.Context, call Call, user id.UserID, field string) (map[string]json.RawMessage, error) {
	query := url.Values{"user_id": {string(user)}}
	if field != "" {
		query.Set("field", field)
	}
	rq := request{op: "queryProfile", method: http.MethodGet, path: segments(v1, "query", "profile"), query: query, timeout: 15 * time.Second, limit: maxProfileAnswer}
	var answer map[string]json.RawMessage
	err := c.decode(ctx, call, rq, &answer)
	return answer, err
}

// Devices are a user's devices with their keys, all of them unchecked objects.
type Devices struct {
	User       id.UserID         `json:"user_id"`
	StreamID   int64             `json:"stream_id"`
	Devices    []json.RawMessage `json:"devices"`
	Master     json.RawMessage   `json:"master_key"`
	SelfSigner json.RawMessage   `json:"self_signing_key"`
}

// UserDevices asks for a user's devices. The destination is the user's server.
//
// Spec: ss getUserDevices
func (c *Client) UserDevices(ctx context.Context, call Call, user id.UserID) (Devices, error) {
	rq := request{op: "getUserDevices", method: http.MethodGet, path: segments(v1, "user", "devices", string(user)), timeout: 30 * time.Second, limit: maxMediumAnswer}
	var answer Devices
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return Devices{}, err
	}
	if answer.User != user {
		return Devices{}, c.malformed(call, rq.op, fmt.Errorf("the answer is about %.300q", answer.User))
	}
	return answer, nil
}

// ClaimKeys claims one-time keys: an algorithm for each user and device. The keys come unchecked, by "algorithm:id".
//
// Spec: ss claimUserEncryptionKeys
func (c *Client) ClaimKeys(ctx context.Context, call Call, want map[id.UserID]map[id.DeviceID]string) (map[id.UserID]map[id.DeviceID]map[string]json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"one_time_keys": want})
	if err != nil {
		return nil, fmt.Errorf("encode a claim of keys: %w", err)
	}
	rq := request{op: "claimUserEncryptionKeys", method: http.MethodPost, path: segments(v1, "user", "keys", "claim"), body: body, timeout: 30 * time.Second, limit: maxMediumAnswer}
	var answer struct {
		Keys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage `json:"one_time_keys"`
	}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return nil, err
	}
	for user := range answer.Keys {
		if _, asked := want[user]; !asked {
			delete(answer.Keys, user)
		}
	}
	return answer.Keys, nil
}

// UserKeys are the device and cross-signing keys of users, unchecked.
type UserKeys struct {
	Devices     map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	Masters     map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigners map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
}

// QueryKeys asks for the keys of users' devices; no devices means all of that user's. Users that were not asked for are left out.
//
// Spec: ss queryUserEncryptionKeys
func (c *Client) QueryKeys(ctx context.Context, call Call, want map[id.UserID][]id.DeviceID) (UserKeys, error) {
	asked := make(map[id.UserID][]id.DeviceID, len(want))
	for user, devices := range want {
		asked[user] = list(devices)
	}
	body, err := json.Marshal(map[string]any{"device_keys": asked})
	if err != nil {
		return UserKeys{}, fmt.Errorf("encode a query for keys: %w", err)
	}
	rq := request{op: "queryUserEncryptionKeys", method: http.MethodPost, path: segments(v1, "user", "keys", "query"), body: body, timeout: 30 * time.Second, limit: maxLargeAnswer}
	var answer UserKeys
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return UserKeys{}, err
	}
	keepAsked(answer.Devices, want)
	keepAsked(answer.Masters, want)
	keepAsked(answer.SelfSigners, want)
	return answer, nil
}

func keepAsked[V any](got map[id.UserID]V, want map[id.UserID][]id.DeviceID) {
	for user := range got {
		if _, asked := want[user]; !asked {
			delete(got, user)
		}
	}
}
