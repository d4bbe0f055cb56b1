package account

import (
	"context"
	"encoding/json"

	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// The stages of this package.
const (
	StageDummy             = "m.login.dummy"
	StagePassword          = "m.login.password"
	StageRegistrationToken = "m.login.registration_token"
	StageTerms             = "m.login.terms"
)

// The stages of other packages, which come in by Config.Stages.
const (
	StageEmail   = "m.login.email.identity"
	StageCaptcha = "m.login.recaptcha"
)

func (a *Accounts) ownStages() []Stage {
	return []Stage{dummyStage{}, passwordStage{a}, registrationTokenStage{a}, termsStage{a.cfg.Terms}}
}

// PasswordFlow is the flow of operations on an existing account.
var PasswordFlow = []web.Flow{{Stages: []string{StagePassword}}}

// RegistrationFlows are the flows of register as this server is configured.
func (a *Accounts) RegistrationFlows() []web.Flow {
	var stages []string
	if a.stages[StageCaptcha] != nil {
		stages = append(stages, StageCaptcha)
	}
	if a.cfg.Registration == RegistrationToken {
		stages = append(stages, StageRegistrationToken)
	}
	if len(a.cfg.Terms) > 0 {
		stages = append(stages, StageTerms)
	}
	withMail := append([]string{StageEmail}, stages...)
	if len(stages) == 0 {
		stages = append(stages, StageDummy)
	}
	switch {
	case a.stages[StageEmail] == nil:
		return []web.Flow{{Stages: stages}}
	case a.cfg.EmailRequired:
		return []web.Flow{{Stages: withMail}}
	}
	return []web.Flow{{Stages: stages}, {Stages: withMail}}
}

// PasswordFlows are the flows of a new password: for somebody who is signed in the old one, for others a confirmed address too.
//
// Spec: cs changePassword
func (a *Accounts) PasswordFlows(user id.UserID) []web.Flow {
	if user != "" || a.stages[StageEmail] == nil {
		return PasswordFlow
	}
	return []web.Flow{PasswordFlow[0], {Stages: []string{StageEmail}}}
}

// dummyStage always succeeds.
//
// Spec: cs Dummy Auth
type dummyStage struct{}

func (dummyStage) Type() string                        { return StageDummy }
func (dummyStage) Params() any                         { return nil }
func (dummyStage) Attempt(context.Context, *Try) error { return nil }

// passwordStage asks for the password of the caller's account, or of any account where the request came
// without an access token.
//
// Spec: cs Password-based
type passwordStage struct{ a *Accounts }

func (passwordStage) Type() string { return StagePassword }
func (passwordStage) Params() any  { return nil }

func (s passwordStage) Attempt(ctx context.Context, t *Try) error {
	var auth struct {
		Identifier *Identifier `json:"identifier"`
		User       string      `json:"user"` // before identifiers
		Password   string      `json:"password"`
	}
	if err := json.Unmarshal(t.Auth, &auth); err != nil {
		return mxerr.BadJSON("The password and the user must be strings, the identifier an object.")
	}
	if auth.Password == "" {
		return mxerr.MissingParam(`"password" is missing.`)
	}
	user, err := s.a.identify(ctx, auth.Identifier, auth.User)
	if err != nil {
		return err
	}
	if t.User != "" && user != t.User {
		return errOtherUser
	}
	u, ok, err := s.a.verifyPassword(ctx, user, auth.Password)
	switch {
	case err != nil:
		return err
	case !ok:
		return errWrongPassword
	case u.DeactivatedTS != 0:
		return errDeactivated
	}
	t.Facts[FactUser] = string(user)
	return nil
}

var (
	errWrongPassword = mxerr.Forbidden("The user name or the password is wrong.")
	// errOtherUser ends the request: a second attempt is for who mistyped a password.
	errOtherUser   = mxerr.Forbidden("This is not the account that you are logged in to.")
	errDeactivated = mxerr.New(mxerr.CodeUserDeactivated, "This account has been deactivated.")
)

// registrationTokenStage asks for a token that an administrator handed out. A completed stage holds one
// of the token's uses until the registration completes or its session expires.
//
// Spec: cs Token-authenticated registration
type registrationTokenStage struct{ a *Accounts }

func (registrationTokenStage) Type() string { return StageRegistrationToken }
func (registrationTokenStage) Params() any  { return nil }

func (s registrationTokenStage) Attempt(_ context.Context, t *Try) error {
	var auth struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(t.Auth, &auth); err != nil {
		return mxerr.BadJSON("The token must be a string.")
	}
	if auth.Token == "" {
		return mxerr.MissingParam(`"token" is missing.`)
	}
	if checkRegistrationToken(auth.Token) != nil {
		return errBadRegistrationToken
	}
	t.Facts[FactRegistrationToken] = auth.Token
	t.With = func(tx *sqldb.Tx) error {
		rows, err := tx.Exec(sqlHoldRegistrationToken, auth.Token, now())
		if err == nil && rows == 0 {
			return errBadRegistrationToken
		}
		return err
	}
	return nil
}

var errBadRegistrationToken = mxerr.New(mxerr.CodeUnauthorized, "The registration token is not valid.")

// Policy is a document that a new user must accept.
//
// Spec: cs Terms of service at registration
type Policy struct {
	Version string
	// Texts are the translations, by language code.
	Texts map[string]PolicyText
}

// PolicyText is one translation of a Policy.
type PolicyText struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// MarshalJSON puts the version and the languages side by side.
func (p Policy) MarshalJSON() ([]byte, error) {
	m := map[string]any{"version": p.Version}
	for lang, text := range p.Texts {
		m[lang] = text
	}
	return json.Marshal(m)
}

// termsStage asks the user to accept policies. Which versions they accepted becomes a fact.
//
// Spec: cs Terms of service at registration
type termsStage struct{ policies map[string]Policy }

func (termsStage) Type() string  { return StageTerms }
func (s termsStage) Params() any { return map[string]any{"policies": s.policies} }

func (s termsStage) Attempt(_ context.Context, t *Try) error {
	versions := make(map[string]string, len(s.policies))
	for name, p := range s.policies {
		versions[name] = p.Version
	}
	raw, err := json.Marshal(versions)
	t.Facts[FactTerms] = string(raw)
	return err
}

// Identifier says who wants to log in.
//
// Spec: cs Identifier types
type Identifier struct {
	Type string `json:"type"`
	// User is a user ID or a localpart, for m.id.user.
	User string `json:"user"`
	// Medium and Address are for m.id.thirdparty.
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// identify finds the user ID that a client means. legacy is the user at the top level, as old
// clients send it.
func (a *Accounts) identify(ctx context.Context, i *Identifier, legacy string) (id.UserID, error) {
	name := legacy
	if i != nil {
		switch i.Type {
		case "m.id.user":
			name = i.User
		case "m.id.thirdparty":
			return a.owner(ctx, i.Medium, i.Address)
		case "m.id.phone":
			return "", errUnknownOwner
		default:
			return "", mxerr.InvalidParam("The identifier type %.64q is not known.", i.Type)
		}
	}
	if name == "" {
		return "", mxerr.MissingParam(`"identifier" does not name a user.`)
	}
	if name[0] != '@' {
		name = "@" + name + ":" + string(a.ours.Primary())
	}
	user, err := id.ParseUserID(name)
	if err != nil || !a.ours.Is(user.Domain()) {
		return "", errWrongPassword
	}
	// No localpart of ours has capital letters; people type them all the same.
	return id.UserID("@" + lower(user.Localpart()) + ":" + string(user.Domain())), nil
}

var errUnknownOwner = mxerr.Forbidden("No account here is known by this third-party identifier.")

// owner finds whose a third-party identifier is.
func (a *Accounts) owner(ctx context.Context, medium, address string) (id.UserID, error) {
	if a.cfg.Owner == nil {
		return "", errUnknownOwner
	}
	user, ok, err := a.cfg.Owner(ctx, medium, address)
	if err == nil && !ok {
		err = errUnknownOwner
	}
	return user, err
}
