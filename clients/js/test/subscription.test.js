// Subscriptions to servers that refuse, break off, fall silent and ask for pauses, and over WebSocket to answers in a given order.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { test } from "node:test";
import { promisify } from "node:util";
import { Refusal, backoff, subscribe } from "tallycast";

const TEST = { timeout: 30_000 };
/** No pause that a test has to wait for. */
const SOON = { minDelay: 1, maxDelay: 1 };
/** Longer than any test. */
const LONG_S = 600;

/** @typedef {import("node:http").IncomingMessage} Request */
/** @typedef {import("node:http").ServerResponse} Response */

/**
 * A server whose answers are given for the first request, the second one and so on; the last one is for all that follow.
 * @param {import("node:test").TestContext} context
 * @param {((response: Response, request: Request) => void)[]} answers
 */
async function serve(context, ...answers) {
  /** @type {Request[]} */
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answers[Math.min(requests.length, answers.length) - 1]?.(response, request);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  context.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { requests, url: `http://127.0.0.1:${port}/subscribe` };
}

/** Starts an event stream with a text. @param {string} text */
function stream(text) {
  return (/** @type {Response} */ response) => {
    response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
    response.write(`: tallycast\n\n${text}`);
  };
}

/** The same, and ends it after that: properly, or by breaking the connection. @param {string} text @param {"end" | "destroy"} how */
function ended(text, how = "end") {
  return (/** @type {Response} */ response) => {
    stream(text)(response);
    // Not before the text is on its way.
    setImmediate(() => response[how]());
  };
}

/** @param {number} status @param {string} reason @param {Record<string, string | number>} [headers] */
function refused(status, reason, headers = {}) {
  return (/** @type {Response} */ response) => {
    response.writeHead(status, { "content-type": "text/plain; charset=utf-8", ...headers });
    response.end(status === 204 ? undefined : `${reason}\n`);
  };
}

/** A message in an envelope. @param {unknown} data @param {string} [id] */
function message(data, id) {
  return `${id ? `id:${id}\n` : ""}data:${JSON.stringify({ namespace: "/a", event: null, data, id })}\n\n`;
}

/**
 * A subscription and all that its handlers are called with.
 * @param {import("node:test").TestContext} context
 * @param {string} url
 * @param {import("tallycast").Options} [options]
 * @param {import("tallycast").Handlers} [handlers]
 */
function record(context, url, options, handlers = {}) {
  /** @type {any[]} */
  const log = [];
  let check = () => {};
  const handler = (/** @type {string} */ kind) => (/** @type {any} */ value) => {
    log.push([kind, kind === "message" ? value.data : value]);
    /** @type {any} */ (handlers)[kind]?.(value);
    check();
  };
  const subscription = subscribe(
    "/a",
    { message: handler("message"), gap: handler("gap"), state: handler("state"), refused: handler("refused") },
    { url, ...SOON, ...options },
  );
  context.after(() => subscription.close());
  return {
    subscription,
    log,
    /** All values of a kind. @param {string} kind */
    of: (kind) => log.filter(([name]) => name === kind).map(([, value]) => value),
    states: () => log.filter(([name]) => name === "state").map(([, { state }]) => state),
    /** Waits until the log fulfils a condition. @param {() => boolean} condition */
    until: (condition) =>
      new Promise((resolve) => {
        check = () => condition() && resolve(undefined);
        check();
      }),
  };
}

/** WebSockets that the test answers. Each opens at once, unless `refuses` is set. */
function sockets() {
  /** @type {any[]} */
  const opened = [];
  const control = { refuses: false, opened, Socket: /** @type {any} */ (undefined) };
  control.Socket = class {
    /** @type {any[]} */
    sent = [];
    /** @param {string} url */
    constructor(url) {
      this.query = new URL(url).searchParams;
      const { refuses } = control;
      if (!refuses) opened.push(this);
      queueMicrotask(() => (refuses ? this.end() : this.onopen()));
    }
    onopen() {}
    /** @param {{data: string}} _ */
    onmessage(_) {}
    /** @param {{code: number, reason: string}} _ */
    onclose(_) {}
    /** @param {string} text */
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close() {}
    /** @param {unknown[]} values */
    receive(...values) {
      for (const value of values) this.onmessage({ data: JSON.stringify(value) });
    }
    end() {
      this.onclose({ code: 1006, reason: "" });
    }
  };
  return control;
}

