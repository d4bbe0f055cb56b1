package servertest

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"myelin/internal/spectest"
)

// stage makes what the requests of an operation speak of: a room of alice and bob with a message and an alias, and whatever else the
// operation asks for. What is nil is left out.
func stage(t *testing.T, op spectest.Operation, p people) *scene {
	alice, bob, third := p.alice.In(t), p.bob.In(t), p.stranger.In(t)
	switch {
	case endsSession[op.ID]:
		alice = alice.Server.Register(t, "leaver")
	case strings.Contains(op.Path, "/admin/"):
		alice = p.admin.In(t)
	}
	alias := Unique("spec-")
	room := alice.CreateRoom(M{"room_alias_name": alias, "invite": []string{bob.User}})
	bob.Join(room)
	event := alice.Say(room, "hello")
	s := &scene{op: op, asks: alice, words: M{
		"roomId": room, "room_id": room, "roomIdOrAlias": room, "roomAlias": "#" + alias + ":localhost", "eventId": event, "event_id": event, "userId": alice.User, "user_id": bob.User,
		"deviceId": alice.Device, "device_id": nil, "devices": []string{"OTHER"}, "txnId": Unique("txn"), "eventType": "org.example.spec", "stateKey": "", "receiptType": "m.read",
		"type": "org.example.spec", "tag": "m.favourite", "keyName": "displayname", "kind": "sender", "ruleId": third.User, "relType": "m.thread", "serverName": "localhost", "protocol": "irc",
		"networkId": "irc", "appserviceId": "bridge", "idpId": "oidc", "fileName": "a.png", "mediaId": "missing", "filterId": "0", "from": nil, "to": nil, "since": nil, "at": nil, "filter": nil,
		"via": nil, "timeout": 0, "dir": "b", "ts": time.Now().UnixMilli(), "timeout_ms": 10, "m.fully_read": event, "m.read": event, "m.read.private": event, "thread_id": "main", "new_version": "11",
		"additional_creators": nil, "third_party_signed": nil, "room_alias_name": Unique("made-"), "username": Unique("new-"), "invite": []string{bob.User}, "invite_3pid": nil, "creation_content": nil,
		"initial_state": nil, "power_level_content_override": nil, "room_version": "12", "server": nil, "before": nil, "after": nil, "token": "token", "url": "http://127.0.0.1:9/", "device_keys": nil,
		"one_time_keys": nil, "fallback_keys": nil, "master_key": nil, "self_signing_key": nil, "user_signing_key": nil, "id_server": nil, "id_access_token": nil, "medium": nil, "address": nil,
		"preset": "private_chat", "visibility": "private", "width": 32, "height": 32, "membership": nil, "not_membership": nil, "next_batch": nil, "include": "all", "limit": 10,
	}}
	if prepare := prepares[op.ID]; prepare != nil {
		prepare(s, bob, p)
	}
	return s
}

// with sets words of a scene.
func with(words M) func(*scene, *Client, people) {
	return func(s *scene, _ *Client, _ people) {
		for k, v := range words {
			s.words[k] = v
		}
	}
}

