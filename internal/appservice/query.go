package appservice

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/tidwall/gjson"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// FindUser asks the application services in whose namespaces a user is, one after the other, whether there is such a user, and
// reports whether one of them said so: then it has made the user.
//
// Spec: as queryUserById
// Calls: as queryUserById
func (g *Registry) FindUser(ctx context.Context, user id.UserID) bool {
	return g.exists(ctx, "users", string(user), func(s *Service) bool { return s.Has(user) && user != s.User })
}

// FindAlias asks the same of a room alias.
//
// Spec: as queryRoomByAlias
// Calls: as queryRoomByAlias
func (g *Registry) FindAlias(ctx context.Context, alias id.RoomAlias) bool {
	return g.exists(ctx, "rooms", string(alias), func(s *Service) bool { return s.aliases.match(string(alias)) })
}

func (g *Registry) exists(ctx context.Context, kind, name string, concerns func(*Service) bool) bool {
	for _, s := range g.Services() {
		if s.URL == "" || !concerns(s) {
			continue
		}
		path := "/" + kind + "/" + url.PathEscape(name)
		answer, err := g.ask(ctx, s, request{method: http.MethodGet, path: "/_matrix/app/v1" + path, legacy: path})
		switch {
		case err != nil:
			g.log.Info("an application service was asked in vain", "appservice", s.ID, "error", err)
		case answer.ok():
			return true
		}
	}
	return false
}

const (
	v1Networks     = "/_matrix/app/v1/thirdparty"
	legacyNetworks = "/_matrix/app/unstable/thirdparty"
	// maxFound bounds what one search of third-party networks returns.
	maxFound = 1000
)

// ThirdParty is a question about third-party networks.
type ThirdParty struct {
	// Kind is "user" or "location".
	Kind string
	// Protocol is empty where a Matrix user or an alias is looked up.
	Protocol string
	// Fields are passed on as they are.
	Fields url.Values
}

// Networks asks all application services that may know, all at once, and returns what they found. Those that don't answer found nothing.
//
// Spec: cs queryUserByProtocol
// Spec: cs queryLocationByProtocol
// Spec: cs queryUserByID
// Spec: cs queryLocationByAlias
// Spec: as queryUserByProtocol
// Spec: as queryLocationByProtocol
// Spec: as queryUserByID
// Spec: as queryLocationByAlias
// Calls: as queryUserByProtocol; as queryLocationByProtocol; as queryUserByID; as queryLocationByAlias
func (g *Registry) Networks(ctx context.Context, q ThirdParty) ([]json.RawMessage, error) {
	path := "/" + q.Kind
	if q.Protocol != "" {
		path += "/" + url.PathEscape(q.Protocol)
	}
	key := "userid"
	if q.Kind == "location" {
		key = "alias"
	}
	answers, asked := g.askAll(ctx, q.Protocol, request{
		method: http.MethodGet, path: v1Networks + path, legacy: legacyNetworks + path, query: q.Fields,
	})
	if asked == 0 && q.Protocol != "" {
		return nil, mxerr.NotFound("There is no third-party network %.64q here.", q.Protocol)
	}
	found := []json.RawMessage{}
	for _, answer := range answers {
		if answer == nil || !gjson.ParseBytes(answer.body).IsArray() {
			continue
		}
		for _, item := range gjson.ParseBytes(answer.body).Array() {
			proper := item.Get(key).Type == gjson.String && item.Get("protocol").Type == gjson.String && item.Get("fields").IsObject()
			if proper && len(found) < maxFound {
				found = append(found, json.RawMessage(item.Raw))
			}
		}
	}
	return found, nil
}

