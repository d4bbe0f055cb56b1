// A random history, of which one user is told by sync v2 on one device and by sliding sync on another: both must show the same.
// Run by sliding_test.go, which gives MYELIN_URL, MYELIN_NAMES (names of three users, with commas), MYELIN_SEED and MYELIN_STEPS.
// Ends with exit code 1 and what happened where the two differ.

import * as sdk from "matrix-js-sdk";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";

const { ClientEvent, Direction, NotificationCountType } = sdk;
const url = process.env.MYELIN_URL;
const names = process.env.MYELIN_NAMES.split(",");
const steps = Number(process.env.MYELIN_STEPS);
const password = "correct horse battery";
const patience = 20_000; // milliseconds
const marker = "org.example.marker";
const timeline = 50; // events: more than happen between two looks
const fewEvents = 10; // what devices get that begin in the end
const mostRooms = 8;

// What the library logs is shown only where the two differ.
const logged = [];
for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...args) => logged.push(args.map(String).join(" ").slice(0, 300));
}

// random is a generator of numbers from 0 to 1 that the seed determines (mulberry32).
let seed = Number(process.env.MYELIN_SEED);
function random() {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];
const chance = (p) => random() < p;

async function call(user, method, path, body) {
    const answer = await fetch(`${url}/_matrix/client/v3/${path}`, {
        method,
        headers: user ? { authorization: `Bearer ${user.token}` } : {},
        body: body === undefined ? undefined : JSON.stringify(body),
    });
    const content = await answer.json();
    if (answer.status >= 500 || answer.status === 429) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(content)}`);
    return { ok: answer.ok, ...content };
}

const e = encodeURIComponent;
let users, rooms, transactions = 0;
let ignored = {}; // whom the first user ignores
const story = []; // what happened, for whoever reads a failure

async function register(name) {
    const made = await call(null, "POST", "register", { username: name, password, auth: { type: "m.login.dummy" } });
    return { name, id: made.user_id, token: made.access_token };
}

function tell(text) {
    story.push(text);
}

async function say(user, room, type, content, thread) {
    const sent = await call(user, "PUT", `rooms/${e(room.id)}/send/${type}/t${transactions++}`, content);
    if (sent.ok) room.said.push({ id: sent.event_id, by: user, type, thread });
    tell(`${user.name} says ${JSON.stringify(content)} in ${room.name}: ${sent.event_id ?? sent.errcode}`);
    return sent;
}

const text = (body, more) => ({ msgtype: "m.text", body, ...more });

// here returns a room with somebody who is in it, undefined where there is none.
function here(room = pick(rooms)) {
    const members = users.filter((u) => room.members[u.name] === "join");
    return members.length > 0 ? { room, user: pick(members) } : undefined;
}

const earlier = (room, of = () => true) => {
    const all = room.said.filter(of).slice(-15);
    return all.length > 0 ? pick(all) : undefined;
};

async function member(user, room, verb, whom, becomes) {
    const path = verb === "join" ? `join/${e(room.id)}` : `rooms/${e(room.id)}/${verb}`;
    const done = await call(user, "POST", path, whom ? { user_id: whom.id } : {});
    if (done.ok) room.members[(whom ?? user).name] = becomes;
    tell(`${user.name} ${verb} ${whom?.name ?? ""} in ${room.name}: ${done.errcode ?? "done"}`);
    return (whom ?? user) === users[0];
}

// The things that happen, with how often they do. One that returns true has changed what the two devices may see or count, so
// that both must have come to it before anything else happens.
const happenings = [
    [14, async () => {
        const at = here();
        if (!at) return;
        const words = text(pick(["hello", "tea?", "cake for all", `ask ${users[0].name}`]));
        if (chance(0.3)) words["m.mentions"] = { user_ids: [pick(users).id] };
        else if (chance(0.1)) Object.assign(words, { "body": "@room", "m.mentions": { room: true } });
        await say(at.user, at.room, "m.room.message", words);
    }],
    [4, async () => {
        const at = here();
        const root = at && earlier(at.room, (s) => !s.thread && s.type === "m.room.message");
        if (!root) return;
        const relation = { rel_type: "m.thread", event_id: root.id, is_falling_back: true, "m.in_reply_to": { event_id: root.id } };
        const words = text("by the way", { "m.relates_to": relation });
        if (chance(0.3)) words["m.mentions"] = { user_ids: [users[0].id] };
        await say(at.user, at.room, "m.room.message", words, root.id);
    }],
    [3, async () => {
        const at = here();
        const of = at && earlier(at.room, (s) => s.by === at.user && s.type === "m.room.message");
        if (!of) return;
        const words = text("corrected");
        if (chance(0.3)) words["m.mentions"] = { user_ids: [users[0].id] };
        await say(at.user, at.room, "m.room.message", {
            ...text("* corrected"), "m.new_content": words, "m.mentions": {}, "m.relates_to": { rel_type: "m.replace", event_id: of.id },
        }, of.thread);
    }],
    [2, async () => {
        const at = here();
        const to = at && earlier(at.room);
        if (to) await say(at.user, at.room, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: to.id, key: pick(["🍵", "🍰"]) } });
    }],
    [3, async () => {
        const at = here();
        const of = at && earlier(at.room, (s) => s.by === at.user);
        if (!of) return;
        const done = await call(at.user, "PUT", `rooms/${e(at.room.id)}/redact/${e(of.id)}/t${transactions++}`, {});
        tell(`${at.user.name} redacts ${of.id}: ${done.errcode ?? done.event_id}`);
    }],
    [6, async () => {
        const at = here();
        const to = at && earlier(at.room);
        if (!to) return;
        const user = at.room.members[users[0].name] === "join" && chance(0.6) ? users[0] : at.user;
        const body = chance(0.5) ? {} : { thread_id: to.thread ?? "main" };
        const done = await call(user, "POST", `rooms/${e(at.room.id)}/receipt/${pick(["m.read", "m.read", "m.read.private"])}/${e(to.id)}`, body);
        tell(`${user.name} has read ${to.id} ${JSON.stringify(body)}: ${done.errcode ?? "done"}`);
    }],
    [1, async () => {
        if (rooms.length === mostRooms) return;
        const by = pick(users);
        // An invite that was held back comes with sliding sync once its sender is not ignored any more, with sync v2 only at the next start.
        if (ignored[by.id]) return;
        const invited = users.filter((u) => u !== by);
        const name = chance(0.7) ? `room ${rooms.length}` : undefined;
        const made = await call(by, "POST", "createRoom", {
            preset: "public_chat", name, invite: invited.map((u) => u.id), power_level_content_override: { users_default: chance(0.5) ? 100 : 0 },
        });
        rooms.push({ id: made.room_id, name: `${rooms.length}`, said: [], members: Object.fromEntries(users.map((u) => [u.name, u === by ? "join" : "invite"])) });
        tell(`${by.name} makes room ${rooms.length - 1}: ${made.room_id}`);
        return true;
    }],
    [4, async () => {
        const room = pick(rooms);
        const user = pick(users);
        if (room.members[user.name] !== "join") return member(user, room, "join", undefined, "join");
    }],
    [1, async () => {
        const room = pick(rooms);
        const user = pick(users);
        if (["join", "invite"].includes(room.members[user.name])) return member(user, room, "leave", undefined, "leave");
    }],
    [2, async () => {
        const at = here();
        const whom = pick(users);
        if (!at || whom === at.user || ignored[at.user.id]) return;
        const is = at.room.members[whom.name];
        if (is === "ban") return member(at.user, at.room, "unban", whom, "leave");
        if (is === "leave") return member(at.user, at.room, "invite", whom, "invite");
        if (chance(0.3)) return member(at.user, at.room, pick(["kick", "ban"]), whom, "ban");
    }],
    [2, async () => {
        const at = here();
        if (!at) return;
        const [type, content] = pick([["m.room.name", { name: `name ${below(9)}` }], ["m.room.topic", { topic: `topic ${below(9)}` }]]);
        const set = await call(at.user, "PUT", `rooms/${e(at.room.id)}/state/${type}/`, content);
        tell(`${at.user.name} sets ${type} in ${at.room.name}: ${set.errcode ?? set.event_id}`);
    }],
    [2, async () => {
        const room = pick(rooms);
        if (room.members[users[0].name] !== "join") return;
        const path = `user/${e(users[0].id)}/rooms/${e(room.id)}/tags/${pick(["m.favourite", "u.tea"])}`;
        const add = chance(0.6);
        const done = await call(users[0], add ? "PUT" : "DELETE", path, add ? { order: 0.5 } : undefined);
        tell(`${add ? "tags" : "untags"} ${room.name}: ${done.errcode ?? "done"}`);
    }],
    [1, async () => {
        const direct = { [users[1].id]: rooms.filter(() => chance(0.3)).map((r) => r.id) };
        await call(users[0], "PUT", `user/${e(users[0].id)}/account_data/m.direct`, direct);
        tell(`m.direct is ${JSON.stringify(direct)}`);
    }],
    [1, async () => {
        const room = pick(rooms);
        const rule = `pushrules/global/room/${e(room.id)}`;
        const quiet = chance(0.6);
        const done = await call(users[0], quiet ? "PUT" : "DELETE", rule, quiet ? { actions: chance(0.5) ? [] : ["notify", { set_tweak: "highlight" }] } : undefined);
        tell(`${quiet ? "has a rule" : "has no rule"} for ${room.name}: ${done.errcode ?? "done"}`);
        return true;
    }],
    [1, async () => {
        ignored = chance(0.5) ? { [pick(users.slice(1)).id]: {} } : {};
        await call(users[0], "PUT", `user/${e(users[0].id)}/account_data/m.ignored_user_list`, { ignored_users: ignored });
        tell(`ignores ${Object.keys(ignored)}`);
        return true;
    }],
];
const frequency = happenings.reduce((sum, [n]) => sum + n, 0);

async function happen() {
    let n = below(frequency);
    for (const [often, fn] of happenings) {
        if ((n -= often) < 0) return fn();
    }
}

async function device(limit, sliding) {
    const login = await call(null, "POST", "login", { type: "m.login.password", identifier: { type: "m.id.user", user: users[0].name }, password });
    const client = sdk.createClient({ baseUrl: url, userId: login.user_id, deviceId: login.device_id, accessToken: login.access_token });
    const options = { initialSyncLimit: limit };
    if (sliding) {
        const rule = { timeline_limit: limit, required_state: [["*", "*"]] };
        options.slidingSync = new SlidingSync(url, new Map([["all", { ranges: [[0, 999]], ...rule }]]), rule, client, 30_000);
    }
    // What the library guesses about counts is not what the server said.
    client.off(ClientEvent.Sync, client.fixupRoomNotifications);
    await client.startClient(options);
    return client;
}

let marks = 0;

// catchUp waits until devices have heard of everything that happened before.
async function catchUp(...devices) {
    const n = ++marks;
    const heard = Promise.all(devices.map((client) => new Promise((resolve, reject) => {
        // Of one answer, sync v2 takes in account data first and sliding sync last.
        const last = client.clientOpts.slidingSync ? ClientEvent.AccountData : ClientEvent.Sync;
        const look = () => {
            if ((client.getAccountData(marker)?.getContent().n ?? 0) < n) return;
            stop();
            resolve();
        };
        const late = setTimeout(() => {
            stop();
            reject(new Error(`a device has not heard of mark ${n}`));
        }, patience);
        const stop = () => {
            clearTimeout(late);
            client.off(last, look);
        };
        client.on(last, look);
    })));
    await call(users[0], "PUT", `user/${e(users[0].id)}/account_data/${marker}`, { n });
    await heard;
}

const idsOf = (room) => room.getLiveTimeline().getEvents().map((event) => event.getId());

// shown is what a device shows of a room.
function shown(client, room) {
    const me = client.getUserId();
    const membership = room.getMyMembership();
    const facts = { membership };
    if (membership !== "join") return facts;
    const state = room.getLiveTimeline().getState(Direction.Forward);
    const entries = [...state.events].flatMap(([type, byKey]) => [...byKey].map(([key, event]) => `${type} ${key} ${event.getId()}`));
    facts.state = entries.filter((s) => !s.includes("undefined")).sort();
    facts.timeline = room.getLiveTimeline().getEvents().map((event) =>
        [event.getId(), event.getType(), event.isRedacted() ? "redacted" : "", event.replacingEventId() ?? ""].join(" "));
    facts.unread = room.getUnreadNotificationCount(NotificationCountType.Total);
    facts.highlights = room.getUnreadNotificationCount(NotificationCountType.Highlight);
    facts.name = room.name;
    facts.joined = room.getJoinedMemberCount();
    facts.invited = room.getInvitedMemberCount();
    facts.tags = Object.keys(room.tags).sort();
    facts.receipts = users.slice(1).map((u) => room.getEventReadUpTo(u.id, true));
    facts.read = room.getEventReadUpTo(me, true);
    return facts;
}

function differ(what, a, b) {
    if (JSON.stringify(a) === JSON.stringify(b)) return;
    throw new Error(`${what} differs\nsync v2:      ${JSON.stringify(a)}\nsliding sync: ${JSON.stringify(b)}`);
}

// ends returns the ends of two timelines, as long as both are there.
function ends(a, b) {
    const n = Math.min(a.length, b.length);
    return [a.slice(a.length - n), b.slice(b.length - n)];
}

// compare compares what two devices show. Begun says that both began just now.
async function compare(v2, sliding, begun) {
    const visible = (client) => client.getRooms().filter((r) => ["join", "invite"].includes(r.getMyMembership())).map((r) => r.roomId).sort();
    differ("the list of rooms", visible(v2), visible(sliding));
    differ("m.direct", v2.getAccountData("m.direct")?.getContent(), sliding.getAccountData("m.direct")?.getContent());
    differ("push rules", v2.getAccountData("m.push_rules")?.getContent(), sliding.getAccountData("m.push_rules")?.getContent());
    for (const id of visible(v2)) {
        const name = `room ${rooms.find((r) => r.id === id)?.name} (${id}): `;
        const a = shown(v2, v2.getRoom(id));
        const b = shown(sliding, sliding.getRoom(id));
        if (a.timeline && b.timeline) {
            if (begun) {
                // Sliding sync tells of receipts of the events that it shows, sync v2 of all.
                for (const facts of [a, b]) delete facts.receipts, delete facts.read;
            } else {
                // Who comes back begins anew with v2, and goes on with what there was in the sliding form.
                const enough = Math.min(fewEvents, idsOf(v2.getRoom(id)).length);
                if (b.timeline.length < enough) differ(`${name}timeline`, a.timeline, b.timeline);
                [a.timeline, b.timeline] = ends(a.timeline, b.timeline);
                // What the library makes of receipts depends on which events it has.
                if (idsOf(v2.getRoom(id)).length !== idsOf(sliding.getRoom(id)).length) {
                    for (const facts of [a, b]) delete facts.receipts, delete facts.read;
                }
            }
        }
        for (const key of Object.keys(a)) differ(name + key, a[key], b[key]);
    }
}

async function run() {
    users = await Promise.all(names.map(register));
    rooms = [];
    // Somebody has rooms already, and invites.
    while (rooms.length < 3) await happenings[6][1]();
    const v2 = await device(timeline, false);
    const sliding = await device(timeline, true);
    await catchUp(v2, sliding);
    await compare(v2, sliding, true);
    for (let n = 0; n < steps; ) {
        const together = 1 + below(8);
        for (let i = 0; i < together && n < steps; i++, n++) {
            if (await happen()) break;
        }
        await catchUp(v2, sliding);
        await compare(v2, sliding, false);
    }
    const fresh = await Promise.all([device(fewEvents, false), device(fewEvents, true)]);
    await catchUp(...fresh);
    await compare(...fresh, true);
    for (const client of [v2, sliding, ...fresh]) client.stopClient();
}

try {
    await run();
} catch (err) {
    process.stdout.write(`${err.stack ?? err}\nwhat happened last:\n${story.slice(-25).join("\n")}\nlogged:\n${logged.slice(-10).join("\n")}\n`);
    process.exit(1);
}
process.stdout.write("ok\n");
process.exit(0);
