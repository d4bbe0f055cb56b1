package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// sendOneRoom sends into one room over each of several numbers of connections.
func (b *bench) sendOneRoom(connections []int) error {
	most := 0
	for _, n := range connections {
		most = max(most, n)
	}
	users, err := b.people(min(most, b.o.users))
	if err != nil {
		return err
	}
	rooms, err := b.rooms([][]user{users})
	if err != nil {
		return err
	}
	for _, n := range connections {
		seats := make([]seat, n)
		for i := range seats {
			seats[i] = seat{users[i%len(users)], rooms}
		}
		if err := b.measure("send-one-room", []string{fmt.Sprintf("connections=%d", n)}, b.sending(seats, nil, 0)); err != nil {
			return err
		}
	}
	return nil
}

// sending returns a measurement of messages only.
func (b *bench) sending(seats []seat, ears []ear, rate float64) func() (metrics, error) {
	return b.loading(seats, ears, rate, mix{actMessage: 1})
}

func (b *bench) loading(seats []seat, ears []ear, rate float64, m mix) func() (metrics, error) {
	return func() (metrics, error) {
		l := &load{b: b, seats: seats, ears: ears, mix: m, rate: rate, duration: b.o.duration, size: b.o.size}
		return l.run(b.ctx)
	}
}

// sendRooms sends over as many connections as there are rooms, each into its own.
func (b *bench) sendRooms(n int) error {
	users, err := b.people(min(n, b.o.users))
	if err != nil {
		return err
	}
	members := make([][]user, n)
	for i := range members {
		members[i] = []user{users[i%len(users)]}
	}
	rooms, err := b.rooms(members)
	if err != nil {
		return err
	}
	seats := make([]seat, n)
	for i := range seats {
		seats[i] = seat{members[i][0], rooms[i : i+1]}
	}
	return b.measure("send-64-rooms", []string{fmt.Sprintf("rooms=%d", n)}, b.sending(seats, nil, 0))
}

// fanOut sends at a steady rate into one room in which many wait.
func (b *bench) fanOut(waiters int, rate float64) error {
	const senders = 4
	users, err := b.people(waiters + senders)
	if err != nil {
		return err
	}
	rooms, err := b.rooms([][]user{users})
	if err != nil {
		return err
	}
	seats, ears := make([]seat, senders), make([]ear, waiters)
	for i := range seats {
		seats[i] = seat{users[i], rooms}
	}
	for i := range ears {
		ears[i] = ear{users[senders+i], rooms}
	}
	settings := []string{fmt.Sprintf("waiters=%d", waiters), fmt.Sprintf("rate=%g/s", rate)}
	return b.measure("fan-out", settings, b.sending(seats, ears, rate))
}

// fanOutHeavy sends as fast as it goes into rooms of a few members who all wait.
func (b *bench) fanOutHeavy(waiters, perRoom, connections int) error {
	users, err := b.people(waiters)
	if err != nil {
		return err
	}
	members := make([][]user, waiters/perRoom)
	for i := range members {
		members[i] = users[i*perRoom : (i+1)*perRoom]
	}
	rooms, err := b.rooms(members)
	if err != nil {
		return err
	}
	ears := make([]ear, len(rooms)*perRoom)
	for i := range ears {
		ears[i] = ear{users[i], rooms[i/perRoom : i/perRoom+1]}
	}
	seats := make([]seat, connections)
	for i := range seats {
		at := i % len(rooms)
		seats[i] = seat{members[at][0], rooms[at : at+1]}
	}
	settings := []string{fmt.Sprintf("waiters=%d", len(ears)), fmt.Sprintf("deliveries per message=%d", perRoom), fmt.Sprintf("connections=%d", connections)}
	return b.measure("fan-out-heavy", settings, b.sending(seats, ears, 0))
}

// mixed runs a load of everything at once.
func (b *bench) mixed(rooms, connections, listeners int, rate float64, m mix) error {
	users, err := b.people(b.o.users)
	if err != nil {
		return err
	}
	members := make([][]user, rooms)
	for i := range members {
		members[i] = append(members[i], users[i%len(users):]...)
		members[i] = append(members[i], users[:i%len(users)]...)
	}
	made, err := b.rooms(members)
	if err != nil {
		return err
	}
	seats, ears := make([]seat, connections), make([]ear, listeners)
	for i := range seats {
		seats[i] = seat{users[i%len(users)], made}
	}
	for i := range ears {
		ears[i] = ear{users[i%len(users)], made}
	}
	settings := []string{fmt.Sprintf("users=%d", len(users)), fmt.Sprintf("rooms=%d", rooms), fmt.Sprintf("connections=%d", connections), fmt.Sprintf("listeners=%d", listeners)}
	return b.measure("load", settings, b.loading(seats, ears, rate, m))
}