// askAll asks the application services that have a protocol, or any protocol where it is empty. An answer is nil where there is none of use.
func (g *Registry) askAll(ctx context.Context, protocol string, r request) (answers []*reply, asked int) {
	var concerned []*Service
	for _, s := range g.Services() {
		if s.URL != "" && len(s.Protocols) > 0 && (protocol == "" || slices.Contains(s.Protocols, protocol)) {
			concerned = append(concerned, s)
		}
	}
	answers = make([]*reply, len(concerned))
	var waiting sync.WaitGroup
	for i, s := range concerned {
		waiting.Go(func() {
			answer, err := g.ask(ctx, s, r)
			if err == nil && answer.ok() && gjson.ValidBytes(answer.body) {
				answers[i] = answer
			}
		})
	}
	waiting.Wait()
	return answers, len(concerned)
}

// Protocols describes the third-party networks, by protocol. With a name it describes one, and returns M_NOT_FOUND where no application service
// has it. Of several application services with one protocol the first describes it, and all name their instances.
//
// Spec: cs getProtocols
// Spec: cs getProtocolMetadata
// Spec: as getProtocolMetadata
// Calls: as getProtocolMetadata
func (g *Registry) Protocols(ctx context.Context, only string) (map[string]json.RawMessage, error) {
	var all []string
	for _, s := range g.Services() {
		all = append(all, s.Protocols...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if only != "" {
		if !slices.Contains(all, only) {
			return nil, mxerr.NotFound("There is no third-party network %.64q here.", only)
		}
		all = []string{only}
	}
	found := make(map[string]json.RawMessage, len(all))
	for _, protocol := range all {
		described, err := g.describe(ctx, protocol)
		if err != nil {
			return nil, err
		}
		if described != nil {
			found[protocol] = described
		}
	}
	if only != "" && len(found) == 0 {
		return nil, mxerr.NotFound("The third-party network %.64q can't be asked at the moment.", only)
	}
	return found, nil
}

// describe merges what application services say of one protocol.
func (g *Registry) describe(ctx context.Context, protocol string) (json.RawMessage, error) {
	var out map[string]json.RawMessage
	instances := []json.RawMessage{}
	for _, s := range g.Services() {
		if s.URL == "" || !slices.Contains(s.Protocols, protocol) {
			continue
		}
		path := "/protocol/" + url.PathEscape(protocol)
		answer, err := g.ask(ctx, s, request{method: http.MethodGet, path: v1Networks + path, legacy: legacyNetworks + path})
		if err != nil || !answer.ok() || !properProtocol(answer.body) {
			continue
		}
		if out == nil {
			if err := json.Unmarshal(answer.body, &out); err != nil {
				continue
			}
		}
		for _, item := range gjson.GetBytes(answer.body, "instances").Array() {
			if named := s.instance(item); named != nil {
				instances = append(instances, named)
			}
		}
	}
	if out == nil {
		return nil, nil
	}
	raw, err := json.Marshal(instances)
	if err != nil {
		return nil, err
	}
	out["instances"] = raw
	return json.Marshal(out)
}

// properProtocol reports whether an answer has the fields of a protocol.
func properProtocol(body []byte) bool {
	p := gjson.ParseBytes(body)
	return gjson.ValidBytes(body) && p.IsObject() && p.Get("user_fields").IsArray() && p.Get("location_fields").IsArray() &&
		p.Get("icon").Type == gjson.String && p.Get("field_types").IsObject()
}

// instance gives an instance of a network the ID by which clients ask for its rooms; nil for what is no instance.
//
// Spec: cs getProtocols
func (s *Service) instance(item gjson.Result) json.RawMessage {
	network := item.Get("network_id")
	if !item.IsObject() || network.Type != gjson.String || item.Get("desc").Type != gjson.String || !item.Get("fields").IsObject() {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(item.Raw), &fields) != nil {
		return nil
	}
	name, err := json.Marshal(s.Instance(network.Str))
	if err != nil {
		return nil
	}
	fields["instance_id"] = name
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	return raw
}

// Instance is the ID by which clients know a network of an application service.
func (s *Service) Instance(network string) string { return s.ID + "|" + network }
