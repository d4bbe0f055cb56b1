package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/fedclient"
	"myelin/internal/web"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const prefix = "/_matrix/identity/v2"

// Lookup finds out whose an address is, as far as the identity server knows.
//
// Spec: is lookupUsersV2
// Calls: is getHashDetails; is lookupUsersV2
func (d *Identity) Lookup(ctx context.Context, user id.UserID, at Server, a Address) (owner id.UserID, found bool, err error) {
	leave, err := d.enter(user)
	if err != nil {
		return "", false, err
	}
	defer leave()
	details, err := d.get(ctx, at, "/hash_details")
	if err != nil {
		return "", false, err
	}
	pepper := details.Get("lookup_pepper").Str
	known := slices.ContainsFunc(details.Get("algorithms").Array(), func(v gjson.Result) bool { return v.Str == "sha256" })
	if pepper == "" || !known {
		return "", false, unusable(at.Name)
	}
	a = a.normal()
	sum := sha256.Sum256([]byte(a.Address + " " + a.Medium + " " + pepper))
	hash := base64.RawURLEncoding.EncodeToString(sum[:])
	answer, err := d.post(ctx, at, "/lookup", map[string]any{"algorithm": "sha256", "pepper": pepper, "addresses": []string{hash}})
	if err != nil {
		return "", false, err
	}
	text := answer.Get("mappings").Get(hash)
	if !text.Exists() {
		return "", false, nil
	}
	if owner, err = id.ParseUserID(text.Str); err != nil {
		return "", false, unusable(at.Name)
	}
	return owner, true, nil
}

// Invite is what an identity server is told of an invite of an address. Empty fields are left out.
type Invite struct {
	Medium            string    `json:"medium"`
	Address           string    `json:"address"`
	Room              id.RoomID `json:"room_id"`
	Sender            id.UserID `json:"sender"`
	SenderDisplayName string    `json:"sender_display_name,omitempty"`
	SenderAvatar      string    `json:"sender_avatar_url,omitempty"`
	RoomAlias         string    `json:"room_alias,omitempty"`
	RoomAvatar        string    `json:"room_avatar_url,omitempty"`
	RoomJoinRules     string    `json:"room_join_rules,omitempty"`
	RoomName          string    `json:"room_name,omitempty"`
	RoomType          string    `json:"room_type,omitempty"`
}

// PublicKey is a key that will prove that an address was confirmed.
type PublicKey struct {
	Key      string `json:"public_key"`
	Validity string `json:"key_validity_url"`
}

// Stored is an invite that the identity server keeps.
type Stored struct {
	// Token is the state key of the invite in the room.
	Token       string
	DisplayName string
	Keys        []PublicKey
}

// Content is that of the m.room.third_party_invite event.
//
// Spec: cs m.room.third_party_invite
func (s *Stored) Content() ([]byte, error) {
	return json.Marshal(map[string]any{
		"display_name": s.DisplayName, "public_key": s.Keys[0].Key, "key_validity_url": s.Keys[0].Validity, "public_keys": s.Keys,
	})
}

// goodToken is the grammar of tokens. goodKey is that of keys: 32 bytes.
var (
	goodToken = regexp.MustCompile(`^[0-9a-zA-Z.=_-]{1,255}$`)
	goodKey   = regexp.MustCompile(`^[A-Za-z0-9+/_-]{43}$`)
)

// StoreInvite has the identity server keep an invite of an address that nobody owns yet, and mail it.
//
// Spec: is storeInviteV2
// Calls: is storeInviteV2
func (d *Identity) StoreInvite(ctx context.Context, at Server, in Invite) (*Stored, error) {
	leave, err := d.enter(in.Sender)
	if err != nil {
		return nil, err
	}
	defer leave()
	answer, err := d.post(ctx, at, "/store-invite", in)
	if err != nil {
		return nil, err
	}
	return readStored(at.Name, answer)
}

func readStored(server string, answer gjson.Result) (*Stored, error) {
	s := &Stored{Token: answer.Get("token").Str, DisplayName: answer.Get("display_name").Str}
	keys := answer.Get("public_keys").Array()
	for _, k := range keys[:min(len(keys), 10)] {
		key := PublicKey{k.Get("public_key").Str, k.Get("key_validity_url").Str}
		if u, err := url.Parse(key.Validity); err != nil || u.Scheme != "https" || u.Host == "" || len(key.Validity) > 1000 || !goodKey.MatchString(key.Key) {
			return nil, unusable(server)
		}
		s.Keys = append(s.Keys, key)
	}
	if !goodToken.MatchString(s.Token) || len(s.Keys) == 0 || len(s.DisplayName) > 255 {
		return nil, unusable(server)
	}
	return s, nil
}

