package syncer

import (
	"cmp"
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	typeDirect = "m.direct"
	// maxDepartures bounds the rooms that a user left lately of which it is found out whether somebody removed the user.
	maxDepartures = 200
)

// bumps are the types of events that count as activity in a room.
//
// MSC4186: Room results, bump_stamp
var bumps = map[string]bool{
	"m.room.create": true, "m.room.message": true, "m.room.encrypted": true, "m.sticker": true, "m.call.invite": true,
	"m.poll.start": true, "org.matrix.msc3381.poll.start": true, "m.beacon_info": true, "org.matrix.msc3672.beacon_info": true,
}

// shelf holds a user's rooms in the order of their last activity, with what filters of lists ask for. Once it is there it follows the bus, so
// that a list costs no look at the database. hub.mu guards it.
//
// MSC4186: Activity ordering
type shelf struct {
	top    card // anchor of a ring: the room with the newest event comes first
	direct map[id.RoomID]bool
	// unsure are rooms of which it has to be read again what they are.
	unsure []graph.RoomNID
}

// card is a room on a shelf.
type card struct {
	seat         *seat
	above, below *card
	kind         string
	encrypted    bool
	unsure       bool
	// removed: the user was in the room and somebody else took them out.
	removed bool
	direct  bool
	tags    []string
	inviter id.UserID // of a room that the user is invited to
	bump    sqldb.Pos // of the newest event that counts as activity; 0 where that isn't known
}

// stock is what a shelf is filled with.
type stock struct {
	rooms    []graph.Recency
	direct   map[id.RoomID]bool
	tags     []account.Datum
	removed  map[graph.RoomNID]bool
	inviters map[graph.RoomNID]id.UserID
}

// shelve fills the shelf.
func (f *feed) shelve(in *stock) {
	f.shelf = &shelf{direct: in.direct}
	f.shelf.top.above, f.shelf.top.below = &f.shelf.top, &f.shelf.top
	byRoom := make(map[graph.RoomNID]*graph.Recency, len(in.rooms))
	for i := range in.rooms {
		byRoom[in.rooms[i].Room] = &in.rooms[i]
	}
	tags := make(map[id.RoomID][]string, len(in.tags))
	for _, d := range in.tags {
		tags[d.Room] = tagNames(d)
	}
	cards := make([]card, 0, len(f.seats))
	for _, s := range f.seats {
		cards = append(cards, card{seat: s, removed: in.removed[s.row.Room], inviter: in.inviters[s.row.Room]})
		c := &cards[len(cards)-1]
		c.direct, c.tags = in.direct[s.row.RoomID], tags[s.row.RoomID]
		r := byRoom[s.row.Room]
		switch {
		case s.row.Stripped != nil:
			c.stripped(s.row.Stripped)
			c.inviter = senderOf(s.row.Stripped, f.user)
		case r != nil:
			c.kind, c.encrypted = r.Kind, r.Encrypted
		}
		if s.active = max(s.active, s.row.Pos); r != nil && s.row.Membership == graph.Join {
			s.active = max(s.active, r.Last)
		}
	}
	order := make([]*card, len(cards))
	for i := range cards {
		order[i] = &cards[i]
	}
	slices.SortFunc(order, func(a, b *card) int {
		return cmp.Or(cmp.Compare(a.seat.active, b.seat.active), cmp.Compare(a.seat.row.Room, b.seat.row.Room))
	})
	for _, c := range order {
		c.seat.card = c
		c.putBelow(&f.shelf.top)
	}
	f.shape++
}

// stripped reads what a room is from stripped state.
func (c *card) stripped(raw []byte) {
	c.kind, c.encrypted = "", false
	for _, e := range gjson.ParseBytes(raw).Array() {
		switch e.Get("type").Str {
		case "m.room.create":
			c.kind = e.Get("content.type").Str
		case "m.room.encryption":
			c.encrypted = true
		}
	}
}

func tagNames(d account.Datum) (names []string) {
	gjson.GetBytes(d.Content, "tags").ForEach(func(name, _ gjson.Result) bool {
		names = append(names, name.Str)
		return true
	})
	return names
}

// directRooms reads m.direct.
func directRooms(content []byte) map[id.RoomID]bool {
	rooms := make(map[id.RoomID]bool)
	gjson.ParseBytes(content).ForEach(func(_, list gjson.Result) bool {
		for _, r := range list.Array() {
			rooms[id.RoomID(r.Str)] = true
		}
		return true
	})
	return rooms
}

