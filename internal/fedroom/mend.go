package fedroom

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Bounds of one attempt to repair a room.
const (
	// mendAtOnce is how many staged events are taken up together.
	mendAtOnce = 200
	// maxRounds is how often ancestors are asked for, missingAtOnce how many at a time.
	maxRounds     = 40
	missingAtOnce = 50
	// fullAnswer is what servers give at least if they have it: the specification's own limit where none is asked for.
	fullAnswer = 10
	// maxPool is how many fetched events wait for their ancestors at once.
	maxPool = 2000
	// maxGrafts is how often the state is taken from another server.
	maxGrafts = 10
	// maxForged is how many events are asked for of which there is a copy with a wrong signature.
	maxForged = 5
	// missingTries is how often a server is asked for what is missing while its answer is lost on the way.
	missingTries = 3
	// serversAsked is how many servers are asked one after the other for the same.
	serversAsked = 5
	// originsAsked is how many of them are servers that sent what waits.
	originsAsked = 2
	// patientFor is after how many attempts a state is taken from a server that might still say what is missing, and patience the pause before the next
	// of these, which doubles: what has just been said should not wait for long.
	patientFor = 2
	patience   = time.Second
	// strictFor is after how many attempts a state is taken that lacks events to which there are no keys.
	strictFor = 6
)

// mend is one attempt to get what staged events of a room refer to.
type mend struct {
	f       *Federated
	place   place
	head    *graph.Head
	servers []id.ServerName
	// floor is the depth of the join by which this server came into the room, or of the oldest history here: ancestors above it are fetched.
	floor int64
	// pool holds events that pass the checks which need no room, and wait for what they refer to.
	pool map[id.EventID]*event.PDU
	// lacks is what those in the pool were last found to miss.
	lacks map[id.EventID]*room.Missing
	// lost are events that can have no place in the room, and why.
	lost map[id.EventID]error
	// failed are events about which this server could not decide, and why: those that need too large a resolution, for one. They wait, and what
	// follows them does.
	failed map[id.EventID]error
	// forged are staged events of which this server has only a copy that its signers did not sign.
	forged map[id.EventID]bool
	// chased are events whose auth chain was asked for.
	chased map[id.EventID]bool
	// sought are missing ancestors that servers were asked for one by one.
	sought map[id.EventID]bool
	// drained are servers whose last answer was shorter than they need to make one, and did not close the gap.
	drained map[id.ServerName]bool
	// unheard are servers that did not say what is missing because they could not check who asks.
	unheard map[id.ServerName]bool
	// first says that it is the first attempt for all of the events, patient that none of them has waited for long.
	first, patient bool
	// suspect are servers that gave events which break the format of the room's version.
	suspect map[id.ServerName]bool
	// cause is why the last question had no answer; notBefore is when it may be asked again.
	cause     error
	notBefore time.Time
	grafts    int
	// late says that the attempt's time was up.
	late bool
}

