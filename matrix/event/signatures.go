package event

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// VerifySignature checks one server's signature with one key. The error wraps sign.ErrMissing or
// sign.ErrWrong.
//
// Spec: ss Validating hashes and signatures on received events
func (p *PDU) VerifySignature(entity id.ServerName, key sign.KeyID, public ed25519.PublicKey) (err error) {
	signature, ok := sign.Find(p.raw, string(entity), key)
	if !ok {
		return fmt.Errorf("verify %s of %s on %s: %w", key, entity, p.id, sign.ErrMissing)
	}
	withBuffer(func(buf []byte) []byte {
		buf = appendRedacted(buf, p.version, p.raw, false)
		err = sign.VerifyBytes(buf, signature, string(entity), key, public)
		return buf
	})
	return err
}

// SignedWith lists the keys with which a server claims to have signed the event.
func (p *PDU) SignedWith(entity id.ServerName) []sign.KeyID {
	return sign.KeyIDs(p.raw, string(entity))
}

// RequiredSigners lists the servers whose signature the event needs, each once: the sender's unless
// the event is a third-party invite, that of the event ID in versions 1 and 2, and that of the user who
// let a restricted join happen. An empty name in the list stands for a user ID that is malformed: nobody
// can sign for it.
//
// Spec: ss Validating hashes and signatures on received events
// Spec: rooms/v8 Authorisation rules
func (p *PDU) RequiredSigners() []id.ServerName {
	var out []id.ServerName
	add := func(s id.ServerName) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if !p.isThirdPartyInvite() {
		add(p.sender.Domain())
	}
	if p.version.EventIDs == roomver.EventIDDomain {
		domain, _ := p.id.Domain()
		add(domain)
	}
	if p.version.Restricted && p.typ == "m.room.member" {
		if raw, ok := canon.Get(p.Content(), "join_authorised_via_users_server"); ok {
			text, _ := canon.Text(raw)
			user, _ := id.ParseUserID(text)
			add(user.Domain())
		}
	}
	return out
}

func (p *PDU) isThirdPartyInvite() bool {
	if p.membership != "invite" {
		return false
	}
	_, ok := canon.Get(p.Content(), "third_party_invite")
	return ok
}

// Signed returns the event with one more signature, as the invited user's server and the server that
// authorises a restricted join add theirs. The ID stays.
func (p *PDU) Signed(entity id.ServerName, key sign.Key) (*PDU, error) {
	var signature string
	withBuffer(func(buf []byte) []byte {
		buf = appendRedacted(buf, p.version, p.raw, false)
		signature = key.SignBytes(buf)
		return buf
	})
	raw, err := sign.AddSignature(p.raw, string(entity), key.ID, signature)
	if err != nil {
		return nil, err
	}
	return p.replaced(raw)
}

// WithSignature returns the event with a signature that another server gave, which is not checked. The ID stays.
func (p *PDU) WithSignature(entity id.ServerName, key sign.KeyID, signature string) (*PDU, error) {
	raw, err := sign.AddSignature(p.raw, string(entity), key, signature)
	if err != nil {
		return nil, err
	}
	return p.replaced(raw)
}

// replaced returns the event with other bytes that differ only in what the ID does not cover.
func (p *PDU) replaced(raw []byte) (*PDU, error) {
	if len(raw) > MaxSize {
		return nil, mxerr.TooLarge("The event is larger than %d bytes.", MaxSize)
	}
	return Trusted(p.version, cloneID(p.id), raw)
}
