// Uses of the whole interface that must compile, and wrong ones that must not. It is never run.

import { Refusal, backoff, createParser, subscribe } from "tallycast";
import type { Block, Gap, Handlers, Item, Message, Options, Status, Subscription, Totals } from "tallycast";

const handlers: Handlers = {
  message({ namespace, event, data, id }: Message) {
    const texts: [string | undefined, string | null, string | undefined] = [namespace, event, id];
    return void [texts, data.anything];
  },
  gap({ reason, skipped, earliest }: Gap) {
    const known: boolean = reason === "trimmed" || reason === "a reason of a later server";
    return void [known, skipped?.toFixed(), earliest?.length];
  },
  totals(totals: Totals, changes) {
    const total: number | undefined = totals.values.get("1F602");
    for (const [key, change] of Object.entries(changes ?? {})) void [key.length, change.toFixed(), total, totals.known, totals.reason];
  },
  state({ state, retryAt, reason }: Status) {
    // @ts-expect-error There is no such state.
    if (state === "reconnecting") return;
    if (state === "waiting") void [new Date(retryAt ?? 0), reason];
  },
  refused(refusal) {
    const { status, reason, permanent, retryAfter }: { status: number; reason: string; permanent: boolean; retryAfter: number } = refusal;
    void [status, reason, permanent, retryAfter, refusal instanceof Refusal, refusal.message];
  },
};

class Socket {
  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {}
}

const options: Options = {
  url: new URL("https://example.com/subscribe"),
  transport: "websocket",
  token: async () => "token",
  snapshot: true,
  envelope: false,
  lastEventId: "earliest",
  params: { "max-rate": "4/s" },
  pauseHidden: 30_000,
  watchdog: 45_000,
  minDelay: 1000,
  maxDelay: 30_000,
  buffer: 1000,
  signal: new AbortController().signal,
  credentials: "include",
  fetch,
  WebSocket: Socket,
};

const subscription: Subscription = subscribe(["/orders/*", "/news"], handlers, options);
subscribe("/a");
subscribe(new Set(["/a"]), ({ data }) => void data, { token: "token", transport: "sse", url: "/subscribe" });
subscribe(null, {}, { url: "/session/ann" });

subscription.setTopics(["/a"]);
subscription.add("/b");
subscription.remove(new Set(["/b"]));
const topics: string[] = subscription.topics;
const { state }: Status = subscription.status;
const { values, known, namespace }: Totals = subscription.totals;
const position: string = subscription.lastEventId;
void [topics, state, values.size, known, namespace, position];

for await (const item of subscription) {
  if (item.gap) {
    const { reason }: Gap = item.gap;
    // @ts-expect-error A gap has no data.
    void [reason, item.data];
  } else {
    const message: Message = item;
    void message;
  }
  const any: Item = item;
  void any;
}
subscription.close();

const feed: (bytes: Uint8Array) => void = createParser(
  ({ id, event, data }: Block) => void [id?.length, event.length, data?.length],
  (milliseconds) => void milliseconds.toFixed(),
);
feed(new Uint8Array());
const pause: number = backoff(3) + backoff(3, 1000, 30_000);
void pause;

// @ts-expect-error Topics are texts.
subscribe(1);
// @ts-expect-error There is no such handler.
subscribe("/a", { open() {} });
// @ts-expect-error There is no such transport.
subscribe("/a", {}, { transport: "polling" });
// @ts-expect-error A token is a text, or a function that returns one.
subscribe("/a", {}, { token: () => 1 });
// @ts-expect-error Options have no other names.
subscribe("/a", {}, { retry: 1000 });
// @ts-expect-error The state is not for writing.
subscription.status = { state: "live" };
