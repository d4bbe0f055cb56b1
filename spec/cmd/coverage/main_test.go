package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"myelin/spec"
)

func TestReport(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("internal/clientapi/routes.go", `package clientapi
const v3 = "/_matrix/client/v3"
var routes = []route{
	{Method: "GET", Path: "/_matrix/client/v3/sync", Op: "sync", Auth: user},
	{"PUT", "/_matrix/client/v3/rooms/{room}/send/{type}/{txn}", "sendMessage", user, nil},
	{Method: "GET", Path: "/_matrix/client/r0/sync", Op: "sync"},
	{Method: "GET", Path: "/_matrix/client/v3/events", Op: "getEvents"},
	{Method: http.MethodPost, Path: "/_matrix/client/v3/logout/everything", Op: "logout_all"},
	{Method: "PUT", Path: "/state/{eventType}/{stateKey?}", Op: "setRoomStateWithKey"},
	{Method: "GET", Path: "/_matrix/federation/v1/timestamp_to_event/{roomId}", Op: "getEventByTimestamp"},
	{Method: "GET", Path: v3 + "/publicRooms", Op: "getPublicRooms"},
}
var notARoute = pair{"login", "register"}
var ask = request{op: "getVersion", method: "GET", path: "/_matrix/federation/v1/version"}

// Calls: as ping; as sendTransaction
func tell() {}
`)
	write("internal/clientapi/sync_test.go", `package clientapi
// Spec: cs sync
func f() { call("getEvents"); call("login") }
`)
	r, err := build(root, spec.ClientServer, "")
	if err != nil {
		t.Fatal(err)
	}
	// events answers both getEvents and peekEvents; the test names one of them.
	if want := (row{Tag: "total", Operations: 166, Served: 6, Tested: 2, Missing: 160}); r.Total != want {
		t.Errorf("total is %+v, want %+v", r.Total, want)
	}
	if len(r.Missing) != 160 {
		t.Errorf("%d missing", len(r.Missing))
	}
	if len(r.Wrong) != 1 || !strings.Contains(r.Wrong[0], "logout_all is POST /_matrix/client/v3/logout/all") {
		t.Errorf("wrong: %q", r.Wrong)
	}
	sum := 0
	for _, tag := range r.Tags {
		sum += tag.Operations
	}
	if sum != 166 {
		t.Errorf("the tags hold %d operations", sum)
	}
	var out strings.Builder
	if err := r.print(&out, true); err != nil || !strings.Contains(out.String(), "whoami") {
		t.Errorf("%v\n%s", err, out.String())
	}

	// Operations of two APIs may share a name, and what is asked of others is not served.
	if r, err = build(root, spec.ServerServer, ""); err != nil || r.Total.Served != 1 || r.Total.Called != 1 || r.Total.Missing != 34 {
		t.Errorf("%+v, %v", r, err)
	}

	// What a bridge is asked is called, and tested where a test asks everything.
	write("internal/appservice/all_test.go", "package appservice\nvar all = spectest.Operations(spec.ApplicationService)\n")
	if r, err = build(root, spec.ApplicationService, ""); err != nil || r.Total.Served != 0 || r.Total.Called != 2 || r.Total.Tested != 2 || r.Total.Missing != 7 {
		t.Errorf("%+v, %v", r, err)
	}

	write("tested.txt", "sync\nsendMessage\n")
	if r, err = build(root, spec.ClientServer, filepath.Join(root, "tested.txt")); err != nil || r.Total.Tested != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err = build(root, "nonsense", ""); err == nil {
		t.Error("an unknown API was accepted")
	}
}

// TestRoutesMatchSpecification checks the routes of this repository.
func TestRoutesMatchSpecification(t *testing.T) {
	for _, api := range served {
		r, err := build("../../..", api, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range r.Wrong {
			t.Error(w)
		}
	}
}