// Repair makes one attempt at the staged events of a room whose turn it is: it asks for missing ancestors, first the server that the events came
// from and then others, goes back at most maxRounds times, and where the gap stays open takes the state behind it from another server. Each
// event is then part of the room, or given up with a reason, or has another turn later.
//
// Spec: ss Backfilling and retrieving missing events
func (f *Federated) Repair(ctx context.Context, room id.RoomID) error {
	waiting, err := f.stagedOf(ctx, room, mendAtOnce)
	if err != nil || len(waiting) == 0 {
		return err
	}
	head, member, err := f.head(ctx, room)
	if err != nil {
		return err
	}
	if head == nil {
		var fates []fate
		for _, s := range waiting {
			fates = append(fates, fate{staged: s, done: true}) // this server has left
		}
		return f.settle(ctx, room, fates)
	}
	m := &mend{
		f: f, place: placeOf(head, member), head: head, pool: map[id.EventID]*event.PDU{}, lacks: nil,
		lost: map[id.EventID]error{}, chased: map[id.EventID]bool{}, sought: map[id.EventID]bool{}, suspect: map[id.ServerName]bool{},
		drained: map[id.ServerName]bool{}, unheard: map[id.ServerName]bool{}, forged: map[id.EventID]bool{}, failed: map[id.EventID]error{},
		first: true, patient: true,
	}
	budget := outsiderTime
	for _, s := range waiting {
		if !s.outsider {
			budget = repairTime
		}
		m.place.lenient = m.place.lenient || s.tries >= strictFor
		m.first = m.first && s.tries == 0
		m.patient = m.patient && s.tries < patientFor
		// Who has just sent something is there, however the last question to it ended.
		m.place.urgent = m.place.urgent || s.tries < patientFor
	}
	if m.servers, err = f.whom(ctx, head.Room, waiting); err != nil {
		return err
	}
	if m.floor, err = f.floor(ctx, head.Room); err != nil {
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	m.take(attempt, waiting)
	if err := m.run(attempt); err != nil && attempt.Err() == nil {
		return err
	}
	m.late = attempt.Err() != nil
	return f.settle(ctx, room, m.fates(ctx, waiting))
}

// whom returns the servers that are asked in one attempt: a few of those that sent what waits, first those that are in the room, then others of
// the room. Whoever sends a lot under many names doesn't keep the room's own servers from being asked.
func (f *Federated) whom(ctx context.Context, room graph.RoomNID, waiting []staged) ([]id.ServerName, error) {
	residents, err := f.cfg.Graph.Servers(ctx, room)
	if err != nil {
		return nil, err
	}
	var inside, outside []id.ServerName
	for _, s := range waiting {
		switch {
		case slices.Contains(inside, s.origin) || slices.Contains(outside, s.origin):
		case slices.Contains(residents, s.origin):
			inside = append(inside, s.origin)
		default:
			outside = append(outside, s.origin)
		}
	}
	origins := f.permitted(append(inside, outside...))
	servers := f.permitted(slices.Concat(origins[:min(len(origins), originsAsked)], residents))
	return servers[:min(len(servers), serversAsked)], nil
}

// gapsLookedAt bounds the gaps by which the floor is found.
const gapsLookedAt = 1000

// floor returns the depth below which what is missing of a room is its past: what came before this server did. It is fetched when somebody
// scrolls up to it, and has no part in the room's state: as one more branch it would bring back what the room was long ago.
func (f *Federated) floor(ctx context.Context, room graph.RoomNID) (int64, error) {
	gaps, err := f.cfg.Graph.Gaps(ctx, room, gapsLookedAt)
	if err != nil {
		return 0, err
	}
	children := make([]graph.EventNID, 0, len(gaps))
	for _, g := range gaps {
		children = append(children, g.Child)
	}
	slices.Sort(children)
	events, err := f.cfg.Graph.Events(ctx, room, slices.Compact(children))
	if err != nil {
		return 0, err
	}
	floor := int64(0)
	for _, e := range events {
		if e.Flags&graph.Backfilled != 0 || f.entrance(e.PDU) {
			floor = max(floor, e.PDU.Depth())
		}
	}
	// After an event that claims the greatest depth, all have it, and it doesn't tell what came before the join from what came after.
	return min(floor, canon.MaxInt-1), nil
}

// entrance reports whether an event is a join of a user of ours, which if it follows a gap was made with the help of another server.
func (f *Federated) entrance(p *event.PDU) bool {
	return p.Type() == "m.room.member" && p.Key().StateKey == string(p.Sender()) && f.cfg.Ours.Is(p.Sender().Domain()) &&
		p.Membership() == string(graph.Join)
}

// take checks the staged events.
func (m *mend) take(ctx context.Context, waiting []staged) {
	raws := make([][]byte, len(waiting))
	for i, s := range waiting {
		raws[i] = s.body
	}
	pdus, errs := m.f.cfg.Client.CheckPDUs(ctx, m.head.Version, raws, m.servers...)
	for i, p := range pdus {
		fault, faulty := errors.AsType[*fedclient.Fault](errs[i])
		switch {
		case errs[i] == nil:
			m.pool[p.ID()] = p
		case faulty && fault.Kind == fedclient.FaultSignature:
			m.forged[waiting[i].event] = true
		case faulty && !fault.Retry():
			m.lost[waiting[i].event] = errs[i]
		default:
			m.note(errs[i])
		}
	}
	for i, e := range slices.Sorted(maps.Keys(m.forged)) {
		if i == maxForged || ctx.Err() != nil {
			return
		}
		if found, err := m.seek(ctx, e); err == nil && found != nil {
			m.pool[e] = found
			delete(m.forged, e)
		}
	}
}

// note remembers why something could not be had.
func (m *mend) note(err error) {
	m.cause = err
	if at := retryAt(err); m.notBefore.IsZero() || !at.IsZero() && at.Before(m.notBefore) {
		m.notBefore = at
	}
}

// run works until the pool is empty or nothing helps.
func (m *mend) run(ctx context.Context) error {
	for round := 0; ; round++ {
		if err := m.admit(ctx); err != nil {
			return err
		}
		if len(m.pool) == 0 || ctx.Err() != nil {
			return nil
		}
		chased, err := m.chase(ctx)
		if err != nil {
			return err
		}
		if chased {
			continue
		}
		if round < maxRounds && len(m.pool) < maxPool {
			more, err := m.goBack(ctx)
			if err != nil {
				return err
			}
			if more {
				continue
			}
		}
		grafted, err := m.graft(ctx)
		if err != nil || !grafted {
			return err
		}
	}
}

// admit has the room take what it can.
func (m *mend) admit(ctx context.Context) error {
	for before := -1; len(m.pool) != before && len(m.pool) > 0; {
		before = len(m.pool)
		pdus := make([]*event.PDU, 0, len(m.pool))
		for _, p := range m.pool {
			pdus = append(pdus, p)
		}
		slices.SortFunc(pdus, func(a, b *event.PDU) int {
			return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.ID(), b.ID()))
		})
		pdus = parentsFirst(pdus)
		m.lacks = make(map[id.EventID]*room.Missing)
		for i, r := range m.f.cfg.Rooms.ReceivePatiently(ctx, m.place.room, pdus) {
			p := pdus[i]
			if missing, ok := errors.AsType[*room.Missing](r.Err); ok {
				m.lacks[p.ID()] = missing
				continue
			}
			if _, ok := mxerr.Of(r.Err); ok {
				m.lost[p.ID()] = r.Err
			} else if r.Err != nil {
				if ctx.Err() != nil {
					return r.Err
				}
				m.fail(ctx, p.ID(), r.Err)
			}
			delete(m.pool, p.ID())
		}
	}
	return nil
}

