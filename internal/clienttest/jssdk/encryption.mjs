// Devices of matrix-js-sdk with its Rust crypto, which do what encryption_test.go tells them. Each line of standard input is a request
// {"id", "device", "do", ...}; each line of standard output an answer {"id", "result"} or {"id", "error"}. Requests of one device
// may overlap. The process ends with its input.

import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import { createInterface } from "node:readline";

const { ClientEvent, MatrixEventEvent, RoomEvent, RoomMemberEvent, RoomStateEvent } = sdk;
const patience = 60_000; // milliseconds
const again = 100; // milliseconds between two looks at what has no event of its own

// What the library logs is shown only where a request fails.
const logged = [];
for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...args) => {
        logged.push(`${level}: ${args.map(String).join(" ").slice(0, 400)}`);
        if (logged.length > 400) logged.splice(0, 200);
    };
}

function check(holds, what) {
    if (!holds) throw new Error(`it does not hold that ${what}`);
}

// until waits for one of the emitter's events after which the condition holds.
function until(emitter, events, what, holds) {
    return new Promise((resolve, reject) => {
        const look = () => {
            const found = holds();
            if (!found) return;
            stop();
            resolve(found);
        };
        const late = setTimeout(() => {
            stop();
            reject(new Error(`waited in vain for ${what}`));
        }, patience);
        const stop = () => {
            clearTimeout(late);
            for (const e of events) emitter.off(e, look);
        };
        for (const e of events) emitter.on(e, look);
        look();
    });
}

// eventually asks again and again until the answer is true.
async function eventually(what, holds) {
    const end = Date.now() + patience;
    for (;;) {
        if (await holds()) return;
        if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, again));
    }
}

