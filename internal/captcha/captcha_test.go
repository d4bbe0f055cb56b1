package captcha

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"myelin/internal/account"
	"myelin/matrix/mxerr"
)

// attempt asks a stage with the given auth object and returns the errcode, "" for a pass.
func attempt(t *testing.T, s *Stage, auth string) mxerr.Code {
	t.Helper()
	err := s.Attempt(t.Context(), &account.Try{Auth: []byte(auth)})
	refused, ok := mxerr.Of(err)
	if err != nil && !ok {
		t.Fatalf("%s: %v", auth, err)
	}
	if err == nil {
		return ""
	}
	return refused.Code
}

// service stands in for the one that tells humans from robots: it remembers the forms it got.
func service(t *testing.T, answer http.HandlerFunc) (s *Stage, asked *[]url.Values) {
	t.Helper()
	asked = new([]url.Values)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Errorf("%q is no form: %v", body, err)
		}
		*asked = append(*asked, form)
		answer(w, r)
	}))
	t.Cleanup(srv.Close)
	return New(Config{SiteKey: "public", Secret: "secret", VerifyURL: srv.URL}), asked
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

// Only a service that says so lets somebody pass.
func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   mxerr.Code
	}{
		"a human":      {says(`{"success":true}`), ""},
		"a robot":      {says(`{"success":false,"error-codes":["invalid-input-response"]}`), mxerr.CodeCaptchaInvalid},
		"another type": {says(`{"success":"true"}`), mxerr.CodeCaptchaInvalid},
		"nothing":      {says(``), mxerr.CodeCaptchaInvalid},
		"no JSON":      {says(`<html>success</html>`), mxerr.CodeCaptchaInvalid},
		"without end":  {says(`{"success":true,"x":"` + strings.Repeat("x", 2*maxAnswer) + `"}`), mxerr.CodeCaptchaInvalid},
		"out of order": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); fmt.Fprint(w, `{"success":true}`) }, mxerr.CodeCaptchaInvalid},
		"somebody else": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, mxerr.CodeCaptchaInvalid},
	} {
		s, asked := service(t, c.answer)
		if got := attempt(t, s, `{"type":"m.login.recaptcha","response":"the & answer"}`); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if len(*asked) != 1 || (*asked)[0].Get("secret") != "secret" || (*asked)[0].Get("response") != "the & answer" {
			t.Errorf("%s: the service was asked %v", name, *asked)
		}
	}
}

// What can't be an answer is not passed on.
func TestNothingToVerify(t *testing.T) {
	s, asked := service(t, says(`{"success":true}`))
	for auth, want := range map[string]mxerr.Code{
		`{"type":"m.login.recaptcha"}`: mxerr.CodeCaptchaNeeded,
		`{"response":""}`:              mxerr.CodeCaptchaNeeded,
		`{"response":5}`:               mxerr.CodeBadJSON,
		`[]`:                           mxerr.CodeBadJSON,
		`{"response":"` + strings.Repeat("x", maxToken+1) + `"}`: mxerr.CodeCaptchaInvalid,
	} {
		if got := attempt(t, s, auth); got != want {
			t.Errorf("%.60s: %q, want %q", auth, got, want)
		}
	}
	if len(*asked) != 0 {
		t.Errorf("the service was asked %d times", len(*asked))
	}
}

// A service that hangs holds a bounded number of requests; the others are told to come again.
func TestServiceThatHangs(t *testing.T) {
	arrived, hang := make(chan struct{}, atOnce), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-hang
		fmt.Fprint(w, `{"success":true}`)
	}))
	defer srv.Close()
	s := New(Config{VerifyURL: srv.URL})
	passed := make(chan error, atOnce)
	for range atOnce {
		go func() { passed <- s.Attempt(t.Context(), &account.Try{Auth: []byte(`{"response":"x"}`)}) }()
	}
	for range atOnce {
		<-arrived
	}
	if got := attempt(t, s, `{"response":"x"}`); got != mxerr.CodeLimitExceeded {
		t.Errorf("one too many: %q", got)
	}
	close(hang)
	for range atOnce {
		if err := <-passed; err != nil {
			t.Error(err)
		}
	}
	go func() { <-arrived }()
	if got := attempt(t, s, `{"response":"x"}`); got != "" {
		t.Errorf("afterwards: %q", got)
	}
}
