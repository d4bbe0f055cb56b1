package room

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	followPage   = 100 // changes looked at in one batch
	followAtOnce = 16  // rooms of one user changed at once
)

// Followers make the member events that changes of accounts call for: a new name or picture shows in every room of
// its user, and who deactivated their account leaves. And they judge events that stick again when their room's state has changed. They can be run over the same
// changes again.
//
// Spec: cs Events on Change of Profile Information
func (r *Rooms) Followers(accounts *account.Accounts) []work.Follower {
	return []work.Follower{
		{
			Name: "profiles to rooms", Kinds: []bus.Kind{bus.ProfileChanged},
			Batch: func(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
				return r.followProfiles(ctx, accounts, from, last)
			},
		},
		{
			Name: "deactivated users leave", Kinds: []bus.Kind{bus.UserChanged},
			Batch: func(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
				return r.followDeactivations(ctx, accounts, from, last)
			},
		},
		{Name: "events that stick after all", Kinds: []bus.Kind{bus.RoomEvent, bus.Membership}, Batch: r.followSticky, Gather: stickyGather, FromNow: true},
	}
}

func (r *Rooms) followProfiles(ctx context.Context, accounts *account.Accounts, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
	changes, err := accounts.ProfilesChanged(ctx, from, last, followPage)
	if err != nil {
		return 0, nil, err
	}
	if len(changes) == followPage {
		last = changes[followPage-1].Pos
	}
	done := make(map[id.UserID]bool)
	for _, c := range changes {
		if c.Field != account.FieldDisplayName && c.Field != account.FieldAvatarURL || done[c.User] {
			continue
		}
		done[c.User] = true
		u, err := accounts.User(ctx, c.User)
		if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
			return 0, nil, err
		}
		if err != nil || u.DeactivatedTS != 0 {
			continue // they leave, which shows no name
		}
		if err := r.showProfile(ctx, c.User); err != nil {
			return 0, nil, fmt.Errorf("show the profile of %s in rooms: %w", c.User, err)
		}
	}
	return last, nil, nil
}

func (r *Rooms) followDeactivations(ctx context.Context, accounts *account.Accounts, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
	users, err := accounts.UsersChanged(ctx, from, last, followPage)
	if err != nil {
		return 0, nil, err
	}
	if len(users) == followPage {
		last = users[followPage-1].Pos
	}
	for _, u := range users {
		if u.DeactivatedTS == 0 {
			continue
		}
		err := r.inRooms(ctx, u.ID, func(ctx context.Context, room id.RoomID) error {
			_, err := r.Leave(ctx, Membership{Room: room, Sender: u.ID})
			return err
		}, graph.Join, graph.Invite, graph.Knock)
		if err != nil {
			return 0, nil, fmt.Errorf("take %s out of rooms: %w", u.ID, err)
		}
	}
	return last, nil, nil
}

// inRooms calls fn for each room where the user has one of the memberships. That a room refuses is logged and
// keeps it from nothing else.
func (r *Rooms) inRooms(ctx context.Context, user id.UserID, fn func(context.Context, id.RoomID) error, of ...graph.Membership) error {
	rows, err := r.cfg.Graph.MembershipsOf(ctx, user, of...)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(followAtOnce)
	for _, row := range rows {
		g.Go(func() error {
			err := fn(ctx, row.RoomID)
			if refusal, ok := mxerr.Of(err); ok {
				r.cfg.Log.Info("a room refuses what follows from a change of an account",
					slog.String("room", string(row.RoomID)), slog.String("user", string(user)), slog.String("code", string(refusal.Code)))
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// showProfile brings the user's member events up to date. Those that are stay.
func (r *Rooms) showProfile(ctx context.Context, user id.UserID) error {
	profile, err := r.cfg.Profile(ctx, user)
	if err != nil {
		return err
	}
	content, err := r.memberContent(ctx, Membership{Sender: user}, graph.Join)
	if err != nil {
		return err
	}
	target := string(user)
	return r.inRooms(ctx, user, func(ctx context.Context, room id.RoomID) error {
		_, err := r.compose(ctx, room, graph.TxnRef{}, func(b *batch) (step, error) {
			if b.membership(user) != graph.Join {
				return step{}, nil
			}
			now, err := b.current(ctx, "m.room.member", target)
			if err != nil {
				return step{}, err
			}
			if now != nil && shows(now.Content(), profile) {
				return step{event: now.ID()}, nil
			}
			pdu, err := b.add(ctx, Proposal{Sender: user, Type: "m.room.member", StateKey: &target, Content: content})
			if err != nil {
				return step{}, err
			}
			return b.step(pdu.ID(), graph.TxnRef{}), nil
		})
		return err
	}, graph.Join)
}

// shows reports whether the content of a member event has a profile's name and picture.
func shows(content []byte, p Profile) bool {
	return gjson.GetBytes(content, "displayname").Str == p.DisplayName && gjson.GetBytes(content, "avatar_url").Str == p.AvatarURL
}