// unbind withdraws one address. The request is signed by the user's server; an identity server may refuse those.
//
// Spec: is unbindV2
// Calls: is unbindV2
func (d *Identity) unbind(ctx context.Context, user id.UserID, b binding) (ok bool, err error) {
	body, err := json.Marshal(map[string]any{"mxid": user, "threepid": map[string]string{"medium": b.Medium, "address": b.Address.Address}})
	if err == nil {
		body, err = canon.Canonicalize(nil, body, canon.Strict)
	}
	if err != nil {
		return false, fmt.Errorf("encode the withdrawal of an address: %w", err)
	}
	key, ours := d.cfg.Ours.Key(user.Domain())
	if !ours {
		return false, fmt.Errorf("withdraw an address: %s is not a user of ours", user)
	}
	const path = prefix + "/3pid/unbind"
	call := fedclient.Call{Origin: user.Domain(), Destination: id.ServerName(b.server)}
	authorization := fedclient.Authorization(key, call, http.MethodPost, path, body)
	status, answer, err := d.exchange(ctx, http.MethodPost, "https://"+b.server+path, authorization, body)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK:
		return true, nil
	case status == http.StatusNotFound || status == http.StatusForbidden || status == http.StatusNotImplemented || status == http.StatusBadRequest:
		return false, nil // it has no such thing, or doesn't let servers withdraw
	}
	return false, refusal(b.server, status, answer)
}

// KeyValid asks whether a key is still good that proves whose an address is, by the URL that came with it. An identity server that
// doesn't say so has not confirmed it.
//
// Spec: cs Third-party invites
// Calls: is isPubKeyValidV2; is isEphemeralPubKeyValidV2
func (d *Identity) KeyValid(ctx context.Context, sender id.UserID, validity, key string) bool {
	u, err := url.Parse(validity)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return false
	}
	leave, err := d.enter(sender)
	if err != nil {
		return false
	}
	defer leave()
	q := u.Query()
	q.Set("public_key", key)
	u.RawQuery = q.Encode()
	status, answer, err := d.exchange(ctx, http.MethodGet, u.String(), "", nil)
	return err == nil && status == http.StatusOK && answer.Get("valid").Bool()
}

func (d *Identity) get(ctx context.Context, at Server, path string) (gjson.Result, error) {
	return d.ask(ctx, at, http.MethodGet, path, nil)
}

func (d *Identity) post(ctx context.Context, at Server, path string, body any) (gjson.Result, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return gjson.Result{}, fmt.Errorf("encode a request to an identity server: %w", err)
	}
	return d.ask(ctx, at, http.MethodPost, path, raw)
}

// ask sends a request with the user's token and wants a success.
func (d *Identity) ask(ctx context.Context, at Server, method, path string, body []byte) (gjson.Result, error) {
	if err := d.check(at.Name); err != nil {
		return gjson.Result{}, err
	}
	status, answer, err := d.exchange(ctx, method, "https://"+at.Name+prefix+path, "Bearer "+at.Token, body)
	switch {
	case err != nil:
		return answer, err
	case status != http.StatusOK:
		return answer, refusal(at.Name, status, answer)
	case !answer.IsObject():
		return answer, unusable(at.Name)
	}
	return answer, nil
}

// exchange sends a request and reads the answer, as far as it is JSON.
func (d *Identity) exchange(ctx context.Context, method, target, authorization string, body []byte) (int, gjson.Result, error) {
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, gjson.Result{}, mxerr.InvalidParam("\"id_server\" is no identity server")
	}
	r.Header.Set("User-Agent", "Myelin")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp, err := d.client.Do(r)
	if err != nil {
		return 0, gjson.Result{}, web.Status(mxerr.New(mxerr.CodeConnectionFailed, "the identity server %s can't be reached", r.URL.Host), http.StatusBadRequest)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(raw) > maxAnswer {
		return 0, gjson.Result{}, unusable(r.URL.Host)
	}
	if !gjson.ValidBytes(raw) {
		return resp.StatusCode, gjson.Result{}, nil
	}
	return resp.StatusCode, gjson.ParseBytes(raw), nil
}

func unusable(server string) error {
	return web.Status(mxerr.New(mxerr.CodeUnknown, "the identity server %s gave no answer of use", server), http.StatusBadRequest)
}

// goodCode is what an errcode of another's may look like.
var goodCode = regexp.MustCompile(`^M_[A-Z_]{1,60}$`)

// refusal passes on what an identity server objects. Its 401 is not ours: the client's own token is good.
//
// Spec: cs bind3PID
func refusal(server string, status int, answer gjson.Result) error {
	code, text := answer.Get("errcode").Str, answer.Get("error").Str
	if !goodCode.MatchString(code) || status < 400 || status >= 500 {
		return unusable(server)
	}
	if text == "" || len(text) > 300 {
		text = "refused"
	}
	switch status {
	case http.StatusForbidden, http.StatusNotFound:
	default:
		status = http.StatusBadRequest
	}
	return web.Status(mxerr.New(mxerr.Code(code), "the identity server %s says: %s", server, text), status)
}
