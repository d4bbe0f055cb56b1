package fedclient

import (
	"errors"
	"fmt"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

const (
	// maxAuthorization bounds one Authorization header in bytes, maxAuthorizations the headers that are looked at.
	maxAuthorization  = 4096
	maxAuthorizations = 8
)

// credentials are the parameters of one X-Matrix header.
type credentials struct {
	origin id.ServerName
	// destination is empty where the sender is from before the parameter existed.
	destination id.ServerName
	key         sign.KeyID
	signature   string
}

// errOtherScheme: the header is not about X-Matrix.
var errOtherScheme = errors.New("the scheme is not X-Matrix")

// parseAuthorization reads one Authorization header.
//
// Spec: ss Request Authentication
func parseAuthorization(header string) (credentials, error) {
	var out credentials
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "X-Matrix") {
		return out, errOtherScheme
	}
	if len(header) > maxAuthorization {
		return out, errors.New("the header is too long")
	}
	params, err := parseParams(rest)
	if err != nil {
		return out, err
	}
	if out.origin, err = id.ParseServerName(params["origin"]); err != nil {
		return out, fmt.Errorf("origin: %w", err)
	}
	if destination, ok := params["destination"]; ok {
		if out.destination, err = id.ParseServerName(destination); err != nil {
			return out, fmt.Errorf("destination: %w", err)
		}
	}
	if out.key, err = sign.ParseKeyID(params["key"]); err != nil {
		return out, fmt.Errorf("key: %w", err)
	}
	// The specification's example says "sig", as all servers do, and its list of parameters "signature".
	if out.signature = params["sig"]; out.signature == "" {
		out.signature = params["signature"]
	}
	if out.signature == "" {
		return out, errors.New("there is no signature")
	}
	return out, nil
}

// parseParams reads name=value pairs between commas. Values may be quoted, with backslash escapes; those that are not may hold what
// tokens can't, such as colons, because old servers write them so. Names come out in lower case; empty elements are skipped.
func parseParams(s string) (map[string]string, error) {
	params := make(map[string]string, 4)
	const space = " \t"
	for s = strings.Trim(s, space); s != ""; s = strings.TrimLeft(s, space) {
		if s[0] == ',' {
			s = s[1:]
			continue
		}
		equals := strings.IndexAny(s, "=,")
		if equals <= 0 || s[equals] == ',' {
			return nil, errors.New("a parameter has no value")
		}
		name := strings.ToLower(strings.TrimRight(s[:equals], space))
		if name == "" || strings.ContainsAny(name, " \t\"\\") {
			return nil, errors.New("a parameter has no valid name")
		}
		value, rest, err := parseValue(strings.TrimLeft(s[equals+1:], space))
		if err != nil {
			return nil, err
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("the parameter %.30q stands there twice", name)
		}
		params[name] = value
		if s = strings.TrimLeft(rest, space); s != "" && s[0] != ',' {
			return nil, errors.New("there is no comma between two parameters")
		}
	}
	return params, nil
}

// parseValue takes a value off the beginning of s.
func parseValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", \t")
		if end < 0 {
			end = len(s)
		}
		if strings.ContainsAny(s[:end], "\"\\") {
			return "", "", errors.New("a value without quotes holds a quote or a backslash")
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch ch := s[i]; ch {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			if i++; i == len(s) {
				return "", "", errors.New("a value ends in a backslash")
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(ch)
		}
	}
	return "", "", errors.New("a quote is not closed")
}

// signedRequest is the canonical object that a signature of a request covers. Content is canonical JSON, nil where there is no body.
func signedRequest(method, uri string, origin, destination id.ServerName, content []byte) []byte {
	b := make([]byte, 0, len(content)+len(uri)+len(origin)+len(destination)+100)
	b = append(b, '{')
	if content != nil {
		b = append(b, `"content":`...)
		b = append(append(b, content...), ',')
	}
	b = canon.AppendString(append(b, `"destination":`...), string(destination))
	b = canon.AppendString(append(b, `,"method":`...), method)
	b = canon.AppendString(append(b, `,"origin":`...), string(origin))
	b = canon.AppendString(append(b, `,"uri":`...), uri)
	return append(b, '}')
}

// authorize signs a request and returns the Authorization header, and the body in the form that was signed. Numbers stay
// as they are written: those of an old room's event must not change.
func (c *Client) authorize(call Call, method, uri string, body []byte) (header string, content []byte, err error) {
	key, ok := c.ours.Key(call.Origin)
	if !ok {
		return "", nil, ErrNotOurs
	}
	if body != nil {
		if content, err = canon.Canonicalize(make([]byte, 0, len(body)), body, canon.Lax); err != nil {
			return "", nil, fmt.Errorf("encode the body: %w", err)
		}
	}
	return Authorization(key, call, method, uri, content), content, nil
}

// Authorization is the header that signs a request. Content is canonical JSON, nil where there is no body.
//
// Spec: ss Request Authentication
func Authorization(key sign.Key, call Call, method, uri string, content []byte) string {
	signature := key.SignBytes(signedRequest(method, uri, call.Origin, call.Destination, content))
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, call.Origin, call.Destination, key.ID, signature)
}