func (c *card) putBelow(other *card) {
	c.above, c.below = other, other.below
	c.above.below, c.below.above = c, c
}

// lift moves a card to its place in the order after its seat's activity grew.
func (sh *shelf) lift(c *card) {
	if c.above != nil {
		c.above.below, c.below.above = c.below, c.above
	}
	under := &sh.top
	// Somebody may have read of a room's newest event before the bus told of this one.
	for under.below != &sh.top && under.below.seat.active > c.seat.active {
		under = under.below
	}
	c.putBelow(under)
}

// doubt has it read again what a room is.
func (f *feed) doubt(c *card) {
	if !c.unsure {
		c.unsure = true
		f.shelf.unsure = append(f.shelf.unsure, c.seat.row.Room)
	}
}

// rise notes an event in a room that the user is in.
func (f *feed) rise(s *seat, e *graph.Event) {
	newer := e.Pos > s.active
	s.active = max(s.active, e.Pos)
	if s.card == nil {
		return
	}
	typ, state := e.PDU.Type(), e.PDU.IsState()
	if bumps[typ] {
		s.card.bump = max(s.card.bump, e.Pos)
	}
	// A change of state that the event itself doesn't make comes from forks that met.
	if state && typ == "m.room.encryption" || !state && e.HeadBefore != e.HeadState {
		f.doubt(s.card)
	}
	if newer {
		f.shelf.lift(s.card)
	}
}

// moved notes a member event of the user. old is the membership before.
func (f *feed) moved(s *seat, e *graph.Event, old graph.Membership) {
	s.active = max(s.active, e.Pos)
	now := s.row.Membership
	if now != old {
		f.shape++
	}
	if f.shelf == nil {
		return
	}
	if s.card == nil {
		s.card = &card{seat: s, direct: f.shelf.direct[s.row.RoomID]}
	}
	if now != old {
		s.card.bump = 0
	}
	switch {
	case now != graph.Leave && now != graph.Ban:
		s.card.removed = false
		if now == graph.Invite {
			s.card.inviter = e.PDU.Sender()
		}
		if now != old {
			f.doubt(s.card)
		}
	case old == graph.Join:
		s.card.removed = e.PDU.Sender() != f.user
	case now != old && (now == graph.Ban || old == graph.Ban):
		f.unshelve() // it takes a look at what was before
		return
	}
	f.shelf.lift(s.card)
}

// unshelve has the shelf filled again.
func (f *feed) unshelve() {
	f.shelf = nil
	for _, s := range f.seats {
		s.card = nil
	}
}

// sorted notes account data that lists are sorted out by.
func (f *feed) sorted(d account.Datum) {
	if d.Room != "" {
		for _, s := range f.seats {
			if s.row.RoomID != d.Room {
				continue
			}
			f.touch(s, d.Pos)
			if d.Type == account.TypeTag {
				f.shape++
				if s.card != nil {
					s.card.tags = tagNames(d)
				}
			}
			return
		}
		return
	}
	if d.Type == account.TypeIgnored || account.SaysWhoMayInvite(d.Type) {
		f.shape++ // invites come and go
	}
	if d.Type != typeDirect {
		return
	}
	f.shape++
	if f.shelf == nil {
		return
	}
	f.shelf.direct = directRooms(d.Content)
	for _, s := range f.seats {
		s.card.direct = f.shelf.direct[s.row.RoomID]
	}
}

// arrange calls fn with the user's feed, its shelf filled and sure of everything. h.mu is held meanwhile.
func (s *Syncer) arrange(ctx context.Context, user id.UserID, from sqldb.Pos, fn func(f *feed)) error {
	for {
		var epoch, shape int64
		var members []graph.MemberRow
		var unsure []graph.RoomNID
		done := false
		err := s.hub.with(ctx, user, from, func(f *feed) {
			switch epoch, shape = f.epoch, f.shape; {
			case f.shelf == nil:
				members = append(f.departed(), f.invited()...)
			case len(f.shelf.unsure) > 0:
				unsure, f.shelf.unsure = f.shelf.unsure, nil
				for _, room := range unsure {
					f.seats[room].card.unsure = false
				}
			default:
				done = true
				fn(f)
			}
		})
		if err != nil || done {
			return err
		}
		if unsure != nil {
			err = s.resolve(ctx, user, epoch, unsure)
		} else {
			err = s.fill(ctx, user, epoch, shape, members)
		}
		if err != nil {
			return err
		}
	}
}

