package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"myelin/internal/account"
	"myelin/internal/appservice"
	"myelin/internal/clientapi"
	"myelin/internal/delayed"
	"myelin/internal/directory"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/fedapi"
	"myelin/internal/fedroom"
	"myelin/internal/fedsend"
	"myelin/internal/graph"
	"myelin/internal/notice"
	"myelin/internal/push"
	"myelin/internal/report"
	"myelin/internal/room"
	"myelin/internal/search"
	"myelin/internal/syncer"
	"myelin/internal/thread"
	"myelin/internal/view"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// slices is what the server adds to the core, from the bottom up.
type slices struct {
	background  *work.Runner
	graph       *graph.Graph
	circles     *graph.Circles
	followGraph func(context.Context) error
	threads     *thread.Threads
	reports     *report.Reports
	rooms       *room.Rooms
	view        *view.View
	search      *search.Search
	notices     *notice.Notices
	directory   *directory.Directory
	ephemeral   *ephemeral.Ephemeral
	encryption  *e2ee.Encryption
	federated   *fedroom.Federated
	sender      *fedsend.Sender
	push        *push.Push
	syncer      *syncer.Syncer
	delayed     *delayed.Delayed
	bridges     *appservice.Sender
	clientAPI   *clientapi.API
	serverAPI   *fedapi.API
	files
}

// openSlices builds everything above the core. What it opened is closed with the core, also after an error.
func (s *Server) openSlices(ctx context.Context) (err error) {
	c := s.config
	s.baseURL = s.clientURL
	version, ok := roomver.Get(c.DefaultRoomVersion)
	if !ok {
		return fmt.Errorf("default_room_version: there is no room version %q", c.DefaultRoomVersion)
	}

	node, err := nodeName(s.folder.path)
	if err != nil {
		return err
	}

	if err := s.openGraph(ctx); err != nil {
		return err
	}

	// room
	s.rooms = room.New(room.Config{
		Graph: s.graph, Ours: s.ours, Log: s.log, DefaultVersion: version,
		Profile: s.profile, Alias: s.directory.Lookup, IsGuest: s.isGuest, MayInvite: s.mayInvite, AskPolicy: s.askPolicy,
		Succeeded: s.accounts.Succeed,
	})

	// view
	s.view = view.New(view.Config{Graph: s.graph, Ignored: s.accounts.IgnoredUsers, Erased: s.accounts.Erased})

	// search
	s.search, err = search.Open(ctx, search.Config{DB: s.db, Graph: s.graph, View: s.view, Ignored: s.accounts.IgnoredUsers, Log: s.log})
	if err != nil {
		return err
	}

	// ephemeral
	s.ephemeral, err = ephemeral.Open(ctx, ephemeral.Config{
		DB: s.db, Ours: s.ours, Graph: s.graph, Circles: s.circles, Accounts: s.accounts, Bus: s.bus, Log: s.log,
		Node: node, NoPresence: c.Presence == "off",
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.ephemeral.Close(); return nil })

	// e2ee
	s.encryption, err = e2ee.Open(ctx, e2ee.Config{DB: s.db, Bus: s.bus, Ours: s.ours, Graph: s.graph, Circles: s.circles, Client: s.client, Log: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.encryption.Close(); return nil })

	// push, which hears of everything before the syncer does
	if err := s.openPush(ctx); err != nil {
		return err
	}

	// syncer
	if err := s.db.Migrate(ctx, syncer.Migrations...); err != nil {
		return fmt.Errorf("prepare the tables of sliding sync: %w", err)
	}
	s.syncer = syncer.New(syncer.Config{
		Bus: s.bus, Graph: s.graph, View: s.view, Accounts: s.accounts, DB: s.db, Ephemeral: s.ephemeral, Push: s.push,
		Sections: syncer.Encryption(s.encryption), Encryption: s.encryption, Threads: s.threads,
	})
	s.closers = append(s.closers, func() error { s.syncer.Close(); return nil })

	// appservice
	if err := s.openBridges(); err != nil {
		return err
	}

	// media
	if err := s.openMedia(ctx); err != nil {
		return err
	}

	// identity, fedroom, fedsend, fedapi
	if err := s.openFederation(ctx); err != nil {
		return err
	}

	// delayed
	if s.delayed, err = delayed.Open(ctx, delayed.Config{DB: s.db, Log: s.log, Send: s.sendDelayed}); err != nil {
		return err
	}

	// notice
	if err := s.openNotices(ctx); err != nil {
		return err
	}

	s.openClientAPI(version)

	// work, which uses everything else: it is the first to stop.
	if err := s.db.Migrate(ctx, work.Migrations()...); err != nil {
		return fmt.Errorf("prepare the tables of background work: %w", err)
	}
	s.background = work.New(work.Config{DB: s.db, Bus: s.bus, Log: s.log, Node: node})
	s.closers = append(s.closers, func() error { s.background.Stop(); return nil })
	return nil
}

