package fedclient

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const (
	// Our keys are published as valid for ownValid, and signed anew after ownRenew, so that nobody gets an answer that is about to expire.
	ownValid = 48 * time.Hour
	ownRenew = 12 * time.Hour
)

// ownKeys remembers the signed objects of our own keys.
type ownKeys struct {
	mu   sync.Mutex // guards made
	made map[id.ServerName]ownObject
}

type ownObject struct {
	raw  json.RawMessage
	made time.Time
}

// OwnKeys returns the keys of a name of ours as we publish them, signed. The error is M_NOT_FOUND for any other name.
//
// Spec: ss getServerKey
func (c *Client) OwnKeys(name id.ServerName) (json.RawMessage, error) {
	key, ok := c.ours.Key(name)
	if !ok {
		return nil, mxerr.NotFound("%s is not a name of this server.", name)
	}
	now := time.Now()
	c.own.mu.Lock()
	defer c.own.mu.Unlock()
	if o, ok := c.own.made[name]; ok && now.Sub(o.made) < ownRenew && !now.Before(o.made) {
		return o.raw, nil
	}
	type published struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts,omitempty"`
	}
	old := make(map[sign.KeyID]published)
	for _, k := range c.ours.OldKeys(name) {
		old[k.ID] = published{sign.EncodeBase64(k.Public), k.ExpiredTS}
	}
	object, err := canon.Marshal(map[string]any{
		"server_name":     name,
		"valid_until_ts":  now.Add(ownValid).UnixMilli(),
		"verify_keys":     map[sign.KeyID]published{key.ID: {Key: sign.EncodeBase64(key.Public())}},
		"old_verify_keys": old,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the keys of %s: %w", name, err)
	}
	signed, err := key.Sign(object, string(name))
	if err != nil {
		return nil, fmt.Errorf("sign the keys of %s: %w", name, err)
	}
	if c.own.made == nil {
		c.own.made = make(map[id.ServerName]ownObject)
	}
	c.own.made[name] = ownObject{signed, now}
	return signed, nil
}
