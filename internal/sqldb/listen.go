package sqldb

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// listenPatience is how long a listening connection may be silent before it is probed.
const listenPatience = time.Minute

// Announced is one announcement of Config.Notify: a transaction of another DB, mostly another node, assigned the positions From+1
// to To.
type Announced struct {
	From, To Pos
	node     string // who announces, so that nobody hears itself
}

// Listen calls ready once announcements on channel will be heard and heard for each, until ctx ends or the connection fails; it
// always returns an error. What this DB announces itself is not heard. Announcements may be lost between two calls. On SQLite there are none: Listen only waits.
func (db *DB) Listen(ctx context.Context, channel string, ready func(), heard func(Announced)) error {
	pg, ok := db.engine.(*postgresEngine)
	if !ok {
		ready()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	err := pg.listen(ctx, channel, ready, func(payload string) {
		a, err := parseAnnounced(payload)
		if err != nil {
			db.log.Warn("odd announcement", "channel", channel, "error", err)
			return
		}
		if a.node != db.node {
			heard(a)
		}
	})
	return fmt.Errorf("listen on %s: %w", channel, err)
}

func (a Announced) String() string {
	return strconv.FormatInt(int64(a.From), 10) + " " + strconv.FormatInt(int64(a.To), 10) + " " + a.node
}

func parseAnnounced(s string) (a Announced, err error) {
	if _, err := fmt.Sscanf(s, "%d %d %s", &a.From, &a.To, &a.node); err != nil {
		return a, fmt.Errorf("%q: %w", s, err)
	}
	if a.From < 0 || a.To < a.From {
		return a, fmt.Errorf("range %q", s)
	}
	return a, nil
}