// openNotices opens what tells users something in the server's name.
func (s *Server) openNotices(ctx context.Context) (err error) {
	s.notices, err = notice.Open(ctx, notice.Config{
		DB: s.db, Ours: s.ours, Accounts: s.accounts, Graph: s.graph, Rooms: s.rooms,
		Speaker: s.config.Notices.Localpart, Name: s.config.Notices.Name,
	})
	if err == nil {
		s.notify = s.notices.Tell
	}
	return err
}

// openClientAPI builds the API for clients on top of everything else.
func (s *Server) openClientAPI(version *roomver.Version) {
	c := s.config
	s.clientAPI = clientapi.New(clientapi.Config{
		Ours: s.ours, Bus: s.bus, Accounts: s.accounts, Contacts: s.contacts, Identity: s.identity, Graph: s.graph, Rooms: s.rooms, Federated: s.federated, View: s.view,
		Directory: s.directory, Ephemeral: s.ephemeral, Encryption: s.encryption, Media: s.media, Delayed: s.delayed, Push: s.push, Syncer: s.syncer, Log: s.log,
		Search: s.search, Threads: s.threads, Reports: s.reports, Appservices: s.appservices, Notices: s.notices,
		Settings: clientapi.Settings{
			BaseURL:     s.clientURL,
			Support:     clientapi.Support{Email: c.Support.Email, MatrixID: c.Support.MatrixID, Page: c.Support.Page},
			RoomVersion: version,
			ForgetLeft:  c.ForgetLeftRooms,
			TURN: clientapi.TURN{
				URIs: c.Turn.URIs, Secret: c.Turn.SharedSecret, Lifetime: time.Duration(c.Turn.Lifetime),
				Username: c.Turn.Username, Password: c.Turn.Password, Guests: c.Turn.Guests,
			},
			LiveKit: c.Rtc.LiveKit, CaptchaScript: c.Captcha.ScriptURL,
		},
	})
}

// openGraph builds graph, thread, report and directory, which need nothing but the core.
func (s *Server) openGraph(ctx context.Context) (err error) {
	s.graph, err = graph.Open(ctx, graph.Config{DB: s.db, Log: s.log, Metrics: s.registry, ForgetLeft: s.config.ForgetLeftRooms})
	if err != nil {
		return err
	}
	s.followGraph = s.graph.Follow(s.bus)
	s.circles = graph.OpenCircles(s.graph, s.bus)
	s.closers = append(s.closers, func() error { s.circles.Close(); return nil })
	if s.threads, err = thread.Open(ctx, s.db); err != nil {
		return err
	}
	if s.reports, err = report.Open(ctx, s.db, s.log); err != nil {
		return err
	}
	s.directory, err = directory.Open(ctx, directory.Config{
		DB: s.db, Ours: s.ours, Graph: s.graph, Bus: s.bus, Log: s.log, Profiles: s.accounts, AllUsers: s.config.UserDirectory == "all",
		Unknown: s.appservices.FindAlias,
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.directory.Close(); return nil })
	return nil
}

