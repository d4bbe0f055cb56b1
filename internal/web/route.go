package web

import (
	"context"
	"io"
	"net/http"

	"myelin/matrix/id"
)

// Auth says who may call a route. The zero value is the strict one that most routes have.
type Auth uint8

const (
	// User wants an access token of a full account.
	User Auth = iota
	// Guest wants an access token and accepts those of guests too.
	Guest
	// Optional looks at the access token if there is one. A bad token is still an error.
	Optional
	// None does not look at tokens: Request.Caller stays empty.
	None
	// Admin wants an access token of an administrator of this server.
	Admin
	// Server wants a request that another server signed: Request.Origin and Request.Destination are set.
	//
	// Spec: ss Request Authentication
	Server
)

// Rate is the class of limits that a route falls under.
type Rate uint8

const (
	// RateGeneral fits requests that read or change a little.
	RateGeneral Rate = iota
	// RateSend fits requests that put something before other users.
	RateSend
	// RateLogin fits requests that test credentials or make accounts. They are strict.
	RateLogin
	// RateServer fits requests of other servers that read or change a little, transactions among them.
	RateServer
	// RateHeavy fits requests whose answer may be the state of a large room, or makes us ask somebody else.
	RateHeavy
	// RateNone counts nothing.
	RateNone

	rateClasses = int(RateNone)
)

// String returns the name of the class in metrics.
func (r Rate) String() string {
	switch r {
	case RateGeneral:
		return "general"
	case RateSend:
		return "send"
	case RateLogin:
		return "login"
	case RateServer:
		return "server"
	case RateHeavy:
		return "heavy"
	default:
		return "none"
	}
}

// Caller is who sent a request, as Config.Authenticate found it. The zero Caller is anybody.
type Caller struct {
	User   id.UserID
	Device id.DeviceID
	Guest  bool
	Admin  bool
	// Locked accounts are refused on every route without Route.WhileLocked.
	//
	// Spec: cs Account locking
	Locked bool
	// Suspended accounts are refused on routes with Route.NotSuspended. A handler may refuse
	// more, with Suspended().
	//
	// Spec: cs Account suspension
	Suspended bool
	// TokenID names the access token in the account's tables.
	TokenID int64
	// Appservice is the ID of the application service that acts as the user, empty for the user's own clients.
	//
	// Spec: as Identity assertion
	Appservice string
	// Unlimited callers are under no rate limit.
	Unlimited bool
}

// Handler serves one operation. It returns a response or an error, not both. ctx ends when the
// client goes away or the server stops.
type Handler func(ctx context.Context, r *Request) (*Response, error)

// Route is one row of the route table.
type Route struct {
	// Method is GET, POST, PUT or DELETE. HEAD is served by GET, OPTIONS by this package.
	Method string
	// Path is a pattern of literal segments and {parameters}, each a whole segment. A parameter
	// matches any non-empty segment; what it holds may contain an escaped slash. The last one may
	// be written {name?}: then the segment may be empty, and its slash may be missing. A pattern
	// that ends in a slash also matches without it.
	Path string
	// Op is the operation's id in the specification. It names the route in logs and metrics.
	Op   string
	Auth Auth
	Rate Rate
	// MaxBody is the largest request body in bytes; 0 means DefaultMaxBody.
	MaxBody int64
	// EmptyBody lets Request.Decode read an absent body as {}.
	EmptyBody bool
	// WhileLocked lets locked accounts in.
	WhileLocked bool
	// NotSuspended keeps suspended accounts out.
	NotSuspended bool
	Handle       Handler
}

// DefaultMaxBody is the largest request body of a route that says nothing else, in bytes.
const DefaultMaxBody = 1 << 20

// Response is what a handler answers. A handler must not change a Response after it
// returned it, and may return the same one many times.
type Response struct {
	// Status is the HTTP status; 0 means 200.
	Status int
	// Body is encoded as JSON where Raw is nil.
	Body any
	// Raw is a body that is ready to send: JSON, unless Header names another Content-Type.
	Raw []byte
	// Stream writes a body that is too large to be held at once. It is called after the status was sent; an error breaks
	// the connection, so that nobody takes half an answer for a whole one. Body and Raw are nil then.
	Stream func(w io.Writer) error
	// Header holds further headers. May be nil.
	Header http.Header
}

// Empty is the answer of operations that have nothing to say: {}.
var Empty = &Response{Raw: []byte("{}")}

// JSON answers 200 with v encoded as JSON.
func JSON(v any) *Response { return &Response{Body: v} }

// Raw answers 200 with bytes that are JSON already.
func Raw(body []byte) *Response { return &Response{Raw: body} }