/** The next turn, in which changes of topics have been sent. */
const turn = () => new Promise(setImmediate);

/**
 * A subscription to `/a` over WebSockets that the test answers.
 * @param {import("node:test").TestContext} context
 * @param {import("tallycast").Options} [options]
 * @param {import("tallycast").Handlers} [handlers]
 */
async function recordSockets(context, options, handlers) {
  const control = sockets();
  const url = "http://127.0.0.1/subscribe";
  const recorded = record(context, url, { url, transport: "websocket", WebSocket: control.Socket, ...options }, handlers);
  /** Waits for a connection, and returns its socket. @param {number} number */
  const live = async (number) => {
    await recorded.until(() => recorded.states().filter((state) => state === "live").length === number);
    return control.opened[number - 1];
  };
  return { ...recorded, control, live, socket: await live(1) };
}

test("pauses are random below a bound that doubles up to the longest one", () => {
  for (let failures = 0; failures < 1100; failures += 1) {
    const bound = Math.min(30_000, 1000 * 2 ** failures);
    const pauses = Array.from({ length: 50 }, () => backoff(failures));
    assert.ok(pauses.every((pause) => pause >= 0 && pause < bound), `${failures}: ${pauses}`);
    // Not only the upper half: 50 pauses would all be there once in 2^50 tests.
    assert.ok(pauses.some((pause) => pause < bound / 2) && pauses.some((pause) => pause >= bound / 2), `${failures}`);
  }
});

test("a stream that breaks off resumes after the last whole event, without a gap", TEST, async (context) => {
  const half = message("twice", "2").slice(0, 20);
  const server = await serve(
    context,
    ended(`id:0\n\n${message("one", "1")}${half}`, "destroy"),
    stream(`id:1\n\n${message("two", "2")}`),
  );
  const { of, until, subscription } = record(context, server.url);
  await until(() => of("message").length === 2);
  assert.deepEqual(of("message"), ["one", "two"]);
  assert.deepEqual(of("gap"), []);
  assert.deepEqual(server.requests.map(({ headers }) => headers["last-event-id"]), [undefined, "1"]);
  assert.equal(subscription.lastEventId, "2");
});

test("streams without ids, or with messages that have none, are resumed with a gap", TEST, async (context) => {
  for (const first of [message("one"), `id:0\n\n${message("zero", "1")}${message("one")}`]) {
    const server = await serve(context, ended(first), stream(message("two")));
    const { log, of, until } = record(context, server.url);
    await until(() => of("message").includes("two"));
    const kinds = log.filter(([kind]) => kind !== "state").map(([, value]) => value.reason ?? value);
    assert.deepEqual(kinds.slice(-3), ["one", "disconnected", "two"]);
  }
});

test("resets and skipped messages are gaps, with and without envelopes", TEST, async (context) => {
  const reset = { reason: "trimmed", earliest: "5" };
  const gaps = [reset, { reason: "skipped", skipped: 3 }];
  const enveloped = `id:9\ndata:{"reset":${JSON.stringify(reset)}}\n\ndata:{"skipped":3}\n\n${message("end", "10")}`;
  const plain = `event:reset\nid:9\ndata:${JSON.stringify(reset)}\n\nevent:skipped\ndata:{"skipped":3}\n\ndata:end\n\n`;
  for (const [text, envelope] of /** @type {[string, boolean][]} */ ([[enveloped, true], [plain, false]])) {
    const server = await serve(context, stream(text));
    const { of, until } = record(context, server.url, { envelope });
    await until(() => of("message").length === 1);
    assert.deepEqual(of("gap"), gaps);
    assert.deepEqual(of("message"), ["end"]);
  }
});