class Device {
    async login({ url, user, password }) {
        const answer = await sdk.createClient({ baseUrl: url }).loginRequest({
            type: "m.login.password", identifier: { type: "m.id.user", user }, password, initial_device_display_name: "encrypted",
        });
        this.password = password;
        this.requests = [];
        this.client = sdk.createClient({
            baseUrl: url, userId: answer.user_id, deviceId: answer.device_id, accessToken: answer.access_token, timelineSupport: true,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], this.secret],
                cacheSecretStorageKey: () => {},
            },
        });
        await this.client.initRustCrypto({ useIndexedDB: false });
        this.crypto = this.client.getCrypto();
        this.client.on(CryptoEvent.VerificationRequestReceived, (request) => {
            this.requests.push(request);
            this.client.emit("requested");
        });
        this.client.on(ClientEvent.ReceivedToDeviceMessage, ({ message }) => {
            this.authenticated ||= message.type === "m.key.verification.mac";
            this.client.emit("received");
        });
        await this.client.startClient({ initialSyncLimit: 8, lazyLoadMembers: true });
        await until(this.client, [ClientEvent.Sync], "the first sync", () => this.client.isInitialSyncComplete());
        return { user: answer.user_id, device: answer.device_id };
    }

    async create({ invite }) {
        const { room_id } = await this.client.createRoom({
            preset: "private_chat", invite,
            initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
        });
        await this.room(room_id, "join");
        return room_id;
    }

    async room(id, membership) {
        const events = [ClientEvent.Room, RoomEvent.MyMembership];
        await until(this.client, events, `${membership} of ${id}`, () => this.client.getRoom(id)?.getMyMembership() === membership);
        return this.client.getRoom(id);
    }

    async join({ room }) {
        await this.room(room, "invite");
        await this.client.joinRoom(room);
        await this.room(room, "join");
    }

    async members({ room, users }) {
        const r = await this.room(room, "join");
        await r.loadMembersIfNeeded();
        const events = [RoomMemberEvent.Membership, RoomStateEvent.Members];
        await until(this.client, events, `${users}`, () => users.every((u) => r.getMember(u)?.membership === "join"));
        check(await this.crypto.isEncryptionEnabledInRoom(room), "the room is encrypted");
    }

    async rotate({ room }) {
        await this.crypto.forceDiscardSession(room);
    }

    // A message that the server doesn't take because it is down is sent again under its transaction ID.
    async say({ room, text }) {
        const end = Date.now() + patience;
        const txn = this.client.makeTxnId();
        const r = await this.room(room, "join");
        let send = () => this.client.sendMessage(room, { msgtype: "m.text", body: text }, txn);
        for (;;) {
            try {
                return (await send()).event_id;
            } catch (e) {
                if (e.httpStatus || Date.now() > end) throw e;
                const unsent = r.getLiveTimeline().getEvents().find((e) => e.getTxnId() === txn);
                check(unsent?.status === sdk.EventStatus.NOT_SENT, `the message is still to be sent after ${e}`);
                send = () => this.client.resendEvent(unsent, r);
            }
            await new Promise((resolve) => setTimeout(resolve, again));
        }
    }

    async read({ room, event }) {
        const r = await this.room(room, "join");
        const e = await until(this.client, [RoomEvent.Timeline, RoomEvent.LocalEchoUpdated], `event ${event}`, () => {
            const found = r.findEventById(event);
            return found && !found.status ? found : undefined;
        });
        const { body } = await this.decrypted(e);
        return body;
    }

    async decrypted(e) {
        check(e.getWireType() === "m.room.encrypted", `${e.getId()} is encrypted`);
        await until(e, [MatrixEventEvent.Decrypted], `the key of ${e.getId()} (${e.decryptionFailureReason})`, () => e.getClearContent() && !e.isDecryptionFailure());
        return e.getClearContent();
    }

    // The texts of the room's messages from its beginning, each of which must be readable.
    async history({ room }) {
        const r = await this.room(room, "join");
        const events = () => r.getLiveTimeline().getEvents();
        for (let pages = 0; !events().some((e) => e.getType() === "m.room.create"); pages++) {
            check(pages < 50, "the history has a beginning");
            await this.client.scrollback(r, 20);
        }
        const texts = [];
        for (const e of events().filter((e) => e.getWireType() === "m.room.encrypted")) {
            const { body, msgtype } = await this.decrypted(e);
            if (msgtype === "m.text") texts.push(body);
        }
        return texts;
    }

    // Cross-signing, secret storage and a backup, all new. The recovery key opens them.
    async bootstrap() {
        const authUploadDeviceSigningKeys = (makeRequest) => makeRequest(null);
        await this.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys });
        const key = await this.crypto.createRecoveryKeyFromPassphrase();
        this.secret = key.privateKey;
        await this.crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => key, setupNewSecretStorage: true, setupNewKeyBackup: true,
        });
        check(await this.crypto.isCrossSigningReady(), "cross-signing is ready");
        check(await this.crypto.isSecretStorageReady(), "secret storage is ready");
        check((await this.crypto.getActiveSessionBackupVersion()) !== null, "keys are backed up");
        return key.encodedPrivateKey;
    }

    // All of the device's room keys are in the backup.
    async backedUp() {
        const have = (await this.crypto.exportRoomKeys()).length;
        await eventually(`${have} keys in the backup`, async () => {
            return (await this.client.http.authedRequest("GET", "/room_keys/version")).count >= have;
        });
        return have;
    }

    // What a new device does with the recovery key.
    async restore({ recoveryKey }) {
        const { client, crypto } = this;
        this.secret = decodeRecoveryKey(recoveryKey);
        check(await crypto.userHasCrossSigningKeys(client.getUserId(), true), "the user's keys are known");
        await crypto.bootstrapCrossSigning({});
        await eventually("the new device being signed by its owner", async () => {
            return (await crypto.getDeviceVerificationStatus(client.getUserId(), client.getDeviceId()))?.crossSigningVerified;
        });
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        const { imported, total } = await crypto.restoreKeyBackup();
        check(imported === total, `all keys were restored: ${imported} of ${total}`);
        await crypto.checkKeyBackupAndEnable();
        return imported;
    }

    async signedByOwner({ user, of }) {
        await eventually(`the signature of ${user} on ${of}`, async () => {
            await this.crypto.getUserDeviceInfo([user], true);
            return (await this.crypto.getDeviceVerificationStatus(user, of))?.signedByOwner;
        });
    }

    async request({ room, user }) {
        this.verification = await this.crypto.requestVerificationDM(user, room);
    }

    async accept({ from }) {
        this.verification = await until(this.client, ["requested"], `a request of ${from}`, () => {
            return this.requests.find((r) => r.otherUserId === from && r.phase === VerificationPhase.Requested);
        });
        await this.verification.accept();
    }

    async startSAS() {
        const v = this.verification;
        await until(v, [VerificationRequestEvent.Change], "an accepted request", () => v.phase === VerificationPhase.Ready);
        await v.startVerification("m.sas.v1");
    }

    // The numbers to compare.
    async sas() {
        const v = this.verification;
        const verifier = await until(v, [VerificationRequestEvent.Change], "a started verification", () => v.verifier);
        this.done = verifier.verify();
        this.done.catch(() => {}); // confirm looks at it
        await until(verifier, [VerifierEvent.ShowSas, VerifierEvent.Cancel], "numbers to compare", () => verifier.getShowSasCallbacks() || verifier.hasBeenCancelled);
        check(!verifier.hasBeenCancelled, `the verification goes on: ${v.cancellationCode}`);
        this.shown = verifier.getShowSasCallbacks();
        return this.shown.sas.decimal.join(" ");
    }

    // With messages to devices the other must have confirmed first. Else both of the messages that end the verification may be on their way
    // at once, of which the library sends the second without having an answer to the first.
    async confirm() {
        if (!this.verification.roomId) await until(this.client, ["received"], "the other's confirmation", () => this.authenticated);
        await this.shown.confirm();
        await this.done;
    }

    async verified({ user }) {
        await eventually(`${user} being verified`, async () => (await this.crypto.getUserVerificationStatus(user)).isVerified());
    }

    // The server is back: no need to wait longer.
    async wake() {
        this.client.retryImmediately();
    }

    async stop() {
        this.client.stopClient();
    }
}

const devices = new Map();

async function answer({ id, device, do: what, ...rest }) {
    if (!devices.has(device)) devices.set(device, new Device());
    let line;
    try {
        line = { id, result: (await devices.get(device)[what](rest)) ?? null };
    } catch (e) {
        line = { id, error: `${e.stack ?? e}\nlogged before:\n${logged.slice(-60).join("\n")}` };
    }
    process.stdout.write(JSON.stringify(line) + "\n");
}

for await (const line of createInterface({ input: process.stdin })) answer(JSON.parse(line));
process.exit(0);