// initialSync takes the time of a first /sync of a user in many rooms, with lazily loaded members.
func (b *bench) initialSync(rooms, perRoom int) error {
	users, err := b.people(perRoom)
	if err != nil {
		return err
	}
	members := make([][]user, rooms)
	for i := range members {
		members[i] = users
	}
	made, err := b.rooms(members)
	if err != nil {
		return err
	}
	err = b.each("sending one message to each", rooms, func(c *client, i int) error {
		w := writer{c: c, user: users[i%len(users)], prefix: b.run + "-initial-" + strconv.Itoa(i) + "-", size: b.o.size}
		c.user = w.user
		_, err := w.perform(b.ctx, actMessage, made[i], "")
		return err
	})
	if err != nil {
		return err
	}
	settings := []string{fmt.Sprintf("rooms=%d", rooms), fmt.Sprintf("members=%d", perRoom)}
	n := 0
	return b.measure("initial-sync", settings, func() (metrics, error) {
		// Another user each time, so that nothing is cached for this one.
		c := b.client(users[n%len(users)])
		n++
		defer c.close()
		filter := url.QueryEscape(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":10}}}`)
		started := time.Now()
		status, response, err := c.do(b.ctx, "GET", clientAPI+"/sync?timeout=0&filter="+filter, c.user.token, nil)
		took := time.Since(started)
		if err == nil && status != 200 {
			err = newResponseError("GET", "/sync", status, response)
		}
		if err != nil {
			return nil, err
		}
		if got := strings.Count(string(response), mark); got < rooms {
			return nil, fmt.Errorf("the response holds %d messages for %d rooms", got, rooms)
		}
		var m metrics
		m.duration("initial sync", took)
		m.add("size of the response", float64(len(response))/(1<<20), "MiB")
		return m, nil
	})
}

// idleSync holds many waiting /sync connections and measures what they cost the server in memory.
func (b *bench) idleSync(connections int) error {
	users, err := b.people(b.o.users)
	if err != nil {
		return err
	}
	// One room, so that the users' first responses are not empty.
	if _, err := b.rooms([][]user{users}); err != nil {
		return err
	}
	since := make([]string, len(users))
	err = b.each("syncing once", len(users), func(c *client, i int) (err error) {
		c.user = users[i]
		_, since[i], err = c.sync(b.ctx, "", 0)
		return err
	})
	if err != nil {
		return err
	}
	return b.measure("idle-sync", []string{fmt.Sprintf("connections=%d", connections)}, func() (metrics, error) {
		return b.holdIdle(users, since, connections)
	})
}

func (b *bench) holdIdle(users []user, since []string, connections int) (metrics, error) {
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	before, err := b.rss()
	if err != nil {
		return nil, err
	}
	var (
		wg     sync.WaitGroup
		early  atomic.Int64
		failed atomic.Int64
		slots  = make(chan struct{}, 64) // dials at once
	)
	started := time.Now()
	for i := range connections {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		wg.Go(func() {
			c := b.client(users[i%len(users)])
			defer c.close()
			c.timeout = b.o.duration + 5*time.Minute
			err := c.dial(ctx)
			<-slots
			token := since[i%len(users)]
			for err == nil && ctx.Err() == nil {
				if _, token, err = c.sync(ctx, token, b.o.duration+4*time.Minute); err == nil && ctx.Err() == nil {
					early.Add(1)
				}
			}
			if ctx.Err() == nil {
				failed.Add(1)
			}
		})
	}
	took := time.Since(started)
	waitUntil(ctx, time.Now().Add(min(b.o.duration, 5*time.Second)))
	meter := b.meter()
	meter.start()
	waitUntil(ctx, time.Now().Add(b.o.duration))
	meter.stop()
	after, err := b.rss()
	stop()
	wg.Wait()
	if err != nil || b.ctx.Err() != nil {
		return nil, cmp.Or(err, b.ctx.Err())
	}
	var m metrics
	m.add("waiting connections", float64(connections)-float64(failed.Load()), "")
	m.duration("time to connect them", took)
	m.add("failed connections", float64(failed.Load()), failures)
	m.add("responses while idle", float64(early.Load()), "")
	if b.o.pid > 0 {
		m.add("memory before", float64(before)/(1<<20), "MiB")
		m.add("memory while they wait", float64(after)/(1<<20), "MiB")
		m.add("memory per connection", float64(after-before)/float64(connections)/1024, "KiB")
	}
	meter.report(&m, 0)
	return m, nil
}

func (b *bench) rss() (int64, error) {
	if b.o.pid == 0 {
		return 0, nil
	}
	n, err := resident(b.o.pid)
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", b.o.pid, err)
	}
	return n, nil
}

// bigRoom compares sending into a room of two with sending into one of many entries of state.
func (b *bench) bigRoom(entries int, fill string, connections int) error {
	n := 2
	if fill == "members" {
		n = entries
	}
	users, err := b.people(max(n, 2))
	if err != nil {
		return err
	}
	rooms, err := b.rooms([][]user{users[:2], users[:n]})
	if err != nil {
		return err
	}
	maker := users[0]
	switch fill {
	case "members":
	case "state", "invites":
		_, domain, _ := strings.Cut(maker.id, ":")
		path := clientAPI + "/rooms/" + url.PathEscape(rooms[1].id)
		err = b.each("filling the room with "+fill, entries, func(c *client, i int) error {
			c.user = maker
			if fill == "invites" {
				return c.call(b.ctx, "POST", path+"/invite", map[string]string{"user_id": fmt.Sprintf("@nobody-%s-%d:%s", b.run, i, domain)}, nil)
			}
			return c.call(b.ctx, "PUT", path+"/state/"+benchState+"/"+strconv.Itoa(i), map[string]int{"n": i}, nil)
		})
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("--fill must be state, members or invites, not %q", fill)
	}
	for i, name := range []string{"room of two", fmt.Sprintf("room of %d", entries)} {
		seats := make([]seat, connections)
		for k := range seats {
			seats[k] = seat{users[k%2], rooms[i : i+1]}
		}
		settings := []string{"fill=" + fill, fmt.Sprintf("connections=%d", connections)}
		if err := b.measure("big-room, "+name, settings, b.sending(seats, nil, 0)); err != nil {
			return err
		}
	}
	small, _ := b.results[len(b.results)-2].Metrics.get(sends)
	last := &b.results[len(b.results)-1]
	big, _ := last.Metrics.get(sends)
	last.Metrics.add("cost against the room of two", small/big, "ratio")
	fmt.Fprintf(b.out, "  %-34s %14s ratio\n", "cost against the room of two", number(small/big))
	return nil
}
