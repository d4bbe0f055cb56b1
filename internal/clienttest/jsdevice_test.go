//go:build goolm

package clienttest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"myelin/internal/servertest"
)

// jsProcess is a Node with devices of matrix-js-sdk in it.
type jsProcess struct {
	t     *testing.T
	stdin io.WriteCloser
	log   *output

	mu      sync.Mutex
	last    int                     // guarded by mu
	waiting map[int]chan<- jsAnswer // guarded by mu
	ended   bool                    // guarded by mu
}

type jsAnswer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// startJS runs jssdk/encryption.mjs until the test ends.
func startJS(t *testing.T) *jsProcess {
	t.Helper()
	node, err := findNode()
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command(node, "encryption.mjs")
	cmd.Dir = "jssdk"
	p := &jsProcess{t: t, log: new(output), waiting: make(map[int]chan<- jsAnswer)}
	cmd.Stderr = p.log
	p.stdin, err = cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.follow(stdout)
		_ = cmd.Wait() // what it did wrong is in the answers
	}()
	t.Cleanup(func() {
		p.stdin.Close()
		_ = cmd.Process.Kill() // it may have ended
		<-done
	})
	return p
}

// follow hands the answers to those who wait for them.
func (p *jsProcess) follow(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var a jsAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			_, _ = p.log.Write(append(lines.Bytes(), '\n')) // never fails
			continue
		}
		p.mu.Lock()
		to := p.waiting[a.ID]
		delete(p.waiting, a.ID)
		p.mu.Unlock()
		if to != nil {
			to <- a
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, to := range p.waiting {
		close(to)
	}
}

// jsDevice is one device in that process.
type jsDevice struct {
	*jsProcess
	name string
	user id.UserID
	id   id.DeviceID
}

// try asks the device to do something.
func (d *jsDevice) try(do string, with map[string]any, result any) error {
	answer := make(chan jsAnswer, 1)
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return fmt.Errorf("Node has ended:\n%s", d.log)
	}
	d.last++
	line := map[string]any{"id": d.last, "device": d.name, "do": do}
	maps.Copy(line, with)
	d.waiting[d.last] = answer
	text, err := json.Marshal(line)
	if err == nil {
		_, err = d.stdin.Write(append(text, '\n'))
	}
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ask Node: %w", err)
	}
	a, ok := <-answer
	switch {
	case !ok:
		return fmt.Errorf("Node ended meanwhile:\n%s", d.log)
	case a.Error != "":
		return errors.New(a.Error)
	case result != nil:
		return json.Unmarshal(a.Result, result)
	}
	return nil
}

// do asks the device to do something and must succeed.
func (d *jsDevice) do(do string, with map[string]any, result any) {
	d.t.Helper()
	if err := d.try(do, with, result); err != nil {
		d.t.Fatalf("%s can't %s %v: %v", d.name, do, with, err)
	}
}

// loginJS signs a user in on a new device.
func (p *jsProcess) loginJS(h *homeserver, user, device string) *jsDevice {
	p.t.Helper()
	d := &jsDevice{jsProcess: p, name: device}
	var made struct {
		User   id.UserID   `json:"user"`
		Device id.DeviceID `json:"device"`
	}
	d.do("login", map[string]any{"url": h.url, "user": user, "password": servertest.Password}, &made)
	d.user, d.id = made.User, made.Device
	return d
}

func (d *jsDevice) who() id.UserID { return d.user }

func (d *jsDevice) join(room id.RoomID) error {
	return d.try("join", map[string]any{"room": room}, nil)
}

func (d *jsDevice) members(room id.RoomID, users []id.UserID) error {
	return d.try("members", map[string]any{"room": room, "users": users}, nil)
}

func (d *jsDevice) say(room id.RoomID, text string) (event id.EventID, err error) {
	err = d.try("say", map[string]any{"room": room, "text": text}, &event)
	return event, err
}

func (d *jsDevice) read(room id.RoomID, event id.EventID) (text string, err error) {
	err = d.try("read", map[string]any{"room": room, "event": event}, &text)
	return text, err
}

func (d *jsDevice) history(room id.RoomID) (texts []string, err error) {
	err = d.try("history", map[string]any{"room": room}, &texts)
	return texts, err
}

func (d *jsDevice) rotate(room id.RoomID) error {
	return d.try("rotate", map[string]any{"room": room}, nil)
}

func (d *jsDevice) wake() error { return d.try("wake", nil, nil) }
