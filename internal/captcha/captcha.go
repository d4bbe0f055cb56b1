package captcha

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"myelin/internal/account"
	"myelin/matrix/mxerr"
)

const (
	verifyTime = 10 * time.Second
	maxAnswer  = 64 << 10
	maxToken   = 16 << 10
	atOnce     = 16
)

// Config says which service is asked, and how.
type Config struct {
	// SiteKey is public, Secret is not.
	SiteKey, Secret string
	// VerifyURL is where answers are verified.
	VerifyURL string
	Log       *slog.Logger
}

// Stage is the stage of interactive authentication. It is safe for concurrent use.
type Stage struct {
	cfg    Config
	client *http.Client
	turns  chan struct{} // holds a token for each question under way
}

// New returns the stage.
func New(c Config) *Stage {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Stage{cfg: c, turns: make(chan struct{}, atOnce), client: &http.Client{
		Timeout: verifyTime,
		// The secret goes to the address of the configuration and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Type is the stage's name.
func (s *Stage) Type() string { return account.StageCaptcha }

// Params is what a client needs to show the puzzle.
func (s *Stage) Params() any { return map[string]string{"public_key": s.cfg.SiteKey} }

// Attempt has the service judge what the client's user did.
//
// Spec: cs Google ReCaptcha
func (s *Stage) Attempt(ctx context.Context, t *account.Try) error {
	var auth struct {
		Response string `json:"response"`
	}
	if err := json.Unmarshal(t.Auth, &auth); err != nil {
		return mxerr.BadJSON("\"response\" must be a string")
	}
	switch {
	case auth.Response == "":
		return mxerr.New(mxerr.CodeCaptchaNeeded, "\"response\" is missing")
	case len(auth.Response) > maxToken:
		return errWrong
	}
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	default:
		return mxerr.LimitExceeded(verifyTime)
	}
	passed, err := s.verify(ctx, auth.Response)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the service that tells humans from robots can't be asked", slog.Any("error", err))
		return mxerr.New(mxerr.CodeCaptchaInvalid, "your answer could not be verified; try again later")
	}
	if !passed {
		return errWrong
	}
	return nil
}

var errWrong = mxerr.New(mxerr.CodeCaptchaInvalid, "this answer was not accepted")

func (s *Stage) verify(ctx context.Context, response string) (bool, error) {
	form := url.Values{"secret": {s.cfg.Secret}, "response": {response}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.VerifyURL, strings.NewReader(form.Encode()))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := s.client.Do(r)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return false, err
	}
	var verdict struct {
		Success bool `json:"success"`
	}
	if err := json.Unmarshal(body, &verdict); err != nil {
		return false, fmt.Errorf("the answer is no JSON: %w", err)
	}
	return verdict.Success, nil
}