test("a temporary refusal is reported and repeated, no earlier than retry-after says", TEST, async (context) => {
  const before = Date.now();
  const http = new Date(before + 2000 * LONG_S).toUTCString();
  for (const [status, after, seconds] of /** @type {[number, string | number, number][]} */ ([
    [503, LONG_S, LONG_S],
    [429, http, LONG_S],
    [503, 1e12, LONG_S],
  ])) {
    const server = await serve(context, refused(status, "full", { "retry-after": after }));
    const { of, states, subscription, until } = record(context, server.url);
    await until(() => states().includes("waiting"));
    const { reason, retryAt } = subscription.status;
    assert.equal(reason, "full");
    // At most an hour.
    assert.ok(retryAt && retryAt >= before + 1000 * seconds && retryAt <= Date.now() + 3_600_001, `${retryAt}`);
    assert.deepEqual(of("refused").map(({ status, permanent }) => [status, permanent]), [[status, false]]);
  }
  const server = await serve(context, refused(503, "full"), refused(502, ""), stream(message("in")));
  const { of, until } = record(context, server.url);
  await until(() => of("message").length === 1);
  assert.deepEqual(of("refused").map(({ status }) => status), [503, 502]);
  assert.deepEqual(of("gap"), []);
});

test("the field retry is the least pause", TEST, async (context) => {
  const server = await serve(context, ended(`retry:${1000 * LONG_S}\n\n`));
  const before = Date.now();
  const { states, subscription, until } = record(context, server.url);
  await until(() => states().includes("waiting"));
  const { retryAt } = subscription.status;
  assert.ok(retryAt && retryAt >= before + 1000 * LONG_S, `${retryAt}`);
});

test("a permanent refusal ends the subscription, and is thrown by the iterator", TEST, async (context) => {
  for (const status of [204, 400, 401, 403, 404, 414]) {
    const server = await serve(context, refused(status, "never"));
    const { of, states, subscription, until } = record(context, server.url, { token: "static" });
    await until(() => states().includes("closed"));
    assert.deepEqual(states(), ["connecting", "closed"]);
    assert.deepEqual(of("refused").map((refusal) => [refusal.status, refusal.permanent]), [[status, true]]);
    await assert.rejects(subscription[Symbol.asyncIterator]().next(), (error) => error instanceof Refusal && error.status === status);
    assert.equal(server.requests.length, 1);
  }
});

test("what is not an event stream is refused, and requested again", TEST, async (context) => {
  const portal = refused(200, "<title>Log in</title>", { "content-type": "text/html" });
  const server = await serve(context, portal, stream(message("in")));
  const { of, until } = record(context, server.url);
  await until(() => of("message").length === 1);
  assert.deepEqual(of("refused").map(({ status, reason }) => [status, reason]), [[200, "status 200, text/html"]]);
});

test("a token is asked for again after 401 and when it expires", TEST, async (context) => {
  const expired = `data:{"expired":{"reason":"the authorization has expired"}}\n\n`;
  const server = await serve(
    context,
    refused(401, "the token has expired"),
    ended(`id:1\n\n${expired}`),
    refused(401, "the token has expired"),
    refused(401, "the token has expired"),
    stream(`id:1\n\n${message("in", "2")}`),
  );
  let tokens = 0;
  const token = async () => `T${(tokens += 1)}`;
  const { of, states, until } = record(context, server.url, { token });
  await until(() => of("message").length === 1);
  assert.deepEqual(server.requests.map(({ headers }) => headers.authorization), ["Bearer T1", "Bearer T2", "Bearer T3", "Bearer T4", "Bearer T5"]);
  // At once, but only the first time.
  assert.deepEqual(states().slice(0, 3), ["connecting", "connecting", "live"]);
  assert.equal(states().filter((state) => state === "waiting").length, 3);
  assert.deepEqual(of("gap"), []);
});

test("a connection that falls silent is replaced, also one that is not answered and a token that does not come", TEST, async (context) => {
  const server = await serve(context, stream(message("one", "1")), () => {}, stream(message("two", "2")));
  let tokens = 0;
  const token = () => ((tokens += 1) === 1 ? new Promise(() => {}) : "T");
  const { of, until } = record(context, server.url, { watchdog: 100, token: /** @type {any} */ (token) });
  await until(() => of("message").length === 2);
  assert.ok(of("state").filter(({ reason }) => reason === "no data for 0.1 s").length >= 3, JSON.stringify(of("state")));
});