// fail notes that this server could not decide about an event. Others of the room don't suffer for it.
func (m *mend) fail(ctx context.Context, e id.EventID, err error) {
	m.failed[e] = err
	m.f.cfg.Log.WarnContext(ctx, "could not judge an event, and will try again", "room", m.place.room, "event", e, "err", err)
}

// behindFailed reports whether an event follows one that could not be judged.
func (m *mend) behindFailed(missing *room.Missing) bool {
	return slices.ContainsFunc(missing.Prev, func(x id.EventID) bool { return m.failed[x] != nil })
}

// stored reports whether an event is part of the room by now.
func (m *mend) stored(ctx context.Context, e id.EventID) bool {
	stored, ok, err := m.f.cfg.Graph.Event(ctx, e)
	return err == nil && ok && stored.Flags&graph.Outlier == 0
}

// chase fetches auth events that are missing, once for each event of the pool. It reports whether something was fetched.
func (m *mend) chase(ctx context.Context) (bool, error) {
	got := false
	for e, missing := range m.lacks {
		if len(missing.Auth) == 0 || m.chased[e] || m.pool[e] == nil {
			continue
		}
		m.chased[e] = true
		for _, server := range m.servers {
			err := m.f.authOf(ctx, m.place, server, m.pool[e])
			if ctx.Err() != nil {
				return got, nil
			}
			if err != nil {
				if !outside(err) {
					return got, err
				}
				m.note(err)
				continue
			}
			still, err := m.f.absent(ctx, missing.Auth)
			if err != nil {
				return got, err
			}
			if len(still) < len(missing.Auth) {
				got = true
			}
			if len(still) == 0 {
				break
			}
			m.note(misfitf("%s does not give %d auth events of %s", server, len(still), e))
		}
	}
	return got, nil
}

