package clientapi

import (
	"slices"
	"strings"

	"myelin/internal/web"
)

// Routes is the route table of the whole API. It can be called on a zero API by those who
// want to read the table only.
func (a *API) Routes() []web.Route {
	return withOldPaths(slices.Concat(
		a.discoveryRoutes(),
		a.sessionRoutes(),
		a.registrationRoutes(),
		a.accountRoutes(),
		a.contactRoutes(),
		a.ssoRoutes(),
		a.fallbackRoutes(),
		a.deviceRoutes(),
		a.profileRoutes(),
		a.accountDataRoutes(),
		a.filterRoutes(),
		a.pushRuleRoutes(),
		a.pushRoutes(),
		a.capabilityRoutes(),
		a.callRoutes(),
		a.rtcRoutes(),
		a.moderationRoutes(),
		a.noticeRoutes(),
		a.roomCreationRoutes(),
		a.membershipRoutes(),
		a.sendingRoutes(),
		a.delayedRoutes(),
		a.readingRoutes(),
		a.relationRoutes(),
		a.threadSubscriptionRoutes(),
		a.dehydratedRoutes(),
		a.reportRoutes(),
		a.directoryRoutes(),
		a.spaceRoutes(),
		a.searchRoutes(),
		a.networkRoutes(),
		a.ephemeralRoutes(),
		a.encryptionRoutes(),
		a.backupRoutes(),
		a.mediaRoutes(),
		a.streamRoutes(),
		a.syncRoutes(),
		a.slidingRoutes(),
	))
}

// withOldPaths adds each v3 path under r0 as well: the specification renamed the prefix in
// v1.1, and old clients still use the former one.
func withOldPaths(routes []web.Route) []web.Route {
	const current, old = "/_matrix/client/v3/", "/_matrix/client/r0/"
	all := slices.Clip(routes)
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, current); ok {
			r.Path = old + rest
			all = append(all, r)
		}
	}
	return all
}