test("keep-alives keep a connection", TEST, async (context) => {
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let timer;
  const server = await serve(context, (response) => {
    stream("")(response);
    let sent = 0;
    timer = setInterval(() => response.write((sent += 1) < 40 ? ": keep-alive\n\n" : message("end")), 50);
  });
  context.after(() => clearInterval(timer));
  const { of, states, until } = record(context, server.url, { watchdog: 1000 });
  await until(() => of("message").length > 0);
  assert.deepEqual(states(), ["connecting", "live"]);
});

test("topics change by one connection that resumes, in the middle of a batch as well", TEST, async (context) => {
  const server = await serve(
    context,
    stream(`id:0\n\n${message("one", "1")}${message("two", "2")}`),
    stream(`id:1\n\n${message("two", "2")}`),
  );
  const recorded = record(context, server.url, {}, {
    message({ id }) {
      if (id !== "1") return;
      for (const topic of ["/b", "/c/*"]) recorded.subscription.add(topic);
      recorded.subscription.remove("/a");
      recorded.subscription.add("/b");
    },
  });
  await recorded.until(() => recorded.of("message").length === 2);
  assert.deepEqual(recorded.of("message"), ["one", "two"]);
  const topics = server.requests.map(({ url, headers }) => [
    new URL(url ?? "", server.url).searchParams.getAll("topic"),
    headers["last-event-id"],
  ]);
  assert.deepEqual(topics, [[["/a"], undefined], [["/b", "/c/*"], "1"]]);
  assert.deepEqual(recorded.subscription.topics, ["/b", "/c/*"]);
  recorded.subscription.setTopics([]);
  await recorded.until(() => recorded.states().includes("paused"));
  assert.equal(recorded.subscription.status.reason, "no topics");
});

test("the iterator has messages and gaps in order, and drops the oldest ones", TEST, async (context) => {
  const texts = ["1", "2", "3", "4", "5"].map((id) => message(+id, id)).join("");
  const server = await serve(context, ended(`${texts}data:{"skipped":7}\n\n`), stream(message(6, "6")));
  const recorded = record(context, server.url, { buffer: 3 });
  const iterator = recorded.subscription[Symbol.asyncIterator]();
  await recorded.until(() => recorded.of("message").length === 6);
  const read = [];
  for await (const item of iterator) {
    read.push(item.gap ?? item.data);
    if (read.length === 4) break;
  }
  assert.deepEqual(read, [{ reason: "overflow", skipped: 4 }, 5, { reason: "skipped", skipped: 7 }, 6]);
  assert.equal(recorded.subscription.status.state, "closed");
});

test("a subscription can be closed at any time", TEST, async (context) => {
  const server = await serve(context, stream(message("one", "1") + message("two", "2")));
  const controller = new AbortController();
  const aborted = record(context, server.url, { signal: controller.signal }, { message: () => controller.abort() });
  // No handler has been called yet.
  assert.deepEqual(aborted.log, []);
  await aborted.until(() => aborted.states().includes("closed"));
  assert.deepEqual(aborted.of("message"), ["one"]);
  const late = record(context, server.url, { signal: controller.signal });
  const iterator = late.subscription[Symbol.asyncIterator]();
  assert.deepEqual(await iterator.next(), { done: true, value: undefined });
  assert.deepEqual(late.states(), ["closed"]);
  for (const state of ["connecting", "live", "waiting"]) {
    const broken = await serve(context, state === "waiting" ? refused(503, "full", { "retry-after": LONG_S }) : stream(""));
    const closing = record(context, broken.url, {}, {
      state: (status) => status.state === state && closing.subscription.close(),
    });
    await closing.until(() => closing.states().includes("closed"));
    assert.equal(closing.states().at(-1), "closed");
  }
});

test("an error of a handler is uncaught, and the next message comes", TEST, async (context) => {
  const server = await serve(context, stream(message("one") + message("two")));
  const code = `
    import { subscribe } from "tallycast";
    process.on("uncaughtException", ({ message }) => console.log("uncaught", message));
    const subscription = subscribe("/a", ({ data }) => {
      if (data === "one") throw new Error("of one");
      console.log(data);
      subscription.close();
    }, { url: ${JSON.stringify(server.url)} });`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", code], { cwd: import.meta.dirname });
  assert.equal(stdout.split("\n").sort().join(" "), " two uncaught of one");
});

