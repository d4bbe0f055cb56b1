package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"myelin/matrix/mxerr"
)

// PasswordPolicy says what a password must be and what hashing one costs.
type PasswordPolicy struct {
	// MinLength in characters; 0 means 8.
	MinLength int
	// Memory of one hash in KiB; 0 means 19 MiB.
	Memory uint32
	// Passes over the memory; 0 means 2.
	Passes uint32
	// Concurrent hashes; 0 means one per processor, at most four. Together they bound the memory
	// that a flood of logins can take.
	Concurrent int
}

// hashWait is how long a request queues for its turn to hash before it is told to come back.
const hashWait = 10 * time.Second

// phc is a hashed password: "$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>".
type phc struct {
	memory, passes uint32
	threads        uint8
	salt, sum      []byte
}

// hasher hashes passwords, a bounded number at a time.
type hasher struct {
	policy PasswordPolicy
	turns  chan struct{} // holds a token per hash under way
	decoy  string        // compared with where there is no user, so that this takes as long
}

func newHasher(p PasswordPolicy, processors int) *hasher {
	if p.MinLength == 0 {
		p.MinLength = 8
	}
	if p.Memory == 0 {
		p.Memory = 19 * 1024
	}
	if p.Passes == 0 {
		p.Passes = 2
	}
	if p.Concurrent == 0 {
		p.Concurrent = min(processors, 4)
	}
	h := &hasher{policy: p, turns: make(chan struct{}, p.Concurrent)}
	// The sum is not of any password: comparing costs the same and never succeeds.
	h.decoy = phc{p.Memory, p.Passes, 1, make([]byte, 16), make([]byte, 32)}.String()
	return h
}

// turn waits for the right to hash. The caller gives it back by calling release.
func (h *hasher) turn(ctx context.Context) (release func(), err error) {
	timeout := time.NewTimer(hashWait)
	defer timeout.Stop()
	select {
	case h.turns <- struct{}{}:
		return func() { <-h.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout.C:
		return nil, mxerr.LimitExceeded(hashWait)
	}
}

// hash makes the stored form of a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	release, err := h.turn(ctx)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	defer release()
	p := phc{memory: h.policy.Memory, passes: h.policy.Passes, threads: 1, salt: make([]byte, 16)}
	_, _ = rand.Read(p.salt) // never fails
	p.sum = argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.threads, 32)
	return p.String(), nil
}

// verify compares a password with its stored form. An empty stored form takes as long as any
// other and never matches. stale says that the form was made with other costs than now.
func (h *hasher) verify(ctx context.Context, password, stored string) (ok, stale bool, err error) {
	usable := stored != ""
	if !usable {
		stored = h.decoy
	}
	p, err := parsePHC(stored)
	if err != nil {
		return false, false, fmt.Errorf("read stored password: %w", err)
	}
	if len(password) > maxPasswordSize {
		return false, false, nil
	}
	release, err := h.turn(ctx)
	if err != nil {
		return false, false, fmt.Errorf("verify password: %w", err)
	}
	defer release()
	sum := argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.threads, uint32(len(p.sum)))
	same := subtle.ConstantTimeCompare(sum, p.sum) == 1
	stale = p.memory != h.policy.Memory || p.passes != h.policy.Passes || p.threads != 1
	return same && usable, stale, nil
}

func (p phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.threads,
		base64.RawStdEncoding.EncodeToString(p.salt), base64.RawStdEncoding.EncodeToString(p.sum))
}

var errPHC = errors.New("not an argon2id hash within our bounds")

// parsePHC reads the stored form and bounds its costs, so that a damaged row can't take the
// machine's memory.
func parsePHC(s string) (phc, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return phc{}, errPHC
	}
	var p phc
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.threads); err != nil || n != 3 {
		return phc{}, errPHC
	}
	if p.memory < 8 || p.memory > 1<<20 || p.passes < 1 || p.passes > 64 || p.threads < 1 {
		return phc{}, errPHC
	}
	var err error
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(p.salt) < 8 || len(p.salt) > 64 {
		return phc{}, errPHC
	}
	if p.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(p.sum) < 16 || len(p.sum) > 64 {
		return phc{}, errPHC
	}
	return p, nil
}

// CheckPassword reports whether a password may be used, before interactive authentication
// rather than after it.
//
// Spec: cs Password Management
func (a *Accounts) CheckPassword(password string) error {
	switch {
	case utf8.RuneCountInString(password) < a.hasher.policy.MinLength:
		return mxerr.New(mxerr.CodeWeakPassword, "The password must have at least %d characters.", a.hasher.policy.MinLength)
	case len(password) > maxPasswordSize:
		return mxerr.New(mxerr.CodeWeakPassword, "The password must have at most %d bytes.", maxPasswordSize)
	}
	return nil
}