// prepares set a scene further, by operation.
var prepares = map[string]func(s *scene, bob *Client, p people){
	"claimKeys": func(s *scene, bob *Client, _ people) {
		s.words["one_time_keys"] = M{bob.User: M{bob.Device: "signed_curve25519"}}
	},
	"queryKeys":    func(s *scene, bob *Client, _ people) { s.words["device_keys"] = M{bob.User: []string{}} },
	"createRoom":   with(M{"room_id": nil, "type": nil}),
	"defineFilter": with(M{"type": nil, "room": M{}, "presence": M{}, "account_data": M{}, "event_fields": []string{"type"}}),
	"forgetRoom":   func(s *scene, _ *Client, _ people) { s.asks.Leave(s.words["roomId"].(string)) },
	"getAccountData": func(s *scene, _ *Client, _ people) {
		s.asks.OK("PUT", Path("user", s.asks.User, "account_data", "org.example.spec"), M{"a": 1})
	},
	"getAccountDataPerRoom": func(s *scene, _ *Client, _ people) {
		s.asks.OK("PUT", Path("user", s.asks.User, "rooms", s.words["roomId"].(string), "account_data", "org.example.spec"), M{"a": 1})
	},
	"getFilter": func(s *scene, _ *Client, _ people) {
		s.words["filterId"] = s.asks.OK("POST", Path("user", s.asks.User, "filter"), M{}).Text("filter_id")
	},
	"getKeysChanges": func(s *scene, _ *Client, _ people) {
		s.words["from"] = s.asks.Sync("").Next
		s.words["to"] = s.words["from"]
	},
	"getProfileField":                    func(s *scene, _ *Client, _ people) { setName(s) },
	"getPushRule":                        pushRule,
	"deletePushRule":                     pushRule,
	"getPushRuleActions":                 pushRule,
	"setPushRuleActions":                 pushRule,
	"isPushRuleEnabled":                  pushRule,
	"setPushRuleEnabled":                 pushRule,
	"setPushRule":                        with(M{"pattern": nil, "conditions": nil, "actions": []string{"notify"}}),
	"getRoomStateWithKey":                topic,
	"getRoomStateWithKeyEmptyKeySlash":   topic,
	"getRoomStateWithKeyEmptyKeyNoSlash": topic,
	"getRoomKeys":                        backup,
	"putRoomKeys":                        backup,
	"deleteRoomKeys":                     backup,
	"getRoomKeysByRoomId":                backup,
	"putRoomKeysByRoomId":                backup,
	"deleteRoomKeysByRoomId":             backup,
	"getRoomKeyBySessionId":              backup,
	"putRoomKeyBySessionId":              backup,
	"deleteRoomKeyBySessionId":           backup,
	"getRoomKeysVersion":                 backup,
	"getRoomKeysVersionCurrent":          backup,
	"putRoomKeysVersion":                 backup,
	"deleteRoomKeysVersion":              backup,
	"postRoomKeysVersion":                with(M{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": M{"public_key": "abc"}}),
	"inviteUser":                         func(s *scene, _ *Client, p people) { s.words["body"] = M{"user_id": p.stranger.User} },
	"knockRoom":                          knockable,
	"login":                              with(M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": "alice"}, "user": nil, "password": "wrong", "token": nil}),
	"register":                           with(M{"kind": nil, "type": nil}),
	"setRoomAlias":                       func(s *scene, _ *Client, _ people) { s.words["roomAlias"] = "#" + Unique("other-") + ":localhost" },
	"setProfileField":                    with(M{"body": M{"displayname": "Alice"}}),
	"sendToDevice":                       func(s *scene, bob *Client, _ people) { s.words["messages"] = M{bob.User: M{"*": M{"a": 1}}} },
	"setRoomTag":                         with(M{"order": 0.5}),
	"setPresence":                        with(M{"presence": "online"}),
	"unban":                              func(s *scene, bob *Client, _ people) { s.asks.Ban(s.words["roomId"].(string), bob) },
	"uploadCrossSigningSignatures":       with(M{"body": M{}}),
	"search":                             with(M{"search_categories": M{"room_events": M{"search_term": "hello"}}}),
	"getContent":                         aPicture,
	"getContentOverrideName":             aPicture,
	"getContentThumbnail":                aPicture,
	"getContentAuthed":                   aPicture,
	"getContentOverrideNameAuthed":       aPicture,
	"getContentThumbnailAuthed":          aPicture,
	"uploadContentToMXC":                 func(s *scene, _ *Client, _ people) { s.words["mediaId"] = reserved(s) },
	"postPusher":                         with(M{"kind": "http", "data": M{"url": "https://push.example.org/_matrix/push/v1/notify"}, "app_id": "org.example", "pushkey": "key"}),
	"bind3PID":                           with(M{"id_server": "id.example.org", "id_access_token": "x"}),
	"unbind3pidFromAccount":              with(M{"medium": "email", "address": "alice@example.org"}),
	"delete3pidFromAccount":              with(M{"medium": "email", "address": "alice@example.org"}),
	"getSpaceHierarchy":                  with(M{"max_depth": 2}),
	"setAccountData":                     with(M{"body": M{"a": 1}}),
	"setAccountDataPerRoom":              with(M{"body": M{"a": 1}}),
	"sendMessage":                        with(M{"body": M{"body": "x"}}),
	"setRoomStateWithKey":                with(M{"body": M{"topic": "x"}}),
	"setRoomStateWithKeyEmptyKeySlash":   with(M{"body": M{"topic": "x"}}),
	"setRoomStateWithKeyEmptyKeyNoSlash": with(M{"body": M{"topic": "x"}}),
	"setRoomVisibilityOnDirectory":       with(M{"visibility": "public"}),
	"requestOpenIdToken":                 with(M{"body": M{}}),
	"queryPublicRooms":                   with(M{"filter": M{"generic_search_term": "x"}, "third_party_instance_id": nil, "include_all_networks": false}),
	"changePassword":                     with(M{"new_password": "another good password"}),
	"refresh":                            with(M{"refresh_token": "unknown"}),
	"reportUser":                         func(s *scene, bob *Client, _ people) { s.words["userId"] = bob.User },
	"searchUserDirectory":                with(M{"search_term": "alice"}),
	"setAdminLockUser":                   func(s *scene, bob *Client, _ people) { s.words["userId"], s.words["locked"] = bob.User, false },
	"setAdminSuspendUser":                func(s *scene, bob *Client, _ people) { s.words["userId"], s.words["suspended"] = bob.User, false },
	"getAdminLockUser":                   func(s *scene, bob *Client, _ people) { s.words["userId"] = bob.User },
	"getAdminSuspendUser":                func(s *scene, bob *Client, _ people) { s.words["userId"] = bob.User },
	"getNotifications":                   with(M{"only": "highlight"}),
}

func setName(s *scene) {
	s.asks.OK("PUT", Path("profile", s.asks.User, "displayname"), M{"displayname": "Alice"})
}

func pushRule(s *scene, _ *Client, p people) {
	s.asks.OK("PUT", Path("pushrules", "global", "sender", p.stranger.User), M{"actions": []string{"notify"}})
}

func topic(s *scene, _ *Client, _ people) {
	s.words["eventType"] = "m.room.topic"
	s.asks.SetState(s.words["roomId"].(string), "m.room.topic", "", M{"topic": "What we ask"})
}

// backup has the asker keep a session's key in a new backup.
func backup(s *scene, _ *Client, _ people) {
	s.words["algorithm"], s.words["auth_data"] = "m.megolm_backup.v1.curve25519-aes-sha2", M{"public_key": "abc"}
	version := s.asks.OK("POST", "room_keys/version", M{"algorithm": s.words["algorithm"], "auth_data": s.words["auth_data"]}).Text("version")
	room, key := s.words["roomId"].(string), M{"first_message_index": 1, "forwarded_count": 0, "is_verified": false, "session_data": M{"ephemeral": "x"}}
	s.asks.OK("PUT", Path("room_keys", "keys", room, "session")+Query("version", version), key)
	s.words["version"], s.words["sessionId"], s.words["session_data"] = version, "session", key["session_data"]
	s.words["sessions"], s.words["rooms"] = M{"session": key}, M{room: M{"sessions": M{"session": key}}}
}

// knockable makes the scene of a room that the asker may knock at.
func knockable(s *scene, bob *Client, _ people) {
	s.words["roomIdOrAlias"] = bob.CreateRoom(M{"initial_state": []M{{"type": "m.room.join_rules", "content": M{"join_rule": "knock"}}}})
}

// pixel is the smallest PNG there is.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

func aPicture(s *scene, _ *Client, _ people) {
	raw, err := base64.StdEncoding.DecodeString(pixel)
	if err != nil {
		s.asks.tb.Fatal(err)
	}
	a := s.asks.OK(http.MethodPost, "/_matrix/media/v3/upload", Raw(raw))
	_, s.words["mediaId"], _ = strings.Cut(strings.TrimPrefix(a.Text("content_uri"), "mxc://"), "/")
}

func reserved(s *scene) string {
	a := s.asks.OK(http.MethodPost, "/_matrix/media/v1/create", nil)
	_, media, _ := strings.Cut(strings.TrimPrefix(a.Text("content_uri"), "mxc://"), "/")
	return media
}

// endsSession are operations that would leave the others without a token.
var endsSession = map[string]bool{"logout": true, "logout_all": true, "deactivateAccount": true, "changePassword": true, "deleteDevice": true, "deleteDevices": true}

// refusedWhole are operations that refuse a good request as well: what it would need isn't set up, or doesn't exist.
var refusedWhole = map[string][]string{
	"getWellknownSupport":               {"M_NOT_FOUND"},
	"login":                             {"M_FORBIDDEN", "M_MISSING_PARAM"},
	"refresh":                           {"M_UNKNOWN_TOKEN"},
	"requestTokenToResetPasswordEmail":  {"M_THREEPID_DENIED"},
	"requestTokenToResetPasswordMSISDN": {"M_THREEPID_DENIED"},
	"requestTokenToRegisterEmail":       {"M_THREEPID_DENIED"},
	"requestTokenToRegisterMSISDN":      {"M_THREEPID_DENIED"},
	"requestTokenTo3PIDEmail":           {"M_THREEPID_DENIED"},
	"requestTokenTo3PIDMSISDN":          {"M_THREEPID_DENIED"},
	"getWellknownPolicy":                {"M_NOT_FOUND"},
	// Nobody here is an application service, or bridges to a network.
	"pingAppservice": {"M_FORBIDDEN"}, "updateAppserviceRoomDirectoryVisibility": {"M_FORBIDDEN"}, "queryLocationByProtocol": {"M_NOT_FOUND"}, "queryUserByProtocol": {"M_NOT_FOUND"},
	// No address was confirmed, and no other identity server is spoken to than one that is configured.
	"post3PIDs": {"M_THREEPID_AUTH_FAILED"}, "bind3PID": {"M_SERVER_NOT_TRUSTED"},
	// Nobody signs in elsewhere.
	"redirectToSSO": {"M_UNRECOGNIZED"}, "redirectToIdP": {"M_NOT_FOUND"},
	// A pusher that isn't removed needs more than the document says is required.
	"postPusher": {"M_MISSING_PARAM"},
	// What is uploaded today is not to be had without a token.
	"getContent": {"M_NOT_FOUND"}, "getContentOverrideName": {"M_NOT_FOUND"}, "getContentThumbnail": {"M_NOT_FOUND"},
	"getProtocolMetadata": {"M_NOT_FOUND"},
	// The page is at a private address.
	"getUrlPreview": {"M_FORBIDDEN"}, "getUrlPreviewAuthed": {"M_FORBIDDEN"},
}

// mayLack are required parts without which an operation is answered all the same: "getEvents" shares its path with the listening to
// all rooms, which the document leaves out.
var mayLack = map[string]bool{"getEvents room_id": true}

// openToStrangers are operations about rooms that anybody may ask.
var openToStrangers = map[string]bool{"reportRoom": true}

// unserved are operations that the server says it does not know, and why.
var unserved = map[string]string{
	"getAuthMetadata": "there is no sign-in by OAuth 2.0",
}