test("positions of the past are asked for once, and other parameters each time", TEST, async (context) => {
  const server = await serve(context, ended(`id:4\n\n`), stream(`id:4\n\n${message("in", "5")}`));
  const { of, until } = record(context, server.url, { params: { last: "20", "max-rate": "4/s" }, snapshot: true });
  await until(() => of("message").length === 1);
  assert.deepEqual(server.requests.map(({ url }) => url), [
    "/subscribe?topic=%2Fa&notices=1&envelope=1&snapshot=1&last=20&max-rate=4%2Fs",
    "/subscribe?topic=%2Fa&notices=1&envelope=1&snapshot=1&max-rate=4%2Fs",
  ]);
});

test("events of the application may have the names of notices and totals", TEST, async (context) => {
  const named = `event:reset\ndata:password reset\n\nevent:skipped\ndata:[]\n\nevent:expired\ndata:null\n\n`;
  const plain = await serve(context, stream(named));
  const unwrapped = record(context, plain.url, { envelope: false });
  await unwrapped.until(() => unwrapped.of("message").length === 3);
  assert.deepEqual(unwrapped.of("message"), ["password reset", "[]", "null"]);
  assert.deepEqual(unwrapped.of("gap"), []);
  const kept = (/** @type {string} */ event, /** @type {string} */ id) =>
    `id:${id}\ndata:${JSON.stringify({ namespace: "/a", event, data: "text", id })}\n\n`;
  const server = await serve(context, stream(kept("snapshot", "1") + kept("totals", "2")));
  const { of, subscription, until } = record(context, server.url, { snapshot: true });
  await until(() => of("message").length === 2);
  assert.equal(subscription.lastEventId, "2");
  assert.equal(subscription.totals.known, false);
});

test("a snapshot that is not understood does not move the position", TEST, async (context) => {
  const broken = `id:5\ndata:${JSON.stringify({ namespace: "/a", event: null, data: "no JSON", id: "5" })}\n\n`;
  const snapshot = `data:${JSON.stringify({ namespace: "/a", event: "snapshot", data: { x: 1 } })}\n\n`;
  const server = await serve(context, stream(`id:4\n\n${snapshot}${broken}`), stream(message({ x: 1 }, "6")));
  const { of, until } = record(context, server.url, { snapshot: true });
  await until(() => of("message").length === 1);
  assert.equal(server.requests[1]?.headers["last-event-id"], "4");
});

test("a subscription that is closed after a refusal leaves no timer", TEST, async (context) => {
  const server = await serve(context, refused(503, "full", { "retry-after": LONG_S }));
  const code = `
    import { subscribe } from "tallycast";
    const subscription = subscribe("/a", { refused: () => subscription.close() }, { url: ${JSON.stringify(server.url)} });`;
  // Fails if the process does not end.
  await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", code], { cwd: import.meta.dirname, timeout: TEST.timeout / 2 });
});

test("a token that is rejected without a reason is requested again", TEST, async (context) => {
  const server = await serve(context, stream(message("in")));
  let tokens = 0;
  const token = () => ((tokens += 1) === 1 ? Promise.reject() : "T");
  const { of, states, until } = record(context, server.url, { token });
  await until(() => of("message").length === 1);
  assert.deepEqual(states(), ["connecting", "waiting", "connecting", "live"]);
});

test("totals over WebSocket are unknown without their topic, and start again with a connection", TEST, async (context) => {
  const { control, live, socket, subscription } = await recordSockets(context, { snapshot: true });
  const { totals } = subscription;
  socket.receive({ namespace: "/a", event: "snapshot", data: { x: 3 } }, { namespace: "/a", event: null, data: { x: 1 } });
  assert.deepEqual([totals.known, totals.values.get("x")], [true, 4]);
  subscription.setTopics("/b");
  await turn();
  assert.deepEqual(socket.sent, [{ subscribe: ["/b"], unsubscribe: ["/a"], snapshot: true }]);
  socket.receive({ subscribed: ["/b"] });
  assert.deepEqual([totals.known, totals.reason], [false, "not subscribed"]);
  socket.end();
  const second = await live(2);
  assert.deepEqual([second.query.getAll("topic"), second.query.get("snapshot")], [["/b"], null]);
  subscription.setTopics("/a");
  await turn();
  second.receive({ subscribed: ["/a"] });
  const third = await live(3);
  assert.deepEqual([third.query.getAll("topic"), third.query.get("snapshot")], [["/a"], "1"]);
  third.receive({ namespace: "/a", event: "snapshot", data: { x: 7 } });
  assert.deepEqual([totals.known, totals.values.get("x"), control.opened.length], [true, 7, 3]);
});

