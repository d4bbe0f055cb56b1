package clientapi

import (
	"context"

	"myelin/internal/e2ee"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxBackupBody is the largest request with keys for a backup, in bytes.
const maxBackupBody = 8 << 20

// backupRoutes is the chapter on backups of keys.
//
// Spec: cs Server-side key backups
func (a *API) backupRoutes() []web.Route {
	const keys, version = "/_matrix/client/v3/room_keys/keys", "/_matrix/client/v3/room_keys/version"
	return []web.Route{
		{Method: "POST", Path: version, Op: "postRoomKeysVersion", Handle: a.createBackup},
		{Method: "GET", Path: version, Op: "getRoomKeysVersionCurrent", Handle: a.backup},
		{Method: "GET", Path: version + "/{version}", Op: "getRoomKeysVersion", Handle: a.backup},
		{Method: "PUT", Path: version + "/{version}", Op: "putRoomKeysVersion", Handle: a.updateBackup},
		{Method: "DELETE", Path: version + "/{version}", Op: "deleteRoomKeysVersion", EmptyBody: true, Handle: a.deleteBackup},
		{Method: "PUT", Path: keys, Op: "putRoomKeys", MaxBody: maxBackupBody, Handle: a.putRoomKeys},
		{Method: "PUT", Path: keys + "/{roomId}", Op: "putRoomKeysByRoomId", MaxBody: maxBackupBody, Handle: a.putRoomKeys},
		{Method: "PUT", Path: keys + "/{roomId}/{sessionId}", Op: "putRoomKeyBySessionId", Handle: a.putRoomKeys},
		{Method: "GET", Path: keys, Op: "getRoomKeys", Handle: a.roomKeys},
		{Method: "GET", Path: keys + "/{roomId}", Op: "getRoomKeysByRoomId", Handle: a.roomKeys},
		{Method: "GET", Path: keys + "/{roomId}/{sessionId}", Op: "getRoomKeyBySessionId", Handle: a.roomKeys},
		{Method: "DELETE", Path: keys, Op: "deleteRoomKeys", EmptyBody: true, Handle: a.deleteRoomKeys},
		{Method: "DELETE", Path: keys + "/{roomId}", Op: "deleteRoomKeysByRoomId", EmptyBody: true, Handle: a.deleteRoomKeys},
		{Method: "DELETE", Path: keys + "/{roomId}/{sessionId}", Op: "deleteRoomKeyBySessionId", EmptyBody: true, Handle: a.deleteRoomKeys},
	}
}

// Spec: cs postRoomKeysVersion
func (a *API) createBackup(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body e2ee.Backup
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	version, err := a.Encryption.CreateBackup(ctx, r.Caller.User, body)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]string{"version": version}), nil
}

// Spec: cs getRoomKeysVersion
// Spec: cs getRoomKeysVersionCurrent
func (a *API) backup(ctx context.Context, r *web.Request) (*web.Response, error) {
	b, err := a.Encryption.Backup(ctx, r.Caller.User, r.Path("version"))
	if err != nil {
		return nil, err
	}
	return web.JSON(b), nil
}

// Spec: cs putRoomKeysVersion
func (a *API) updateBackup(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body e2ee.Backup
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return ok(a.Encryption.UpdateBackup(ctx, r.Caller.User, r.Path("version"), body), func() error { return nil })
}

// Spec: cs deleteRoomKeysVersion
func (a *API) deleteBackup(ctx context.Context, r *web.Request) (*web.Response, error) {
	return ok(a.Encryption.DeleteBackup(ctx, r.Caller.User, r.Path("version")), func() error { return nil })
}

// place reads which keys of which backup a request is about.
func place(r *web.Request) (version string, room id.RoomID, err error) {
	if version = r.Query("version"); version == "" {
		return "", "", mxerr.MissingParam("\"version\" is missing")
	}
	if r.Path("roomId") != "" {
		room, err = r.RoomID("roomId")
	}
	return version, room, err
}

// Spec: cs putRoomKeys
// Spec: cs putRoomKeysByRoomId
// Spec: cs putRoomKeyBySessionId
func (a *API) putRoomKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	version, room, err := place(r)
	if err != nil {
		return nil, err
	}
	keys := make(e2ee.BackupKeys)
	switch session := r.Path("sessionId"); {
	case session != "":
		var one e2ee.BackedUp
		err = r.Decode(&one)
		keys[room] = e2ee.RoomBackup{Sessions: map[string]e2ee.BackedUp{session: one}}
	case room != "":
		var sessions e2ee.RoomBackup
		if err = r.Decode(&sessions); err == nil && sessions.Sessions == nil {
			err = mxerr.MissingParam("\"sessions\" is missing")
		}
		keys[room] = sessions
	default:
		var body struct {
			Rooms e2ee.BackupKeys `json:"rooms"`
		}
		if err = r.Decode(&body); err == nil && body.Rooms == nil {
			err = mxerr.MissingParam("\"rooms\" is missing")
		}
		keys = body.Rooms
	}
	if err != nil {
		return nil, err
	}
	stored, err := a.Encryption.PutRoomKeys(ctx, r.Caller.User, version, keys)
	if err != nil {
		return nil, err
	}
	return web.JSON(stored), nil
}

// Spec: cs getRoomKeys
// Spec: cs getRoomKeysByRoomId
// Spec: cs getRoomKeyBySessionId
func (a *API) roomKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	version, room, err := place(r)
	if err != nil {
		return nil, err
	}
	if session := r.Path("sessionId"); session != "" {
		key, err := a.Encryption.SessionKey(ctx, r.Caller.User, version, room, session)
		if err != nil {
			return nil, err
		}
		return web.Raw(key), nil
	}
	stream, err := a.Encryption.RoomKeys(ctx, r.Caller.User, version, room)
	if err != nil {
		return nil, err
	}
	return &web.Response{Stream: stream}, nil
}

// Spec: cs deleteRoomKeys
// Spec: cs deleteRoomKeysByRoomId
// Spec: cs deleteRoomKeyBySessionId
func (a *API) deleteRoomKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	version, room, err := place(r)
	if err != nil {
		return nil, err
	}
	stored, err := a.Encryption.DeleteRoomKeys(ctx, r.Caller.User, version, room, r.Path("sessionId"))
	if err != nil {
		return nil, err
	}
	return web.JSON(stored), nil
}
