// What runs in the browser: a page with matrix-js-sdk. browser.mjs bundles it, serves it, and calls the functions of window.scenario one after
// the other. What a user would look at is shown: browser.mjs looks at that.

import * as sdk from "matrix-js-sdk";

const { ClientEvent, EventType, MsgType, RoomEvent } = sdk;
const patience = 15_000; // milliseconds
let client, room;

function until(emitter, events, what, holds) {
    return new Promise((resolve, reject) => {
        const look = (...args) => {
            const found = holds(...args);
            if (found) stop(resolve, found);
        };
        const late = setTimeout(() => stop(reject, new Error(`waited in vain for ${what}`)), patience);
        const stop = (end, value) => {
            clearTimeout(late);
            for (const e of events) emitter.off(e, look);
            end(value);
        };
        for (const e of events) emitter.on(e, look);
        look();
    });
}

// show puts an element into the page, under a name.
function show(name, element) {
    element.id = name;
    document.body.append(element);
}

function showText(name, text) {
    const p = document.createElement("p");
    p.textContent = text;
    show(name, p);
}

// showFile shows an image of the server. Browsers send no access token for the source of an image, so the page fetches it.
async function showFile(name, address) {
    const answer = await fetch(address, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
    if (!answer.ok) throw new Error(`${name}: status ${answer.status}`);
    const image = new Image();
    image.src = URL.createObjectURL(await answer.blob());
    show(name, image);
    await image.decode();
}

const thumbnail = (mxc) => client.mxcUrlToHttp(mxc, 96, 96, "scale", false, true, true);

async function login(url, name, password) {
    const anonymous = sdk.createClient({ baseUrl: url });
    const answer = await anonymous.loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user: name }, password });
    client = sdk.createClient({ baseUrl: url, userId: answer.user_id, deviceId: answer.device_id, accessToken: answer.access_token });
    await client.startClient({ initialSyncLimit: 8 });
    await until(client, [ClientEvent.Sync], "the first sync", () => client.isInitialSyncComplete());
    showText("user", client.getUserId());
}

async function create() {
    const { room_id: id } = await client.createRoom({ name: "Pictures", preset: "private_chat" });
    room = await until(client, [ClientEvent.Room], "the room", () => client.getRoom(id));
}

// send draws a picture, uploads it and sends it.
async function send(width, height) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const pen = canvas.getContext("2d");
    const colours = pen.createLinearGradient(0, 0, width, height);
    colours.addColorStop(0, "navy");
    colours.addColorStop(1, "orange");
    pen.fillStyle = colours;
    pen.fillRect(0, 0, width, height);
    const picture = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const { content_uri: mxc } = await client.uploadContent(picture, { name: "sunset.png", type: "image/png" });
    const { event_id: id } = await client.sendMessage(room.roomId, {
        msgtype: MsgType.Image, body: "sunset.png", url: mxc, info: { mimetype: "image/png", w: width, h: height, size: picture.size },
    });
    await until(room, [RoomEvent.Timeline, RoomEvent.LocalEchoUpdated], "the image in the timeline", () => room.findEventById(id));
}

// image shows the thumbnail of the image that stands last in the timeline.
async function image() {
    const events = room.getLiveTimeline().getEvents();
    const sent = events.findLast((e) => e.getType() === EventType.RoomMessage && e.getContent().msgtype === MsgType.Image);
    await showFile("thumbnail", thumbnail(sent.getContent().url));
}

// preview shows what the server says of a page.
async function preview(address) {
    const found = await client.getUrlPreview(address, Date.now());
    showText("preview-title", found["og:title"]);
    showText("preview-description", found["og:description"]);
    await showFile("preview-image", thumbnail(found["og:image"]));
}

// search sends messages and finds one of them by a word, once the server has indexed it.
async function search() {
    for (const text of ["The ferry leaves at noon", "Bring the umbrella", "Nothing else"]) await client.sendTextMessage(room.roomId, text);
    const end = Date.now() + patience;
    for (;;) {
        const answer = await client.searchRoomEvents({ term: "umbrella", filter: { rooms: [room.roomId] } });
        if (answer.results.length > 0) {
            showText("found", answer.results.map((r) => r.context.getEvent().getContent().body).join("; "));
            return;
        }
        if (Date.now() > end) throw new Error("the message is not found");
    }
}

async function leave() {
    client.stopClient();
    await client.logout(true);
}

window.scenario = { login, create, send, image, preview, search, leave };
