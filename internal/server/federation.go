package server

import (
	"context"
	"net"
	"net/url"

	"myelin/internal/fedapi"
	"myelin/internal/fedclient"
	"myelin/internal/fedroom"
	"myelin/internal/fedsend"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// openClient prepares speaking to other servers. Without federation it is there too, and permits none: so nothing above
// needs to ask whether there is federation.
func (k *core) openClient(ctx context.Context) error {
	f := &k.config.Federation
	roots, err := f.Roots()
	if err != nil {
		return err
	}
	deny := f.Deny
	if !f.Enabled {
		deny = []string{"*"}
	}
	k.client, err = fedclient.Open(ctx, fedclient.Config{
		DB: k.db, Ours: k.ours, Log: k.log, Metrics: k.registry,
		Dial: k.own.Dial, Lookup: k.own.Resolver, Roots: roots, AllowNetworks: f.Networks(), Allow: f.Allow, Deny: deny,
		UserAgent: "Myelin/" + k.own.Version, Notaries: notaries(f.Notaries),
		Heard: func(name id.ServerName) {
			if k.heard != nil {
				k.heard(name)
			}
		},
	})
	if err != nil {
		return err
	}
	k.closers = append(k.closers, func() error { k.client.Close(); return nil })
	return nil
}

func notaries(names []string) []id.ServerName {
	out := make([]id.ServerName, len(names))
	for i, name := range names {
		out[i] = id.ServerName(name)
	}
	return out
}

// openFederation builds the slices about other servers, on top of those about rooms.
func (s *Server) openFederation(ctx context.Context) (err error) {
	s.federated, err = fedroom.Open(ctx, fedroom.Config{
		DB: s.db, Ours: s.ours, Client: s.client, Accounts: s.accounts, Graph: s.graph, Rooms: s.rooms,
		MayInvite: s.mayInvite, KeyValid: s.identity.KeyValid, Log: s.log, Metrics: s.registry,
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.federated.Close(); return nil })
	s.sender, err = fedsend.Open(ctx, fedsend.Config{
		Erased: s.accounts.Erased,
		DB:     s.db, Bus: s.bus, Ours: s.ours, Client: s.client, Graph: s.graph, Ephemeral: s.ephemeral,
		Encryption: s.encryption, Log: s.log, Metrics: s.registry,
	})
	if err != nil {
		return err
	}
	s.heard = s.sender.Heard
	s.serverAPI = fedapi.New(fedapi.Config{
		Ours: s.ours, Accounts: s.accounts, Graph: s.graph, Rooms: s.rooms, View: s.view, Directory: s.directory, Ephemeral: s.ephemeral,
		Encryption: s.encryption, Media: s.media, Client: s.client, Federated: s.federated, Log: s.log,
		Settings: fedapi.Settings{Version: s.own.Version, Delegate: s.delegate},
	})
	return nil
}

// askPolicy asks a room's policy server to sign an event.
//
// Spec: ss askPolicyServerToSign
func (s *Server) askPolicy(ctx context.Context, origin, server id.ServerName, pdu *event.PDU) (map[sign.KeyID]string, error) {
	return s.client.PolicySign(ctx, fedclient.Call{Origin: origin, Destination: server}, pdu.Raw())
}

// delegate is where other servers reach a name of ours: by way of the URL for clients, if that is of HTTPS and the port behind it
// serves other servers too. Otherwise they need not be told, or the operator tells them.
//
// Spec: ss getWellKnown
func (s *Server) delegate(id.ServerName) string {
	if s.config.Federation.Listen != "" {
		return ""
	}
	u, err := url.Parse(s.config.Client.BaseURL)
	if err != nil || u.Scheme != "https" || u.Path != "" && u.Path != "/" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}
