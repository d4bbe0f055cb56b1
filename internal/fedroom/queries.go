package fedroom

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// refused is what a client is told of one server's answer to its question.
func (f *Federated) refused(what string, server id.ServerName, err error) error {
	if errors.Is(err, fedclient.ErrNotPermitted) {
		return mxerr.Forbidden("this server does not federate with %s", server)
	}
	if !outside(err) {
		return err
	}
	r := new(refusals)
	r.add(server, err)
	return r.err(what)
}

// Alias asks the server of an alias which room it stands for, and through which servers one gets there.
//
// Spec: ss queryRoomDirectory
func (f *Federated) Alias(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	server := alias.Domain()
	if !f.cfg.Client.Permitted(server) {
		return "", nil, mxerr.NotFound("this server does not federate with %s", server)
	}
	room, servers, err := f.cfg.Client.QueryDirectory(ctx, ask(f.cfg.Ours.Primary(), server), alias)
	if err != nil {
		if remoteCode(err) == mxerr.CodeNotFound {
			return "", nil, mxerr.NotFound("%s knows no room called %s", server, alias)
		}
		return "", nil, f.refused("the question", server, err)
	}
	return room, f.permitted(append(servers, server)), nil
}

// Profile asks the server of a user for the user's profile, or for one field of it.
//
// Spec: ss queryProfile
func (f *Federated) Profile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
	server := user.Domain()
	profile, err := f.cfg.Client.QueryProfile(ctx, ask(f.cfg.Ours.Primary(), server), user, field)
	if err != nil {
		return nil, f.refused("the question", server, err)
	}
	if _, ok := profile[field]; field != "" && !ok {
		return nil, mxerr.NotFound("the user's profile has no such field")
	}
	return profile, nil
}

// PublicRooms asks a server for its published rooms.
//
// Spec: ss queryPublicRooms
func (f *Federated) PublicRooms(ctx context.Context, server id.ServerName, q fedclient.PublicRoomsQuery) (fedclient.PublicRooms, error) {
	page, err := f.cfg.Client.PublicRooms(ctx, ask(f.cfg.Ours.Primary(), server), q)
	if err != nil {
		return page, f.refused("the question", server, err)
	}
	return page, nil
}

const (
	// spaceTime bounds how long a user waits for what other servers know of a room, spaceServers is how many are asked for it.
	spaceTime    = 10 * time.Second
	spaceServers = 3
)

// Hierarchy asks other servers for a room that nobody of ours is in, and for its children if it is a space: those named, then those
// through which the user could enter the room. Its errors have a code where there is nobody who tells.
//
// Spec: ss getSpaceHierarchy
func (f *Federated) Hierarchy(ctx context.Context, room id.RoomID, user id.UserID, via []id.ServerName, suggestedOnly bool) (fedclient.Hierarchy, error) {
	servers, err := f.doors(ctx, room, user, via)
	if err != nil {
		return fedclient.Hierarchy{}, err
	}
	asking, cancel := context.WithTimeout(ctx, spaceTime)
	defer cancel()
	r := new(refusals)
	for _, server := range servers[:min(len(servers), spaceServers)] {
		answer, err := f.cfg.Client.Hierarchy(asking, ask(user.Domain(), server), room, suggestedOnly)
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil || asking.Err() == nil && !outside(err) {
			return answer, err
		}
		if r.add(server, err); asking.Err() != nil {
			break
		}
	}
	if len(r.servers) == 0 {
		return fedclient.Hierarchy{}, mxerr.NotFound("there is no other server to ask for %s", room)
	}
	return fedclient.Hierarchy{}, r.err("the question")
}

const (
	// maxReach bounds how many events a page of history is filled with from elsewhere.
	maxReach = 100
	// reachRounds is how often other servers are asked for one page, reachTime how long its reader waits for them in all. What comes
	// later is there for the next page.
	reachRounds = 3
	reachTime   = 20 * time.Second
)

// Reach sees to it that a page of history, which goes back from a token, or from the newest event where that is empty, doesn't end where something is missing.
// It reports whether something is still missing there. Of a page that is larger than what is fetched at once, the first part is seen to.
//
// Spec: cs getRoomEvents
func (f *Federated) Reach(ctx context.Context, name id.RoomID, from string, limit int) (open bool, err error) {
	head, _, err := f.head(ctx, name)
	if err != nil || head == nil {
		return false, err
	}
	gaps, err := f.cfg.Graph.Gaps(ctx, head.Room, 1)
	if err != nil || len(gaps) == 0 {
		return false, err
	}
	part := graph.Range{Before: graph.End, Backward: true, Limit: min(max(limit, 1), maxReach) + 1}
	if from != "" {
		place, err := view.ParseToken(from)
		if err != nil {
			return false, err
		}
		if part.Before = int64(place) + 1; part.Before == 0 {
			part.Before = 1
		}
	}
	part.After = graph.Beginning
	asking, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	for range reachRounds {
		events, err := f.cfg.Graph.Timeline(ctx, head.Room, part)
		if err != nil {
			return false, err
		}
		if len(events) >= part.Limit {
			if limit <= maxReach {
				return false, nil
			}
			break // the page has room for what may be missing further on
		}
		n, err := f.Backfill(asking, name, part.Limit-len(events))
		if err != nil && asking.Err() == nil {
			return false, err
		}
		if n == 0 {
			break
		}
	}
	gaps, err = f.cfg.Graph.Gaps(ctx, head.Room, 1)
	return len(gaps) > 0, err
}