// goBack asks for ancestors of the pool, one server after the other until one has some. It reports whether there are new ones.
//
// Spec: ss getMissingPreviousEvents
func (m *mend) goBack(ctx context.Context) (bool, error) {
	latest, wanted := m.edge()
	if len(wanted) == 0 {
		return false, nil
	}
	earliest := make([]id.EventID, 0, len(m.head.Extremities))
	for _, x := range m.head.Extremities {
		earliest = append(earliest, x.ID)
	}
	for _, server := range m.servers {
		if m.drained[server] {
			continue
		}
		raws, err := m.missing(ctx, server, fedclient.Missing{Earliest: earliest, Latest: latest, Limit: missingAtOnce, MinDepth: m.floor})
		if ctx.Err() != nil {
			return false, nil
		}
		if err != nil {
			m.note(fmt.Errorf("get_missing_events: %w", err))
			m.unheard[server] = m.unheard[server] || unsure(err)
			continue
		}
		m.drained[server] = len(raws) < fullAnswer
		bodies := make([][]byte, len(raws))
		for i, raw := range raws {
			bodies[i] = raw
		}
		pdus, errs := m.f.cfg.Client.CheckPDUs(ctx, m.head.Version, bodies, server)
		m.f.metrics.fetched.Add(float64(len(raws)))
		var fit []*event.PDU
		for i, p := range pdus {
			if errs[i] != nil {
				m.note(errs[i])
				if fault, ok := errors.AsType[*fedclient.Fault](errs[i]); ok && fault.Kind == fedclient.FaultMalformed {
					m.suspect[server] = true
				}
			} else if p.RoomID() == m.place.room {
				fit = append(fit, p)
			}
		}
		more, err := m.adopt(ctx, fit, wanted)
		if more || err != nil {
			return more, err
		}
	}
	return false, nil
}

// missing asks a server for what is missing. Who has just sent something is there, and a question to them that was lost on its way, or that they could
// not check because something else was lost, must not leave the gap open: it is put again at once.
//
// Spec: ss getMissingPreviousEvents
func (m *mend) missing(ctx context.Context, server id.ServerName, q fedclient.Missing) (raws []json.RawMessage, err error) {
	for range missingTries {
		raws, err = m.f.cfg.Client.MissingEvents(ctx, m.place.call(server), m.place.room, q)
		if err == nil || !passing(err) || !m.place.urgent || ctx.Err() != nil {
			break
		}
	}
	return raws, err
}

// passing reports whether a server may answer a question soon that it did not answer: it can't be reached, lacks the key that signed the question, or
// has trouble of its own.
func passing(err error) bool {
	if remote, ok := errors.AsType[*fedclient.RemoteError](err); ok && remote.Status >= http.StatusInternalServerError {
		return true
	}
	_, lost := errors.AsType[*fedclient.Unreachable](err)
	return lost || unsure(err)
}

// unsure reports whether a server is there, but could not have the key that signed the question.
func unsure(err error) bool {
	remote, ok := errors.AsType[*fedclient.RemoteError](err)
	return ok && remote.Status == http.StatusUnauthorized
}

// edge returns the events of the pool that miss ancestors which aren't in it, at most as many as one may ask about, and those ancestors.
func (m *mend) edge() (latest []id.EventID, wanted map[id.EventID]bool) {
	wanted = make(map[id.EventID]bool)
	for e, missing := range m.lacks {
		if m.pool[e] == nil || m.pool[e].Depth() <= m.floor || len(latest) == event.MaxPrevEvents {
			continue
		}
		open := false
		for _, p := range missing.Prev {
			if m.pool[p] == nil && m.lost[p] == nil && m.failed[p] == nil {
				wanted[p], open = true, true
			}
		}
		if open {
			latest = append(latest, e)
		}
	}
	return latest, wanted
}

