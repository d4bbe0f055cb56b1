package account

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// authSessionLifetime is how long a client has for all stages, and for repeating the request
// after them.
const authSessionLifetime = 15 * time.Minute

// maxAuthParams is the largest request that is kept between two requests, in bytes.
const maxAuthParams = 64 << 10

// authSession is an interactive authentication under way. What it keeps of the client's request, which may
// hold a password, and the answer, which may hold an access token, are sealed with a key that only
// the bearer of the session's id can make.
type authSession struct {
	id        string
	operation string
	user      id.UserID
	params    json.RawMessage
	completed []string
	facts     Facts
	result    json.RawMessage // the answer of a finished registration
	fresh     bool            // made by this request
}

var (
	sqlAuthSession = sqldb.SQL(`SELECT operation, user_id, params, completed, facts, result FROM auth_sessions WHERE hash = $1 AND expires > $2`)

	sqlAddAuthSession = sqldb.SQL(`INSERT INTO auth_sessions (hash, operation, user_id, params, completed, facts, result, expires)
		VALUES ($1, $2, $3, $4, '[]', '{}', '', $5)`)

	sqlSaveAuthSession = sqldb.SQL(`UPDATE auth_sessions SET params = $3, completed = $4, facts = $5 WHERE hash = $1 AND completed = $2`)

	sqlSaveAuthResult = sqldb.SQL(`UPDATE auth_sessions SET result = $2 WHERE hash = $1`)

	sqlAuthResult = sqldb.SQL(`SELECT result FROM auth_sessions WHERE hash = $1`)
)

func (a *Accounts) newAuthSession(ctx context.Context, op Operation, params json.RawMessage) (*authSession, error) {
	if len(params) > maxAuthParams {
		return nil, mxerr.TooLarge("A request that needs authentication may have at most %d bytes.", maxAuthParams)
	}
	s := &authSession{id: rand.Text(), operation: op.Name, user: op.User, params: params, fresh: true}
	sealed := seal(s.id, params)
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlAddAuthSession, hashToken(s.id), op.Name, op.User, sealed, after(now(), authSessionLifetime))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("add authentication session: %w", err)
	}
	return s, nil
}

// findAuthSession returns the session that the client names, or a fresh one where it names none or one
// that does not exist.
func (a *Accounts) findAuthSession(ctx context.Context, op Operation, header authHeader, params json.RawMessage) (*authSession, error) {
	if header.Session == "" {
		return a.newAuthSession(ctx, op, params)
	}
	s := &authSession{id: header.Session}
	var found bool
	err := a.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = s.load(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return a.newAuthSession(ctx, op, params)
	}
	if s.operation != op.Name || s.user != op.User {
		return nil, mxerr.Forbidden("This authentication session belongs to another request.")
	}
	if string(params) == "{}" || string(params) == string(s.params) {
		return s, nil
	}
	if len(s.completed) > 0 {
		return nil, mxerr.Forbidden("The request differs from the one that was authenticated. Start again.")
	}
	// Clients ask for the flows before they know what their user will fill in.
	if len(params) > maxAuthParams {
		return nil, mxerr.TooLarge("A request that needs authentication may have at most %d bytes.", maxAuthParams)
	}
	s.params = params
	return s, nil
}

func (s *authSession) load(tx *sqldb.Tx) (found bool, err error) {
	var params, completed, facts, result string
	found, err = tx.Get(sqlAuthSession, []any{hashToken(s.id), now()}, &s.operation, &s.user, &params, &completed, &facts, &result)
	if err != nil || !found {
		return false, err
	}
	if s.params, err = unseal(s.id, params); err != nil {
		return false, fmt.Errorf("load authentication session: %w", err)
	}
	if s.result, err = unseal(s.id, result); err != nil {
		return false, fmt.Errorf("load authentication session: %w", err)
	}
	if err := errors.Join(json.Unmarshal([]byte(completed), &s.completed), json.Unmarshal([]byte(facts), &s.facts)); err != nil {
		return false, fmt.Errorf("load authentication session: %w", err)
	}
	return true, nil
}

// saveAuthSession records a completed stage, unless another request changed the session since it
// was loaded: then it answers errStale.
func (a *Accounts) saveAuthSession(ctx context.Context, old, done *authSession, with func(tx *sqldb.Tx) error) error {
	before, err := encodeStages(old.completed)
	if err != nil {
		return err
	}
	completed, err := encodeStages(done.completed)
	if err != nil {
		return err
	}
	facts, err := json.Marshal(done.facts)
	if err != nil {
		return fmt.Errorf("encode facts: %w", err)
	}
	params := seal(done.id, done.params)
	return a.db.Write(ctx, func(tx *sqldb.Tx) error {
		rows, err := tx.Exec(sqlSaveAuthSession, hashToken(done.id), before, params, completed, string(facts))
		if err != nil {
			return fmt.Errorf("save authentication session: %w", err)
		}
		if rows == 0 {
			return errStale
		}
		if with == nil {
			return nil
		}
		return with(tx)
	})
}

func encodeStages(stages []string) (string, error) {
	if stages == nil {
		stages = []string{}
	}
	raw, err := json.Marshal(stages)
	return string(raw), err
}

// finish keeps the answer of an operation, in the transaction of its effect, for a client that asks again.
func (s *authSession) finish(tx *sqldb.Tx, sealed string) error {
	if _, err := tx.Exec(sqlSaveAuthResult, hashToken(s.id), sealed); err != nil {
		return fmt.Errorf("save the answer of an authentication session: %w", err)
	}
	return nil
}

// finished returns the answer that was kept, nil where there is none yet. A session that has expired meanwhile is
// an error: what its stages held has been released.
func (s *authSession) finished(tx *sqldb.Tx) (json.RawMessage, error) {
	var sealed string
	found, err := tx.Get(sqlAuthResult, []any{hashToken(s.id)}, &sealed)
	switch {
	case err != nil:
		return nil, fmt.Errorf("load the answer of an authentication session: %w", err)
	case !found:
		return nil, mxerr.Forbidden("The authentication session has expired. Start again.")
	}
	return unseal(s.id, sealed)
}

// seal encrypts with a key made from a session's id, of which the database holds only the hash
// under another function.
func seal(session string, plain []byte) string {
	aead := sealer(session)
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, nil))
}

// unseal of nothing is nothing.
func unseal(session, sealed string) (json.RawMessage, error) {
	if sealed == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	aead := sealer(session)
	if err != nil || len(raw) < aead.NonceSize() {
		return nil, errors.New("what was sealed is damaged")
	}
	plain, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], nil)
	if err != nil {
		return nil, fmt.Errorf("what was sealed is damaged: %w", err)
	}
	return slices.Clip(plain), nil
}

func sealer(session string) cipher.AEAD {
	key := sha256.Sum256([]byte("seal\x00" + session))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has a legal length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the block size that GCM needs
	}
	return aead
}
