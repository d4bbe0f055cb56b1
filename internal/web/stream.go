package web

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"time"
)

// streamChunk is how much of a streamed answer is put together before it is sent.
const streamChunk = 32 << 10

// stream sends a response piece by piece. Only the fault of whoever makes the body is an error: a caller that goes away, or
// reads too slowly, is nobody's.
func stream(w http.ResponseWriter, resp *Response) (status, size int, err error) {
	header := w.Header()
	header["Content-Type"] = jsonType
	for name, values := range resp.Header {
		header[name] = values
	}
	status = resp.Status
	if status == 0 {
		status = http.StatusOK
	}
	to := &streamWriter{to: w, control: http.NewResponseController(w), until: time.Now().Add(writeTimeout)}
	_ = to.control.SetWriteDeadline(to.until) // no connection, as in tests
	w.WriteHeader(status)
	buffered := bufio.NewWriterSize(to, streamChunk)
	err = resp.Stream(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if errors.Is(err, errReader) {
		err = nil
	}
	return status, to.size, err
}

// errReader says that the other side doesn't read.
var errReader = errors.New("the answer could not be sent")

// streamWriter moves the deadline on with what was sent, so that a slow reader is cut off as it is with other answers.
type streamWriter struct {
	to      io.Writer
	control *http.ResponseController
	until   time.Time
	size    int
}

func (s *streamWriter) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.size += n
	if err != nil {
		return n, errReader
	}
	s.until = s.until.Add(time.Duration(n) * time.Second / minWriteRate)
	_ = s.control.SetWriteDeadline(s.until)
	return n, nil
}
