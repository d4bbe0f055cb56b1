// Two users of matrix-js-sdk meet, chat and part on a Myelin server, and each must see what the other does.
// Run by jssdk_test.go, which gives MYELIN_URL and MYELIN_NAMES (two user names, with a comma). Each step that
// worked prints "ok <step>"; the first that did not ends the process with exit code 1.

import * as sdk from "matrix-js-sdk";

const { ClientEvent, EventType, MatrixEventEvent, RelationType, RoomEvent, RoomMemberEvent } = sdk;
const url = process.env.MYELIN_URL;
const [aliceName, bobName] = process.env.MYELIN_NAMES.split(",");
const password = "correct horse battery";
const patience = 20_000; // milliseconds

// What the library logs is shown only where a step fails.
const logged = [];
for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...args) => logged.push(args.map(String).join(" "));
}

function check(holds, what) {
    if (!holds) throw new Error(`it does not hold that ${what}`);
}

// until waits for one of the emitter's events after which the condition holds.
function until(emitter, events, what, holds) {
    return new Promise((resolve, reject) => {
        const look = (...args) => {
            const found = holds(...args);
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

async function register(name) {
    const client = sdk.createClient({ baseUrl: url });
    check(await client.isUsernameAvailable(name), `${name} is available`);
    let session;
    try {
        await client.registerRequest({ username: name, password, inhibit_login: true });
    } catch (e) {
        check(e.httpStatus === 401 && e.data.flows.some((f) => f.stages.join() === "m.login.dummy"), "registration asks for the dummy stage");
        session = e.data.session;
    }
    const made = await client.registerRequest({
        username: name, password, inhibit_login: true, auth: { type: "m.login.dummy", session },
    });
    check(made.user_id.startsWith(`@${name}:`), "the user has the chosen name");
}

async function login(name) {
    const anonymous = sdk.createClient({ baseUrl: url });
    const { flows } = await anonymous.loginFlows();
    check(flows.some((f) => f.type === "m.login.password"), "one can sign in with a password");
    const answer = await anonymous.loginRequest({
        type: "m.login.password", identifier: { type: "m.id.user", user: name }, password, initial_device_display_name: "scenario",
    });
    return sdk.createClient({
        baseUrl: url, userId: answer.user_id, deviceId: answer.device_id, accessToken: answer.access_token, timelineSupport: true,
    });
}

async function start(client) {
    await client.startClient({ initialSyncLimit: 8, lazyLoadMembers: true });
    await until(client, [ClientEvent.Sync], "the first sync", () => client.isInitialSyncComplete());
}

const roomOf = async (client, id, membership) => {
    await until(client, [ClientEvent.Room, RoomEvent.MyMembership], `${membership} of ${id}`, () => client.getRoom(id)?.getMyMembership() === membership);
    return client.getRoom(id);
};

const eventIn = (client, room, id) =>
    until(client, [RoomEvent.Timeline, RoomEvent.LocalEchoUpdated], `event ${id}`, () => {
        const e = room.findEventById(id);
        return e && !e.status ? e : undefined;
    });

let alice, bob, id, aliceRoom, bobRoom, hello, reply;

const steps = {
    register: async () => {
        await register(aliceName);
        await register(bobName);
    },
    login: async () => {
        alice = await login(aliceName);
        bob = await login(bobName);
        check((await bob.whoami()).user_id === bob.getUserId(), "the token is Bob's");
    },
    sync: async () => {
        await alice.setDisplayName("Alice");
        await Promise.all([start(alice), start(bob)]);
        check(alice.pushRules?.global.underride.length > 0, "there are push rules");
    },
    create: async () => {
        ({ room_id: id } = await alice.createRoom({ preset: "private_chat", name: "Tea", topic: "Everything else" }));
        aliceRoom = await roomOf(alice, id, "join");
        await until(alice, [ClientEvent.Sync], "the room's name", () => aliceRoom.name === "Tea");
    },
    invite: async () => {
        await alice.invite(id, bob.getUserId());
        bobRoom = await roomOf(bob, id, "invite");
        check(bobRoom.name === "Tea", "the invite shows the room's name");
        check(bobRoom.getMember(bob.getUserId()).events.member.getSender() === alice.getUserId(), "the invite shows who invites");
    },
    join: async () => {
        await bob.joinRoom(id);
        await roomOf(bob, id, "join");
        await until(alice, [RoomMemberEvent.Membership], "Bob's join", () => aliceRoom.getMember(bob.getUserId())?.membership === "join");
        await bobRoom.loadMembersIfNeeded();
        check(bobRoom.getMember(alice.getUserId()).name === "Alice", "Bob sees Alice's name");
        check(bobRoom.getJoinedMemberCount() === 2, "two have joined");
    },
    chat: async () => {
        hello = (await alice.sendTextMessage(id, "hello Bob")).event_id;
        const seen = await eventIn(bob, bobRoom, hello);
        check(seen.getContent().body === "hello Bob" && seen.getSender() === alice.getUserId(), "Bob reads what Alice wrote");
        reply = (await bob.sendTextMessage(id, "hello Alcie")).event_id;
        await eventIn(alice, aliceRoom, reply);
        const own = await eventIn(bob, bobRoom, reply);
        check(bobRoom.getLiveTimeline().getEvents().filter((e) => e.getContent().body === "hello Alcie").length === 1, "the echo is one with the event");
        check(own.getUnsigned().transaction_id, "the sender's event has its transaction ID");
    },
    edit: async () => {
        await bob.sendEvent(id, EventType.RoomMessage, {
            "msgtype": "m.text", "body": "* hello Alice", "m.new_content": { msgtype: "m.text", body: "hello Alice" },
            "m.relates_to": { rel_type: RelationType.Replace, event_id: reply },
        });
        const original = aliceRoom.findEventById(reply);
        await until(original, [MatrixEventEvent.Replaced], "the edit", () => original.getContent().body === "hello Alice");
    },
    react: async () => {
        const { event_id } = await alice.sendEvent(id, EventType.Reaction, {
            "m.relates_to": { rel_type: RelationType.Annotation, event_id: reply, key: "🍵" },
        });
        await eventIn(bob, bobRoom, event_id);
        const reactions = bobRoom.relations.getChildEventsForEvent(reply, RelationType.Annotation, EventType.Reaction);
        check(reactions?.getSortedAnnotationsByKey()?.[0]?.[0] === "🍵", "Bob sees the reaction");
    },
    redact: async () => {
        await alice.redactEvent(id, hello, undefined, { reason: "a slip" });
        const gone = bobRoom.findEventById(hello);
        await until(bob, [RoomEvent.Redaction], "the redaction", () => gone.isRedacted());
        check(gone.getContent().body === undefined, "the content is gone");
        check((await bob.fetchRoomEvent(id, hello)).unsigned.redacted_because.content.reason === "a slip", "the server knows why");
    },
    typing: async () => {
        const typing = (want) => until(alice, [RoomMemberEvent.Typing], `typing ${want}`, () => aliceRoom.getMember(bob.getUserId()).typing === want);
        await bob.sendTyping(id, true, 30_000);
        await typing(true);
        await bob.sendTyping(id, false, 0);
        await typing(false);
    },
    receipts: async () => {
        await alice.sendReadReceipt(aliceRoom.findEventById(reply));
        await until(bob, [RoomEvent.Receipt], "Alice's receipt", () => bobRoom.getEventReadUpTo(alice.getUserId(), true) === reply);
        await alice.setRoomReadMarkers(id, reply);
        await until(alice, [RoomEvent.AccountData], "the read marker", () => aliceRoom.getAccountData("m.fully_read")?.getContent().event_id === reply);
    },
    presence: async () => {
        await alice.setPresence({ presence: "online", status_msg: "tea time" });
        await until(bob, [ClientEvent.Event, "User.presence", "User.lastPresenceTs"], "Alice's presence", () => bob.getUser(alice.getUserId())?.presenceStatusMsg === "tea time");
    },
    backfill: async () => {
        const sent = [];
        for (let i = 0; i < 30; i++) sent.push((await alice.sendTextMessage(id, `message ${i}`)).event_id);
        await eventIn(bob, bobRoom, sent.at(-1));
        // A new device begins with the last few events and scrolls back to the first.
        const tablet = await login(bobName);
        await start(tablet);
        const room = await roomOf(tablet, id, "join");
        const events = () => room.getLiveTimeline().getEvents();
        check(events().length <= 8, "the first sync is limited");
        for (let pages = 0; !events().some((e) => e.getType() === EventType.RoomCreate); pages++) {
            check(pages < 20, "the history has a beginning");
            await tablet.scrollback(room, 9);
        }
        const said = events().map((e) => e.getId()).filter((e) => sent.includes(e));
        check(said.join() === sent.join(), "the history is complete and in order");
        check(room.findEventById(reply).getContent().body === "hello Alice", "the edit shows in the history");
        check(room.findEventById(hello).isRedacted(), "the redaction shows in the history");
        tablet.stopClient();
        await tablet.logout(true);
    },
    part: async () => {
        await bob.leave(id);
        await until(alice, [RoomMemberEvent.Membership], "Bob's leaving", () => aliceRoom.getMember(bob.getUserId()).membership === "leave");
        await bob.forget(id);
        alice.stopClient();
        bob.stopClient();
        await bob.logout();
        await bob.whoami().then(() => check(false, "a signed-out token is refused"), (e) => check(e.errcode === "M_UNKNOWN_TOKEN", "a signed-out token is unknown"));
    },
};

for (const [name, step] of Object.entries(steps)) {
    try {
        await step();
    } catch (e) {
        process.stdout.write(`failed ${name}: ${e.stack ?? e}\nlogged before:\n${logged.slice(-40).join("\n")}\n`);
        process.exit(1);
    }
    process.stdout.write(`ok ${name}\n`);
}
process.exit(0);