// departed returns the rooms that the user left last, those among them from which the user is banned, or was.
func (f *feed) departed() (rows []graph.MemberRow) {
	for _, s := range f.seats {
		r := &s.row
		if r.Forgotten || r.Event == 0 {
			continue
		}
		if r.Membership == graph.Ban || r.Membership == graph.Leave && (r.Prev == graph.Join || r.Prev == graph.Ban) {
			rows = append(rows, *r)
		}
	}
	slices.SortFunc(rows, func(a, b graph.MemberRow) int { return cmp.Compare(b.Pos, a.Pos) })
	return rows[:min(len(rows), maxDepartures)]
}

// invited returns the rooms that the user is invited to by events that are here.
func (f *feed) invited() (rows []graph.MemberRow) {
	for _, s := range f.seats {
		if s.row.Membership == graph.Invite && s.row.Event != 0 {
			rows = append(rows, s.row)
		}
	}
	return rows
}

// fill reads what a shelf holds and puts it there, unless the feed has become another one meanwhile. members are rooms of which it depends on the
// sender of the user's member event how they are listed.
func (s *Syncer) fill(ctx context.Context, user id.UserID, epoch, shape int64, members []graph.MemberRow) (err error) {
	in := &stock{removed: make(map[graph.RoomNID]bool), inviters: make(map[graph.RoomNID]id.UserID)}
	if in.rooms, err = s.cfg.Graph.RecencyOf(ctx, user); err != nil {
		return err
	}
	if in.tags, err = s.cfg.Accounts.DataOfType(ctx, user, account.TypeTag); err != nil {
		return err
	}
	direct, err := s.cfg.Accounts.Data(ctx, user, "", typeDirect)
	if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
		return err
	}
	in.direct = directRooms(direct)
	nids, left := make([]graph.EventNID, len(members)), make(map[graph.RoomNID]bool)
	for i, row := range members {
		nids[i], left[row.Room] = row.Event, row.Prev == graph.Join
	}
	events, err := s.cfg.Graph.EventsOfAny(ctx, nids)
	if err != nil {
		return err
	}
	for _, e := range events {
		if graph.Membership(e.PDU.Membership()) == graph.Invite {
			in.inviters[e.Room] = e.PDU.Sender()
			continue
		}
		// Who was banned may never have been there.
		if in.removed[e.Room] = e.PDU.Sender() != user; in.removed[e.Room] && !left[e.Room] {
			if in.removed[e.Room], err = s.stayed(ctx, e); err != nil {
				return err
			}
		}
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	// A change of memberships or of sorting account data since then may be missing from what was read.
	if f := s.hub.feeds[user]; f != nil && f.loaded && f.shelf == nil && f.epoch == epoch && f.shape == shape {
		f.shelve(in)
	}
	return nil
}

// stayed reports whether the user whose member event this is was in the room before.
func (s *Syncer) stayed(ctx context.Context, e *graph.Event) (bool, error) {
	for range maxMemberHistory {
		if e.Replaces == 0 {
			break
		}
		before, err := s.cfg.Graph.Events(ctx, e.Room, []graph.EventNID{e.Replaces})
		if err != nil {
			return false, err
		}
		if e = before[0]; graph.Membership(e.PDU.Membership()) == graph.Join {
			return true, nil
		}
	}
	return false, nil
}

// resolve reads what rooms are.
func (s *Syncer) resolve(ctx context.Context, user id.UserID, epoch int64, rooms []graph.RoomNID) error {
	found, err := s.cfg.Graph.RecencyIn(ctx, user, rooms)
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	f := s.hub.feeds[user]
	if f == nil || f.shelf == nil || f.epoch != epoch {
		return err
	}
	if err != nil {
		for _, room := range rooms {
			f.doubt(f.seats[room].card)
		}
		return err
	}
	for _, r := range found {
		c := f.seats[r.Room].card
		if c.seat.row.Stripped != nil {
			c.stripped(c.seat.row.Stripped)
		} else if c.kind != r.Kind || c.encrypted != r.Encrypted {
			c.kind, c.encrypted = r.Kind, r.Encrypted
			f.shape++
		}
	}
	return nil
}
