package clientapi

import (
	"log/slog"

	"myelin/internal/account"
	"myelin/internal/appservice"
	"myelin/internal/bus"
	"myelin/internal/contact"
	"myelin/internal/delayed"
	"myelin/internal/directory"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/identity"
	"myelin/internal/media"
	"myelin/internal/notice"
	"myelin/internal/ours"
	"myelin/internal/push"
	"myelin/internal/report"
	"myelin/internal/room"
	"myelin/internal/search"
	"myelin/internal/syncer"
	"myelin/internal/thread"
	"myelin/internal/view"
	"myelin/matrix/roomver"
)

// Config is everything the API needs.
type Config struct {
	Ours       *ours.Set
	Bus        *bus.Bus
	Accounts   *account.Accounts
	Contacts   *contact.Contacts
	Identity   *identity.Identity
	Graph      *graph.Graph
	Rooms      *room.Rooms
	Federated  *fedroom.Federated
	View       *view.View
	Search     *search.Search
	Threads    *thread.Threads
	Reports    *report.Reports
	Notices    *notice.Notices
	Directory  *directory.Directory
	Ephemeral  *ephemeral.Ephemeral
	Encryption *e2ee.Encryption
	Media      *media.Media
	Delayed    *delayed.Delayed
	Push       *push.Push
	Syncer     *syncer.Syncer
	// Appservices may be nil: then there are none.
	Appservices *appservice.Registry
	Log         *slog.Logger
	Settings    Settings
}

// Settings are the choices of the operator that shape answers of the API.
type Settings struct {
	// BaseURL is where clients reach this server, without a slash at its end. It is known once
	// the server listens.
	BaseURL func() string
	// Support names the people behind the server. Each field may be empty.
	Support Support
	// RoomVersion is that of rooms whose creator asks for none.
	RoomVersion *roomver.Version
	// ForgetLeft says that users forget rooms by leaving them.
	ForgetLeft bool
	// TURN is what users are told of TURN servers.
	TURN TURN
	// CaptchaScript is the URL of the script of the page that asks newcomers whether they are human.
	CaptchaScript string
	// LiveKit are the services that let users into calls of several.
	LiveKit []string
}

// Support is whom users may turn to.
type Support struct{ Email, MatrixID, Page string }

// API serves the client-server API.
type API struct{ Config }

// New returns an API over the slices in c.
func New(c Config) *API { return &API{Config: c} }