// adopt puts those of the events into the pool that are wanted, and their ancestors up to what the room has: a server can't fill it with
// anything else.
func (m *mend) adopt(ctx context.Context, pdus []*event.PDU, wanted map[id.EventID]bool) (bool, error) {
	byID := make(map[id.EventID]*event.PDU, len(pdus))
	for _, p := range pdus {
		if p.Depth() >= m.floor {
			byID[p.ID()] = p
		}
	}
	stored, err := m.f.cfg.Graph.EventsByID(ctx, slices.Collect(maps.Keys(byID)))
	if err != nil {
		return false, err
	}
	for _, e := range stored {
		if e.Flags&graph.Outlier == 0 {
			delete(byID, e.PDU.ID())
		}
	}
	var queue []id.EventID
	for e := range wanted {
		queue = append(queue, e)
	}
	found := false
	for len(queue) > 0 && len(m.pool) < maxPool {
		p := byID[queue[0]]
		queue = queue[1:]
		if p == nil || m.pool[p.ID()] != nil {
			continue
		}
		m.pool[p.ID()] = p
		found = true
		queue = append(queue, p.PrevEvents()...)
	}
	return found, nil
}

// graft takes the state at the deepest gap from another server: the state before the first of the events that are missing there, which it asks
// for one by one, or else the state before the event that follows them. It reports whether it came further.
func (m *mend) graft(ctx context.Context) (bool, error) {
	if m.grafts == maxGrafts {
		m.note(errors.New("too many gaps for one attempt"))
		return false, nil
	}
	oldest := m.oldest()
	if oldest == nil {
		return false, nil
	}
	m.grafts++
	for _, missing := range m.lacks[oldest.ID()].Prev {
		if m.pool[missing] != nil || m.lost[missing] != nil || m.sought[missing] {
			continue
		}
		m.sought[missing] = true
		found, err := m.seek(ctx, missing)
		if err != nil || ctx.Err() != nil {
			return false, err
		}
		if found != nil {
			m.pool[found.ID()] = found
			return m.graftBefore(ctx, found)
		}
	}
	if slices.ContainsFunc(m.lacks[oldest.ID()].Prev, func(x id.EventID) bool { return m.pool[x] != nil }) {
		return false, nil // what is missing was found, and has no state that anybody can give
	}
	return m.graftBefore(ctx, oldest)
}

// oldest is the deepest event of the pool that follows a gap, nil if none does.
func (m *mend) oldest() *event.PDU {
	var oldest *event.PDU
	for e, missing := range m.lacks {
		p := m.pool[e]
		if p == nil || m.behindFailed(missing) || !slices.ContainsFunc(missing.Prev, func(x id.EventID) bool { return m.pool[x] == nil }) {
			continue
		}
		if oldest == nil || p.Depth() < oldest.Depth() {
			oldest = p
		}
	}
	return oldest
}

// seek asks one server after the other for an event.
//
// Spec: ss getEvent
func (m *mend) seek(ctx context.Context, missing id.EventID) (*event.PDU, error) {
	for _, server := range m.trusted() {
		raw, err := m.f.cfg.Client.Event(ctx, m.place.call(server), missing)
		if ctx.Err() != nil {
			return nil, nil
		}
		if err == nil {
			var p *event.PDU
			if p, err = m.f.cfg.Client.CheckPDU(ctx, m.head.Version, raw, server); err == nil && p.ID() == missing && p.RoomID() == m.place.room {
				return p, nil
			}
		}
		if err != nil {
			if !outside(err) {
				return nil, err
			}
			m.note(fmt.Errorf("get %s: %w", missing, err))
		}
	}
	return nil, nil
}

// trusted are the servers that are asked for a state. The first attempt leaves out those that are suspect: where it didn't help, a room that goes on
// behind a malformed event is better than one that has ended here. The first few leave out those that may soon say what is missing, for behind a state that
// is taken the gap stays.
func (m *mend) trusted() []id.ServerName {
	return slices.DeleteFunc(slices.Clone(m.servers), func(s id.ServerName) bool { return m.first && m.suspect[s] || m.patient && m.unheard[s] })
}