// startBackground starts what runs beside the requests. It ends when background stops.
func (s *Server) startBackground() {
	w := s.background
	w.Go("hear other nodes", func(ctx context.Context) error { return s.bus.Follow(ctx, s.db) })
	w.Go("forget what other nodes changed", s.followGraph)
	w.Go("take guests out of rooms", func(ctx context.Context) error { return s.rooms.ExpelGuests(ctx, s.bus, s.accounts) })
	for _, f := range append(s.graph.Followers(), s.rooms.Followers(s.accounts)...) {
		w.Follow(f)
	}
	s.search.Start(w)
	s.directory.Start(w)
	s.bridges.Start(w)
	s.ephemeral.Start(w.Group)
	s.startMedia(w)
	s.push.Start(w)
	if s.config.Federation.Enabled {
		s.federated.Start(w)
		s.sender.Start(w)
	}
	w.Lead("send delayed events", s.delayed.Run)
	w.Schedule(work.Job{Name: "forget confirmations of addresses", Period: time.Hour, Run: s.contacts.Sweep})
	w.Schedule(work.Job{Name: "forget what sticks no longer", Period: 10 * time.Minute, Run: s.graph.ForgetSticky})
	w.Schedule(work.Job{Name: "forget delayed events", Period: time.Hour, Run: s.delayed.Forget})
	w.Every("note when devices were seen", time.Minute, s.accounts.FlushSeen)
	w.Schedule(work.Job{Name: "sweep expired tokens", Period: 5 * time.Minute, Run: s.accounts.Sweep})
	w.Schedule(work.Job{Name: "forget old transactions", Period: time.Hour, Run: s.forgetTransactions})
	w.Schedule(work.Job{Name: "forget claimed keys", Period: 24 * time.Hour, Run: s.encryption.ForgetClaimed})
	w.Schedule(work.Job{Name: "forget lists of devices", Period: 24 * time.Hour, Run: s.encryption.ForgetLists})
	w.Schedule(work.Job{Name: "forget messages between devices", Period: 24 * time.Hour, Run: s.encryption.ForgetMessages})
	w.Schedule(work.Job{Name: "sweep connections of sliding sync", Period: 24 * time.Hour, Run: s.syncer.SweepConnections})
	w.Schedule(work.Job{Name: "sweep deleted backups of keys", Period: time.Hour, Run: s.encryption.SweepBackups})
	w.Schedule(work.Job{Name: "forget letters to servers that are gone", Period: 24 * time.Hour, Run: s.encryption.ForgetOutbox})
	w.Schedule(work.Job{Name: "reclaim states", Period: 24 * time.Hour, Run: s.reclaimStates})
}

// profile is what a user's member events show.
func (s *Server) profile(ctx context.Context, user id.UserID) (room.Profile, error) {
	name, avatar, err := s.accounts.NameAndAvatar(ctx, user)
	return room.Profile{DisplayName: name, AvatarURL: avatar}, err
}

// isGuest reports whether a user of ours is a guest.
func (s *Server) isGuest(ctx context.Context, user id.UserID) (bool, error) {
	caller, err := s.accounts.Caller(ctx, user)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return false, nil
	}
	return caller.Guest, err
}

// mayInvite refuses invites to users who don't want them.
//
// Spec: cs Invite permission
func (s *Server) mayInvite(ctx context.Context, sender, invitee id.UserID) error {
	rules, err := s.accounts.InviteRules(ctx, invitee)
	if err == nil && rules.Judge(sender) == account.InviteBlocked {
		err = mxerr.New(mxerr.CodeInviteBlocked, "%s does not want to be invited", invitee)
	}
	return err
}

// clientURL is where clients reach this server, as far as it is known yet.
func (s *Server) clientURL() string {
	if at := s.address.Load(); at != nil {
		return s.config.BaseURL(*at)
	}
	return s.config.BaseURL(nil)
}

// nodeName is what this node is called among others that share its database. It stays the same over restarts, so that
// what this node was at when it crashed is taken up at once. The host is part of it because folders get copied.
func nodeName(folder string) (string, error) {
	path := filepath.Join(folder, "node")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw = []byte(rand.Text())
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("read the name of this node (data_dir): %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("ask for the host's name: %w", err)
	}
	return string(raw) + "@" + host, nil
}