test("a WebSocket with totals and other topics survives a temporary refusal", TEST, async (context) => {
  const server = await serve(context, refused(503, "full"));
  const { control, live, of, socket, subscription, until } = await recordSockets(context, { snapshot: true, url: server.url });
  socket.receive({ namespace: "/a", event: "snapshot", data: {} });
  subscription.add("/b");
  await turn();
  socket.receive({ subscribed: ["/a", "/b"] });
  control.refuses = true;
  socket.end();
  await until(() => of("refused").length === 1);
  control.refuses = false;
  const second = await live(2);
  // What the WebSocket requests as well: a snapshot is for one topic.
  assert.deepEqual(new URL(server.requests[0]?.url ?? "", server.url).searchParams.getAll("topic"), ["/a"]);
  assert.deepEqual(second.sent, [{ subscribe: ["/b"], unsubscribe: [], snapshot: true }]);
});

test("a refused change of topics leaves later changes alone", TEST, async (context) => {
  const { socket, subscription } = await recordSockets(context, {}, { refused: () => subscription.add("/d") });
  for (const topic of ["/b", "/c"]) {
    subscription.add(topic);
    await turn();
  }
  socket.receive({ error: "not allowed to read /b" });
  await turn();
  socket.receive({ subscribed: ["/a", "/c"] }, { subscribed: ["/a", "/c", "/d"] });
  assert.deepEqual(subscription.topics, ["/a", "/c", "/d"]);
  assert.deepEqual(socket.sent.map((/** @type {any} */ command) => command.subscribe), [["/b"], ["/c"], ["/d"]]);
  subscription.remove("/a");
  await turn();
  socket.receive({ error: "not now" });
  assert.deepEqual(subscription.topics, ["/c", "/d", "/a"]);
});

test("topics that take the place of others have a gap after a loss", TEST, async (context) => {
  const { live, of, socket, subscription } = await recordSockets(context);
  socket.receive({ id: "0" }, { namespace: "/a", event: null, data: 1, id: "1" });
  subscription.setTopics("/b");
  await turn();
  socket.receive({ subscribed: ["/b"] });
  socket.end();
  await live(2);
  assert.deepEqual(of("gap"), [{ reason: "disconnected" }]);
});

test("last values of added topics do not move the position back", TEST, async (context) => {
  const { live, socket, subscription } = await recordSockets(context, { snapshot: true });
  socket.receive({ id: "" }, { namespace: "/a", event: null, data: 1, id: "8" }, { id: "9" });
  subscription.add("/b/*");
  await turn();
  assert.deepEqual(socket.sent, [{ subscribe: ["/b/*"], unsubscribe: [], snapshot: true }]);
  const last = ["x", "y"].map((name, number) => ({ namespace: `/b/${name}`, event: null, data: number, id: `${number}` }));
  socket.receive({ subscribed: ["/a", "/b/*"] }, ...last);
  assert.equal(subscription.lastEventId, "9");
  socket.receive({ namespace: "/a", event: null, data: 2, id: "10" });
  assert.equal(subscription.lastEventId, "10");
  socket.receive({ namespace: "/b/y", event: null, data: 2, id: "11" });
  socket.end();
  assert.equal((await live(2)).query.get("lastEventID"), "11");
});

test("invalid options are errors at once", () => {
  assert.throws(() => subscribe("/a"), /Invalid URL/);
  const url = "http://127.0.0.1/subscribe";
  if (!globalThis.WebSocket) assert.throws(() => subscribe("/a", {}, { url, transport: "websocket" }), /expected the option WebSocket/);
});
