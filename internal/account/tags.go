package account

import (
	"context"
	"encoding/json"
	"fmt"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxTags is how many tags a room may have for one user.
const maxTags = 200

// tagContent is the content of m.tag.
//
// Spec: cs Room Tagging
type tagContent struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// Tags returns the answer of getRoomTags: {"tags": {...}}.
//
// Spec: cs getRoomTags
func (a *Accounts) Tags(ctx context.Context, user id.UserID, room id.RoomID) (json.RawMessage, error) {
	raw, err := a.Data(ctx, user, room, TypeTag)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return json.RawMessage(`{"tags":{}}`), nil
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(decodeTags(raw))
}

// decodeTags reads what may have been set as plain account data, in any shape.
func decodeTags(raw json.RawMessage) tagContent {
	var c tagContent
	if json.Unmarshal(raw, &c) != nil || c.Tags == nil {
		c.Tags = map[string]json.RawMessage{}
	}
	return c
}

// SetTag tags a room. content is the request body, an object that may hold an order from 0 to 1.
//
// Spec: cs setRoomTag
func (a *Accounts) SetTag(ctx context.Context, user id.UserID, room id.RoomID, tag string, content []byte) error {
	if err := checkIdentifier("tag", tag); err != nil {
		return mxerr.InvalidParam("%s.", err)
	}
	if len(content) == 0 {
		content = []byte("{}")
	}
	value, err := compactObject(content)
	if err != nil {
		return err
	}
	var known struct {
		Order *float64 `json:"order"`
	}
	if json.Unmarshal(value, &known) != nil {
		return mxerr.BadJSON(`"order" must be a number.`)
	}
	if known.Order != nil && (*known.Order < 0 || *known.Order > 1) {
		return mxerr.InvalidParam(`"order" must be between 0 and 1.`)
	}
	return a.UpdateData(ctx, user, room, TypeTag, func(old json.RawMessage) (json.RawMessage, error) {
		c := decodeTags(old)
		if c.Tags[tag] = value; len(c.Tags) > maxTags {
			return nil, mxerr.TooLarge("A room has at most %d tags.", maxTags)
		}
		return encodeTags(c)
	})
}

// DeleteTag removes a tag. Removing what is not there is no error and changes nothing.
//
// Spec: cs deleteRoomTag
func (a *Accounts) DeleteTag(ctx context.Context, user id.UserID, room id.RoomID, tag string) error {
	return a.UpdateData(ctx, user, room, TypeTag, func(old json.RawMessage) (json.RawMessage, error) {
		c := decodeTags(old)
		if _, ok := c.Tags[tag]; !ok {
			return nil, errUnchanged
		}
		delete(c.Tags, tag)
		return encodeTags(c)
	})
}

func encodeTags(c tagContent) (json.RawMessage, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode tags: %w", err)
	}
	return raw, nil
}
