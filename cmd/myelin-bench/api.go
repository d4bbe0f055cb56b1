package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"
)

// user is an account of the server under test.
type user struct{ id, token string }

// client is a connection of one user.
type client struct {
	conn
	user user
}

const clientAPI = "/_matrix/client/v3"

// responseError is a response with a status that was not asked for.
type responseError struct {
	status  int
	code    string
	text    string
	wait    time.Duration // how long the server asks us to wait; with M_LIMIT_EXCEEDED
	session string        // of interactive authentication
	what    string
}

func (e *responseError) Error() string {
	return fmt.Sprintf("%s: the server answered %d %s %s", e.what, e.status, e.code, e.text)
}

func newResponseError(method, path string, status int, body []byte) *responseError {
	var r struct {
		Code    string  `json:"errcode"`
		Text    string  `json:"error"`
		Retry   float64 `json:"retry_after_ms"`
		Session string  `json:"session"`
	}
	if json.Unmarshal(body, &r) != nil {
		r.Text = string(body[:min(len(body), 100)])
	}
	return &responseError{status, r.Code, r.Text, time.Duration(r.Retry) * time.Millisecond, r.Session, method + " " + path}
}

// call sends a request of the preparations: with JSON decoded and encoded, and patience with rate limits.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	for tries := 0; ; tries++ {
		status, response, err := c.do(ctx, method, path, c.user.token, body)
		if err != nil {
			return err
		}
		if status/100 == 2 {
			if out == nil {
				return nil
			}
			if err := json.Unmarshal(response, out); err != nil {
				return fmt.Errorf("%s %s: read the response: %w", method, path, err)
			}
			return nil
		}
		failed := newResponseError(method, path, status, response)
		if status != 429 || tries == 20 {
			return failed
		}
		select {
		case <-time.After(max(failed.wait, 50*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// register makes an account by open registration.
func (c *client) register(ctx context.Context, name string) (user, error) {
	type auth struct {
		Type    string `json:"type"`
		Session string `json:"session,omitempty"`
	}
	body := struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     auth   `json:"auth"`
	}{name, "bench-" + rand.Text(), auth{Type: "m.login.dummy"}}
	var made account
	err := c.call(ctx, "POST", clientAPI+"/register", body, &made)
	var failed *responseError
	if errors.As(err, &failed) && failed.status == 401 && failed.session != "" {
		body.Auth.Session = failed.session
		err = c.call(ctx, "POST", clientAPI+"/register", body, &made)
	}
	if err != nil {
		return user{}, fmt.Errorf("register %s: %w", name, err)
	}
	return made.user()
}

type account struct {
	ID    string `json:"user_id"`
	Token string `json:"access_token"`
}

func (a account) user() (user, error) {
	if a.ID == "" || a.Token == "" {
		return user{}, errors.New("the server registered a user but gave no access token")
	}
	return user{a.ID, a.Token}, nil
}

// registerShared makes an account with the registration shared secret that several servers offer.
func (c *client) registerShared(ctx context.Context, name, secret string) (user, error) {
	const path = "/_synapse/admin/v1/register"
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := c.call(ctx, "GET", path, nil, &nonce); err != nil {
		return user{}, fmt.Errorf("register %s: %w", name, err)
	}
	password := "bench-" + rand.Text()
	mac := hmac.New(sha1.New, []byte(secret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", nonce.Nonce, name, password)
	body := map[string]any{"nonce": nonce.Nonce, "username": name, "password": password, "admin": false, "mac": hex.EncodeToString(mac.Sum(nil))}
	var made account
	if err := c.call(ctx, "POST", path, body, &made); err != nil {
		return user{}, fmt.Errorf("register %s: %w", name, err)
	}
	return made.user()
}

// readTokens reads a file of lines "@user:server token".
func readTokens(file string) ([]user, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read --tokens: %w", err)
	}
	defer f.Close()
	var out []user
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) == 0:
		case len(fields) != 2 || fields[0][0] != '@':
			return nil, fmt.Errorf("line %d of %s is not \"@user:server token\"", len(out)+1, file)
		default:
			out = append(out, user{fields[0], fields[1]})
		}
	}
	return out, lines.Err()
}

// createRoom makes a room that anybody may join, and whose members may send "org.myelin.bench" state.
func (c *client) createRoom(ctx context.Context) (string, error) {
	body := map[string]any{
		"preset": "public_chat", "name": "bench",
		"power_level_content_override": map[string]any{"events": map[string]int{benchState: 0}},
	}
	var made struct {
		ID string `json:"room_id"`
	}
	if err := c.call(ctx, "POST", clientAPI+"/createRoom", body, &made); err != nil {
		return "", fmt.Errorf("create a room: %w", err)
	}
	return made.ID, nil
}

const benchState = "org.myelin.bench"

func (c *client) join(ctx context.Context, room string) error {
	return c.call(ctx, "POST", clientAPI+"/join/"+url.PathEscape(room), struct{}{}, nil)
}

// syncFilter asks for enough of the timeline that a burst of messages arrives whole.
const syncFilter = `{"presence":{"not_types":["*"]},"room":{"state":{"lazy_load_members":true},"timeline":{"limit":100}}}`

// sync performs one /sync; the response is valid until the next call.
func (c *client) sync(ctx context.Context, since string, wait time.Duration) (response []byte, next string, err error) {
	path := fmt.Sprintf("%s/sync?timeout=%d&filter=%s", clientAPI, wait.Milliseconds(), url.QueryEscape(syncFilter))
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	status, response, err := c.do(ctx, "GET", path, c.user.token, nil)
	if err != nil {
		return nil, "", err
	}
	if status != 200 {
		return nil, "", newResponseError("GET", "/sync", status, response)
	}
	next, ok := textField(response, "next_batch")
	if !ok {
		return nil, "", errors.New("a /sync response has no next_batch")
	}
	return response, next, nil
}

// textField finds the first string field of a name anywhere in a JSON document, without decoding the rest.
func textField(body []byte, name string) (string, bool) {
	for rest := body; ; {
		at := bytes.Index(rest, []byte(`"`+name+`"`))
		if at < 0 {
			return "", false
		}
		rest = bytes.TrimLeft(rest[at+len(name)+2:], " \t\r\n")
		if len(rest) == 0 || rest[0] != ':' {
			continue
		}
		rest = bytes.TrimLeft(rest[1:], " \t\r\n")
		if len(rest) == 0 || rest[0] != '"' {
			continue
		}
		for i := 1; i < len(rest); i++ {
			switch rest[i] {
			case '\\':
				i++
			case '"':
				var s string
				err := json.Unmarshal(rest[:i+1], &s)
				return s, err == nil
			}
		}
		return "", false
	}
}