// graftBefore takes the state before an event of the pool from another server, and makes the event part of the room by it.
func (m *mend) graftBefore(ctx context.Context, e *event.PDU) (bool, error) {
	for _, server := range m.trusted() {
		state, err := m.f.stateAt(ctx, m.place, server, e.ID())
		if ctx.Err() != nil {
			return false, nil
		}
		if err != nil {
			if !outside(err) {
				return false, err
			}
			m.note(fmt.Errorf("state before %s: %w", e.ID(), err))
			continue
		}
		if err := m.f.authOf(ctx, m.place, server, e); err != nil && !outside(err) {
			return false, err
		}
		_, _, err = m.f.cfg.Rooms.Graft(ctx, e, state)
		switch _, refused := mxerr.Of(err); {
		case err == nil:
			m.f.metrics.grafts.Inc()
			m.f.cfg.Log.InfoContext(ctx, "took the state behind a gap from another server", "room", m.place.room, "event", e.ID(), "origin", server)
			delete(m.pool, e.ID())
			clear(m.drained)
			return true, nil
		case refused:
			m.lost[e.ID()] = err
			delete(m.pool, e.ID())
			return true, nil
		}
		if _, missing := errors.AsType[*room.Missing](err); !missing {
			if ctx.Err() != nil {
				return false, err
			}
			m.fail(ctx, e.ID(), err)
			delete(m.pool, e.ID())
			return true, nil
		}
		m.note(fmt.Errorf("graft %s: %w", e.ID(), err))
	}
	return false, nil
}

// outside reports whether an error is about another server, rather than about this one.
func outside(err error) bool {
	if _, ok := errors.AsType[*fedclient.Unreachable](err); ok {
		return true
	}
	if _, ok := errors.AsType[*misfit](err); ok {
		return true
	}
	if _, ok := errors.AsType[*fedclient.Fault](err); ok {
		return true
	}
	return answered(err) || errors.Is(err, fedclient.ErrNotPermitted) || errors.Is(err, fedclient.ErrTooLarge) || errors.Is(err, fedclient.ErrPrivate)
}

// fates says what became of the staged events.
func (m *mend) fates(ctx context.Context, waiting []staged) []fate {
	fates := make([]fate, 0, len(waiting))
	for _, s := range waiting {
		why, lost := m.lost[s.event]
		outcome := "healed"
		switch {
		case lost:
			fates = append(fates, fate{staged: s, giveUp: true, reason: why.Error()})
			outcome = "given_up"
		case m.stored(ctx, s.event):
			fates = append(fates, fate{staged: s, done: true})
		case m.forged[s.event]:
			fates = append(fates, fate{staged: s, forged: true})
			outcome = "forged"
		default:
			x := s.later(m.why(s.event), m.notBefore)
			if m.patient && len(m.unheard) > 0 && !x.giveUp {
				x.next = time.Now().Add(patience << s.tries)
			}
			if x.giveUp {
				outcome = "given_up"
				m.f.cfg.Log.WarnContext(ctx, "gave up an event of another server", "room", s.room, "event", s.event, "origin", s.origin, "err", x.reason)
			} else {
				outcome = "postponed"
			}
			fates = append(fates, x)
		}
		m.f.metrics.repairs.WithLabelValues(outcome).Inc()
	}
	return fates
}

// why says why an event still waits.
func (m *mend) why(e id.EventID) error {
	if err := m.failed[e]; err != nil {
		return err
	}
	cause := m.cause
	if missing := m.lacks[e]; missing != nil {
		for _, x := range missing.Prev {
			if err := m.failed[x]; err != nil {
				return fmt.Errorf("it follows %s: %w", x, err)
			}
		}
	}
	switch {
	case cause != nil:
	case len(m.servers) == 0:
		cause = errNobody
	case m.late:
		cause = errors.New("it took too long")
	default:
		cause = errors.New("no server has what is missing")
	}
	if missing := m.lacks[e]; missing != nil {
		return fmt.Errorf("%d previous and %d auth events are missing: %w", len(missing.Prev), len(missing.Auth), cause)
	}
	return cause
}
