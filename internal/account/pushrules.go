package account

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

// Push rules are kept as account data of type m.push_rules, reduced to what the user changed, so that predefined rules
// that a later version adds or changes reach everybody. Whoever reads account data gets the whole of them.

// PushRules returns the push rules of a user.
//
// Spec: cs getPushRules
func (a *Accounts) PushRules(ctx context.Context, user id.UserID) (pushrule.Ruleset, error) {
	var d Datum
	err := a.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		d, _, err = getDatum(tx, user, "", TypePushRules)
		return err
	})
	if err != nil {
		return pushrule.Ruleset{}, err
	}
	return d.pushRules(user)
}

// ChangePushRules changes the push rules of a user in one transaction. fn may be called again if the transaction is.
//
// Spec: cs setPushRule
func (a *Accounts) ChangePushRules(ctx context.Context, user id.UserID, fn func(pushrule.Ruleset) (pushrule.Ruleset, error)) error {
	return a.UpdateData(ctx, user, "", TypePushRules, func(old json.RawMessage) (json.RawMessage, error) {
		rules, err := (&Datum{Content: old}).pushRules(user)
		if err != nil {
			return nil, err
		}
		if rules, err = fn(rules); err != nil {
			return nil, err
		}
		if stored := rules.Stored(user); len(stored) > 0 {
			return stored, nil
		}
		return nil, nil
	})
}

// pushRules reads the content of an entry that holds push rules. One that is not there stands for the predefined rules.
func (d *Datum) pushRules(user id.UserID) (pushrule.Ruleset, error) {
	var stored []byte
	if !d.Deleted {
		stored = d.Content
	}
	rules, err := pushrule.Parse(user, stored)
	if err != nil {
		return rules, fmt.Errorf("read push rules of %s: %w", user, err)
	}
	return rules, nil
}

// isPushRules says whether the entry holds push rules.
func (d *Datum) isPushRules() bool { return d.Type == TypePushRules && d.Room == "" }

// show makes of an entry as it is stored what the user is to see.
func (d *Datum) show(user id.UserID) error {
	if !d.isPushRules() {
		return nil
	}
	rules, err := d.pushRules(user)
	d.Content, d.Deleted = rules.AccountData(), false
	return err
}

// withPushRules adds the predefined rules of a user who changed none of them to a list of everything they have. They have
// no position.
func withPushRules(list []Datum, user id.UserID) ([]Datum, error) {
	if slices.ContainsFunc(list, func(d Datum) bool { return d.isPushRules() }) {
		return list, nil
	}
	predefined := Datum{Type: TypePushRules, Deleted: true}
	err := predefined.show(user)
	return slices.Insert(list, 0, predefined), err
}
