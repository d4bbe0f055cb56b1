// A page with matrix-js-sdk in headless Chromium, against a Myelin server. Run by browser_test.go, which gives MYELIN_URL, MYELIN_NAME (of a
// user who is there) and CHROMIUM. Each step that worked prints "ok <step>"; the first that did not ends the process with exit code 1.

import { createServer } from "node:http";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const password = "correct horse battery";
const patience = 20_000; // milliseconds
const logged = [];

function check(holds, what) {
    if (!holds) throw new Error(`it does not hold that ${what}`);
}

// A picture of one pixel, and a page that shows it to those who want a preview.
const pixel = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
const article = `<!doctype html><title>x</title><meta property="og:title" content="Tides of the week">
<meta property="og:description" content="High water at six"><meta property="og:image" content="/pixel.png">`;

// serve gives the browser the page with the bundle, and Myelin the article.
async function serve() {
    const bundle = await build({
        entryPoints: ["page.mjs"], bundle: true, write: false, format: "esm", platform: "browser", target: "es2022", logLevel: "silent",
        define: { global: "globalThis" },
    });
    const files = {
        "/": ["text/html; charset=utf-8", `<!doctype html><title>Client</title><link rel="icon" href="data:,"><body><script type="module" src="/page.js"></script>`],
        "/page.js": ["text/javascript; charset=utf-8", bundle.outputFiles[0].text],
        "/article": ["text/html; charset=utf-8", article],
        "/pixel.png": ["image/png", pixel],
    };
    const server = createServer((request, answer) => {
        const found = files[request.url];
        answer.writeHead(found ? 200 : 404, found ? { "Content-Type": found[0] } : {});
        answer.end(found?.[1]);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
}

async function walk(page, address) {
    const call = (name, ...args) => page.evaluate(([name, args]) => window.scenario[name](...args), [name, args]);
    const text = (name) => page.locator(`#${name}`).innerText();
    const size = (name) => page.locator(`#${name}`).evaluate((image) => [image.naturalWidth, image.naturalHeight]);
    const steps = {
        async login() {
            await call("login", process.env.MYELIN_URL, process.env.MYELIN_NAME, password);
            check((await text("user")).startsWith(`@${process.env.MYELIN_NAME}:`), "the page shows who signed in");
        },
        create: () => call("create"),
        send: () => call("send", 640, 480),
        async image() {
            await call("image");
            const [width, height] = await size("thumbnail");
            check(width >= 96 && width < 640 && height >= 96 && height < 480, `the thumbnail is one: ${width} by ${height}`);
            check(await page.locator("#thumbnail").isVisible(), "the thumbnail is seen");
        },
        async preview() {
            await call("preview", `${address}/article`);
            check((await text("preview-title")) === "Tides of the week", "the preview has the title of the page");
            check((await text("preview-description")) === "High water at six", "the preview has the description of the page");
            check((await size("preview-image")).join() === "1,1", "the preview shows the image of the page");
        },
        async search() {
            await call("search");
            check((await text("found")) === "Bring the umbrella", "the message is found, and no other");
        },
        leave: () => call("leave"),
    };
    for (const [name, run] of Object.entries(steps)) {
        try {
            await run();
        } catch (e) {
            throw new Error(`${name}: ${e.message}`);
        }
        process.stdout.write(`ok ${name}\n`);
    }
}

let browser, server;
try {
    server = await serve();
    const address = `http://127.0.0.1:${server.address().port}`;
    browser = await chromium.launch({
        executablePath: process.env.CHROMIUM, headless: true, timeout: patience,
        args: [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        ],
    });
    const page = await browser.newPage();
    page.setDefaultTimeout(patience);
    page.on("console", (message) => logged.push(message.text()));
    page.on("pageerror", (e) => logged.push(`error: ${e.message}`));
    page.on("requestfailed", (request) => logged.push(`failed: ${request.method()} ${request.url()} ${request.failure()?.errorText}`));
    await page.goto(address);
    await page.waitForFunction(() => window.scenario);
    await walk(page, address);
} catch (e) {
    process.stdout.write(`${e.stack}\n${logged.slice(-40).join("\n")}\n`);
    process.exitCode = 1;
} finally {
    await browser?.close();
    server?.close();
    server?.closeAllConnections();
}
