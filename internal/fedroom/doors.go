package fedroom

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxDoors is how many servers are asked to let somebody in, at most.
	maxDoors = 10
	// entranceTime bounds a whole attempt to get into a room, through all servers together.
	entranceTime = 5 * time.Minute
	// askTime bounds a single question for which a user waits.
	askTime = 20 * time.Second
)

// newEventID is the ID of an event of ours in rooms of versions 1 and 2.
func newEventID(domain id.ServerName) string { return "$" + rand.Text() + ":" + string(domain) }

// ask is a call that a user waits for.
func ask(origin, destination id.ServerName) fedclient.Call {
	return fedclient.Call{Origin: origin, Destination: destination, Urgent: true, Timeout: askTime}
}

// doors lists the servers through which a user may get into a room, the best first: those that the client names and those of whoever
// invited the user. Where the client names none, also those that were in the room when this server last was, and the one that made the room.
//
// Spec: ss Joining Rooms
func (f *Federated) doors(ctx context.Context, room id.RoomID, user id.UserID, via []id.ServerName) ([]id.ServerName, error) {
	doors := append([]id.ServerName{}, via...)
	nid, known, err := f.cfg.Graph.RoomNID(ctx, room)
	if err != nil {
		return nil, err
	}
	if known {
		row, ok, err := f.cfg.Graph.MembershipOf(ctx, user, nid)
		if err != nil {
			return nil, err
		}
		if ok && row.Stripped != nil {
			doors = append(doors, strippedServers(row, user)...)
		}
		if len(via) == 0 {
			servers, err := f.cfg.Graph.Servers(ctx, nid)
			if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) { // the room may be known from an invite alone
				return nil, err
			}
			doors = append(doors, servers...)
		}
	}
	if domain, ok := room.Domain(); ok && len(via) == 0 {
		doors = append(doors, domain)
	}
	doors = f.permitted(doors)
	return doors[:min(len(doors), maxDoors)], nil
}

// strippedServers lists the servers of those who sent the stripped state of an invite or a knock, the inviter's first.
func strippedServers(row graph.MemberRow, user id.UserID) []id.ServerName {
	var inviter, others []id.ServerName
	gjson.ParseBytes(row.Stripped).ForEach(func(_, e gjson.Result) bool {
		sender, err := id.ParseUserID(e.Get("sender").Str)
		switch {
		case err != nil || len(others) > 2*maxDoors:
		case e.Get("type").Str == "m.room.member" && e.Get("state_key").Str == string(user):
			inviter = append(inviter, sender.Domain())
		default:
			others = append(others, sender.Domain())
		}
		return true
	})
	return append(inviter, others...)
}
