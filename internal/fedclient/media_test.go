package fedclient

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// TestMediaOfServersWithoutTheOperation: some answer what they don't know with 400 and a text.
func TestMediaOfServersWithoutTheOperation(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	answer := ""
	r.mux.HandleFunc("GET /_matrix/federation/v1/media/", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, answer)
	})
	r.mux.HandleFunc("GET /_matrix/media/v3/download/hs.example/x", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "old bytes") })
	c := n.sqlite()
	answer = "what?"
	m, err := c.Download(t.Context(), to("hs.example"), "x", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Body.Close()
	if raw, err := io.ReadAll(m.Body); string(raw) != "old bytes" {
		t.Errorf("%q %v", raw, err)
	}
	answer = `{"errcode":"M_INVALID_PARAM","error":"no"}`
	if _, err := c.Download(t.Context(), to("hs.example"), "x", 0, 100); err == nil {
		t.Error("a refusal was taken for ignorance")
	}
}

// FuzzParts: whatever another server sends, no more comes out of it than allowed, and what is whole comes out as it was put in.
func FuzzParts(f *testing.F) {
	f.Add("multipart/mixed; boundary=b", []byte(part("image/png", `inline; filename="x"`, "bytes")), []byte("content"))
	f.Add(`multipart/mixed; boundary="a b"`, []byte("--a b\r\n\r\n{}\r\n--a b\r\nLocation: https://x/\r\n\r\n\r\n--a b--"), []byte("\r\n--b\r\n"))
	f.Add("multipart/mixed; boundary=b", []byte("--b\r\nContent-"), []byte{})
	f.Fuzz(func(t *testing.T, kind string, raw, content []byte) {
		const limit = 64
		open := func(kind string, raw []byte) (*Media, string, error) {
			return openParts(&answer{header: http.Header{"Content-Type": {kind}}, body: bytes.NewReader(raw), done: func() {}}, limit)
		}
		if m, location, err := open(kind, raw); err == nil && location == "" {
			if got, _ := io.ReadAll(m.Body); len(got) > limit+1 {
				t.Errorf("%d bytes of at most %d", len(got), limit)
			}
		}
		if len(content) > limit || bytes.Contains(content, []byte("--b")) {
			return
		}
		m, _, err := open("multipart/mixed; boundary=b", []byte(part("image/png", "inline", string(content))))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(m.Body); err != nil || !bytes.Equal(got, content) || m.ContentType != "image/png" {
			t.Errorf("%q became %q: %v", content, got, err)
		}
	})
}
