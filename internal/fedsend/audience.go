package fedsend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/matrix/id"
)

const (
	// audienceMemory bounds what is remembered of rooms, in bytes, as far as serverCost and roomCost tell.
	audienceMemory = 32 << 20
	serverCost     = 96
	roomCost       = 300
	// trustAudience is for how long an audience is good enough for presence without a look at the room.
	trustAudience = time.Minute
	memberType    = "m.room.member"
)

// audiences remembers which servers are in which rooms.
type audiences struct {
	graph  *graph.Graph
	ours   *ours.Set
	client *fedclient.Client
	cache  *otter.Cache[graph.RoomNID, *audience]
}

// audience is the servers of one room, by one state of it. It follows the room by what differs between states.
type audience struct {
	room graph.RoomNID

	mu      sync.Mutex // guards all below; held while states are compared
	known   bool
	state   graph.StateNID
	checked time.Time
	counts  map[id.ServerName]int32 // joined members
	// told are servers that are in the room by the word of another, while not all members are known; nil otherwise.
	told []id.ServerName
	// others are the servers that may be told; immutable. speaker is the name of ours in whose name to speak for the room.
	others  []id.ServerName
	speaker id.ServerName
}

func newAudiences(c Config) *audiences {
	return &audiences{graph: c.Graph, ours: c.Ours, client: c.Client, cache: otter.Must(&otter.Options[graph.RoomNID, *audience]{
		MaximumWeight: audienceMemory,
		Weigher: func(_ graph.RoomNID, a *audience) uint32 {
			return uint32(roomCost + serverCost*len(a.counts))
		},
	})}
}

func (as *audiences) of(room graph.RoomNID) *audience {
	if a, ok := as.cache.GetIfPresent(room); ok {
		return a
	}
	return &audience{room: room}
}

// after returns the other servers with joined members in a state of a room, and who of us speaks for it. The slice is not to be changed.
func (as *audiences) after(ctx context.Context, room graph.RoomNID, state graph.StateNID) ([]id.ServerName, id.ServerName, error) {
	a := as.of(room)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := as.move(ctx, a, state); err != nil {
		return nil, "", fmt.Errorf("find the servers in room %d: %w", room, err)
	}
	return a.others, a.speaker, nil
}

// lately is after for the newest state, or one that was newest a short while ago.
func (as *audiences) lately(ctx context.Context, room graph.RoomNID, trust time.Duration) ([]id.ServerName, error) {
	a := as.of(room)
	a.mu.Lock()
	if a.known && time.Since(a.checked) < trust {
		defer a.mu.Unlock()
		return a.others, nil
	}
	a.mu.Unlock()
	head, err := as.graph.HeadOf(ctx, room)
	if err != nil {
		return nil, err
	}
	others, _, err := as.after(ctx, room, head.StateNID)
	return others, err
}

// history returns an audience that may move through the past of a room without disturbing others. Only its owner uses it.
func (as *audiences) history(room graph.RoomNID) *audience {
	a := as.of(room)
	a.mu.Lock()
	defer a.mu.Unlock()
	return &audience{room: room, known: a.known, state: a.state, counts: maps.Clone(a.counts), told: a.told}
}

// in reports whether a server has members in a state, or may have while not all members are known.
func (as *audiences) in(ctx context.Context, a *audience, server id.ServerName, state graph.StateNID) (bool, error) {
	if _, err := as.shift(ctx, a, state); err != nil {
		return false, fmt.Errorf("find out whether %s was in room %d: %w", server, a.room, err)
	}
	return a.counts[server] > 0 || slices.Contains(a.told, server), nil
}

// move brings a shared audience to a state. Caller holds a.mu.
func (as *audiences) move(ctx context.Context, a *audience, state graph.StateNID) error {
	changed, err := as.shift(ctx, a, state)
	if err != nil {
		return err
	}
	a.checked = time.Now()
	if !changed && a.told == nil {
		return nil
	}
	// A room can only become one of which not all members are known by our coming into it, which changes its servers.
	if a.told, _, err = as.graph.ServersTold(ctx, a.room); err != nil {
		a.known = false
		return err
	}
	a.others, a.speaker = nil, as.ours.Primary()
	for _, server := range slices.Concat(slices.Collect(maps.Keys(a.counts)), a.told) {
		if !as.ours.Is(server) && as.client.Permitted(server) {
			a.others = append(a.others, server)
		}
	}
	slices.Sort(a.others)
	a.others = slices.Compact(a.others)
	for _, name := range as.ours.Names() {
		if a.counts[name] > 0 {
			a.speaker = name
			break
		}
	}
	as.cache.Set(a.room, a)
	return nil
}

// shift counts the members in a state, by what differs where there is something to compare with. It reports whether the set of
// servers may have changed. After an error the audience knows nothing.
func (as *audiences) shift(ctx context.Context, a *audience, state graph.StateNID) (changed bool, err error) {
	if a.known && a.state == state {
		return false, nil
	}
	if a.known {
		diff, err := as.graph.StateDiff(ctx, a.room, a.state, state)
		if err == nil {
			a.state = state
			return a.apply(diff), nil
		}
		// The state that is compared with may have been reclaimed since.
		a.known = false
	}
	s, err := as.graph.StateAt(ctx, a.room, state)
	if err != nil {
		return false, err
	}
	a.counts = make(map[id.ServerName]int32)
	for m := range s.Members(graph.Join) {
		a.counts[m.User.Domain()]++
	}
	a.known, a.state = true, state
	return true, nil
}

// apply counts who came and who went.
func (a *audience) apply(diff []graph.StateDiff) (changed bool) {
	for _, d := range diff {
		was, is := d.OldMembership == graph.Join, d.NewMembership == graph.Join
		if d.Key.Type != memberType || was == is {
			continue
		}
		server := id.UserID(d.Key.StateKey).Domain()
		n := a.counts[server]
		if is {
			a.counts[server] = n + 1
			changed = changed || n == 0
		} else if n > 1 {
			a.counts[server] = n - 1
		} else {
			delete(a.counts, server)
			changed = true
		}
	}
	return changed
}
