package clientapi

import (
	"context"
	"encoding/json"

	"myelin/internal/web"
	"myelin/matrix/mxerr"
	"myelin/matrix/pushrule"
)

// pushRuleRoutes is about what users want to be notified of.
//
// Spec: cs Push Rules: API
func (a *API) pushRuleRoutes() []web.Route {
	const kind = "/_matrix/client/v3/pushrules/global/{kind}"
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/", Op: "getPushRules", Handle: a.pushRules},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/global/", Op: "getPushRulesGlobal", Handle: a.globalPushRules},
		{Method: "GET", Path: kind + "/{ruleId}", Op: "getPushRule", Handle: a.pushRule},
		{Method: "PUT", Path: kind + "/{ruleId}", Op: "setPushRule", Handle: a.setPushRule},
		{Method: "DELETE", Path: kind + "/{ruleId}", Op: "deletePushRule", EmptyBody: true, Handle: a.deletePushRule},
		{Method: "GET", Path: kind + "/{ruleId}/actions", Op: "getPushRuleActions", Handle: a.pushRuleActions},
		{Method: "PUT", Path: kind + "/{ruleId}/actions", Op: "setPushRuleActions", Handle: a.setPushRuleActions},
		{Method: "GET", Path: kind + "/{ruleId}/enabled", Op: "isPushRuleEnabled", Handle: a.pushRuleEnabled},
		{Method: "PUT", Path: kind + "/{ruleId}/enabled", Op: "setPushRuleEnabled", Handle: a.setPushRuleEnabled},
	}
}

// Spec: cs getPushRules
func (a *API) pushRules(ctx context.Context, r *web.Request) (*web.Response, error) {
	rules, err := a.Accounts.PushRules(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"global": rules}), nil
}

// Spec: cs getPushRulesGlobal
func (a *API) globalPushRules(ctx context.Context, r *web.Request) (*web.Response, error) {
	rules, err := a.Accounts.PushRules(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(rules), nil
}

// oneRule finds the rule that the path names. Of a kind that we don't know there is none: so clients find out about kinds.
func (a *API) oneRule(ctx context.Context, r *web.Request) (pushrule.Rule, error) {
	kind, err := pushrule.ParseKind(r.Path("kind"))
	if err != nil {
		return pushrule.Rule{}, mxerr.NotFound("There is no such push rule.")
	}
	rules, err := a.Accounts.PushRules(ctx, r.Caller.User)
	if err != nil {
		return pushrule.Rule{}, err
	}
	return rules.Find(kind, r.Path("ruleId"))
}

// changeRules changes the caller's rules at the rule that the path names.
func (a *API) changeRules(ctx context.Context, r *web.Request, change func(pushrule.Ruleset, pushrule.Kind, string) (pushrule.Ruleset, error)) (*web.Response, error) {
	kind, err := pushrule.ParseKind(r.Path("kind"))
	if err != nil {
		return nil, err
	}
	if err := a.Push.Settle(ctx); err != nil {
		return nil, err
	}
	return web.Empty, a.Accounts.ChangePushRules(ctx, r.Caller.User, func(rules pushrule.Ruleset) (pushrule.Ruleset, error) {
		return change(rules, kind, r.Path("ruleId"))
	})
}

// Spec: cs getPushRule
func (a *API) pushRule(ctx context.Context, r *web.Request) (*web.Response, error) {
	rule, err := a.oneRule(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(rule), nil
}

// Spec: cs setPushRule
func (a *API) setPushRule(ctx context.Context, r *web.Request) (*web.Response, error) {
	var draft pushrule.Draft
	if err := r.Decode(&draft); err != nil {
		return nil, err
	}
	place := pushrule.Place{Before: r.Query("before"), After: r.Query("after")}
	return a.changeRules(ctx, r, func(rules pushrule.Ruleset, kind pushrule.Kind, ruleID string) (pushrule.Ruleset, error) {
		return rules.Put(kind, ruleID, draft, place)
	})
}

// Spec: cs deletePushRule
func (a *API) deletePushRule(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.changeRules(ctx, r, pushrule.Ruleset.Delete)
}

// Spec: cs getPushRuleActions
func (a *API) pushRuleActions(ctx context.Context, r *web.Request) (*web.Response, error) {
	rule, err := a.oneRule(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"actions": rule.Actions}), nil
}

// Spec: cs setPushRuleActions
func (a *API) setPushRuleActions(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Actions []json.RawMessage `json:"actions"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, mxerr.MissingParam("\"actions\" is missing")
	}
	return a.changeRules(ctx, r, func(rules pushrule.Ruleset, kind pushrule.Kind, ruleID string) (pushrule.Ruleset, error) {
		return rules.SetActions(kind, ruleID, body.Actions)
	})
}

// Spec: cs isPushRuleEnabled
func (a *API) pushRuleEnabled(ctx context.Context, r *web.Request) (*web.Response, error) {
	rule, err := a.oneRule(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(enabled{rule.Enabled}), nil
}

// Spec: cs setPushRuleEnabled
func (a *API) setPushRuleEnabled(ctx context.Context, r *web.Request) (*web.Response, error) {
	on, err := flag(r, "enabled")
	if err != nil {
		return nil, err
	}
	return a.changeRules(ctx, r, func(rules pushrule.Ruleset, kind pushrule.Kind, ruleID string) (pushrule.Ruleset, error) {
		return rules.SetEnabled(kind, ruleID, on)
	})
}
