package server

import (
	"context"
	"net/http"
	"time"

	"myelin/internal/appservice"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// NewAppservice is a registration to add or to look at.
type NewAppservice struct {
	// Registration is the text of a registration file.
	Registration string `json:"registration"`
}

// Appservice is an application service as the list shows it.
type Appservice struct {
	ID   string    `json:"id"`
	URL  string    `json:"url,omitempty"`
	User id.UserID `json:"user"`
	// File is where its registration stands; empty for one that was added by a command.
	File string `json:"file,omitempty"`
	// Behind is how many positions of the stream lie before it, Waiting whether a transaction is under way to it.
	Behind  int64 `json:"behind"`
	Waiting bool  `json:"waiting,omitempty"`
}

// Appservices is all application services.
type Appservices struct {
	Appservices []Appservice `json:"appservices"`
}

// AppserviceTest is what came of asking an application service whether it is there.
type AppserviceTest struct {
	ID  string `json:"id"`
	URL string `json:"url,omitempty"`
	// Milliseconds is how long the answer took.
	Milliseconds float64 `json:"ms,omitempty"`
	// Problem says what is wrong; empty where nothing is.
	Problem string `json:"problem,omitempty"`
}

// openBridges prepares telling application services what happens.
func (s *Server) openBridges() (err error) {
	s.bridges, err = appservice.NewSender(appservice.Config{
		DB: s.db, Bus: s.bus, Registry: s.appservices, Graph: s.graph, View: s.view, Ephemeral: s.ephemeral, Encryption: s.encryption,
		Aliases: s.directory.In, Log: s.log, Metrics: s.registry,
	})
	return err
}

func (k *core) appserviceCommands() []web.Route {
	return []web.Route{
		{Method: http.MethodPost, Path: "/appservices", Op: "addAppservice", Handle: k.addAppservice},
		{Method: http.MethodGet, Path: "/appservices", Op: "listAppservices", Handle: k.listAppservices},
		{Method: http.MethodPost, Path: "/appservices/{id}/remove", Op: "removeAppservice", EmptyBody: true, Handle: k.removeAppservice},
		{Method: http.MethodPost, Path: "/appservices/{id}/test", Op: "testAppservice", EmptyBody: true, Handle: k.testAppservice},
		{Method: http.MethodPost, Path: "/appservices-test", Op: "testRegistration", Handle: k.testRegistration},
	}
}

// addAppservice puts a registration into force.
func (k *core) addAppservice(ctx context.Context, r *web.Request) (*web.Response, error) {
	var n NewAppservice
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	s, err := k.appservices.Add(ctx, []byte(n.Registration))
	if err != nil {
		return nil, err
	}
	return web.JSON(Appservice{ID: s.ID, URL: s.URL, User: s.User}), nil
}

func (k *core) listAppservices(ctx context.Context, _ *web.Request) (*web.Response, error) {
	queues, err := k.appservices.Queues(ctx)
	if err != nil {
		return nil, err
	}
	all := Appservices{Appservices: []Appservice{}}
	for _, s := range k.appservices.Services() {
		q := queues[s.ID]
		all.Appservices = append(all.Appservices, Appservice{
			ID: s.ID, URL: s.URL, User: s.User, File: s.Source, Behind: q.Behind, Waiting: q.Waiting,
		})
	}
	return web.JSON(all), nil
}

func (k *core) removeAppservice(ctx context.Context, r *web.Request) (*web.Response, error) {
	return web.Empty, k.appservices.Remove(ctx, r.Path("id"))
}

// testAppservice asks an application service in force whether it is there.
func (k *core) testAppservice(ctx context.Context, r *web.Request) (*web.Response, error) {
	s := k.appservices.Service(r.Path("id"))
	if s == nil {
		return nil, mxerr.NotFound("There is no application service %q.", r.Path("id"))
	}
	return k.tested(ctx, s)
}

// testRegistration looks at a registration and asks its application service, without putting it into force.
func (k *core) testRegistration(ctx context.Context, r *web.Request) (*web.Response, error) {
	var n NewAppservice
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	s, err := k.appservices.Check([]byte(n.Registration), true)
	if err != nil {
		return nil, err
	}
	return k.tested(ctx, s)
}

func (k *core) tested(ctx context.Context, s *appservice.Service) (*web.Response, error) {
	t := AppserviceTest{ID: s.ID, URL: s.URL}
	took, err := k.appservices.Ping(ctx, s, "")
	if e, refused := mxerr.Of(err); refused {
		t.Problem = e.Text
	} else if err != nil {
		return nil, err
	}
	t.Milliseconds = float64(took.Microseconds()) / float64(time.Millisecond/time.Microsecond)
	return web.JSON(t), nil
}
