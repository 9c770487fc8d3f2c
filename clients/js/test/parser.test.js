// The parser of event streams: by examples of the standard, and compared with eventsource-parser for every way to cut a stream.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createParser as createOther } from "eventsource-parser";
import { createParser } from "tallycast";

const encoder = new TextEncoder();

/** Blocks and retries of a stream that comes in the given pieces. @param {Iterable<Uint8Array>} pieces */
function parse(pieces) {
  /** @type {any[]} */
  const seen = [];
  const feed = createParser(
    (block) => seen.push(block),
    (retry) => seen.push({ retry }),
  );
  for (const piece of pieces) feed(piece);
  return seen;
}

/** @param {string} text */
function parseText(text) {
  return parse([encoder.encode(text)]);
}

/** The same of the other parser, which shows no ids without data, and takes text without a byte order mark. @param {string} text */
function parseByOther(text) {
  /** @type {any[]} */
  const seen = [];
  const parser = createOther({
    onEvent: ({ id, event = "", data }) => seen.push({ id, event, data }),
    onRetry: (retry) => seen.push({ retry }),
  });
  parser.feed(text.replace(/^\uFEFF/, ""));
  return seen;
}

/** A generator of numbers below a bound (mulberry32), so that a failure can be repeated. @param {number} seed */
function random(seed) {
  return (/** @type {number} */ below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

const FIELDS = ["data", "data", "data", "event", "id", "retry", "", "unknown", "dat", "data\u0000"];
/** None has a NUL: the other parser removes an id before an invalid one, which the standard keeps. */
const VALUES = ["", "a", " a", "  a", "12", "12x", "ä😂", "é\u2028", "x:y", ":", '{"a":1}'];
const ENDS = ["\n", "\r", "\r\n"];

/** A stream of lines with all kinds of fields and ends. @param {(below: number) => number} below */
function stream(below) {
  /** @template T @param {T[]} list */
  const one = (list) => /** @type {T} */ (list[below(list.length)]);
  let text = below(8) ? "" : "\uFEFF";
  for (let line = 0; line < 12; line += 1) {
    if (below(3)) text += `${one(FIELDS)}${one(["", ":", ": "])}${one(VALUES)}`;
    text += one(ENDS);
  }
  // The other parser waits for what follows a CR.
  return `${text}\n\n`;
}

test("fields, ends of lines and comments are those of the standard", () => {
  const cases = /** @type {[string, any[]][]} */ ([
    ["data: YHOO\ndata: +2\ndata: 10\n\n", [{ id: undefined, event: "", data: "YHOO\n+2\n10" }]],
    [": test stream\n\ndata: first\nid: 1\n\n", [{ id: "1", event: "", data: "first" }]],
    ["data:second\nid\n\n", [{ id: "", event: "", data: "second" }]],
    ["data\n\ndata\ndata\n\ndata:", [{ id: undefined, event: "", data: "" }, { id: undefined, event: "", data: "\n" }]],
    ["id:7\n\n", [{ id: "7", event: "", data: undefined }]],
    ["id:7\nid:8\u00009\ndata:a\n\n", [{ id: "7", event: "", data: "a" }]],
    ["event:a\n\ndata:b\n\n", [{ id: undefined, event: "", data: "b" }]],
    ["event:a\revent:b\rdata:c\r\r", [{ id: undefined, event: "b", data: "c" }]],
    ["retry:10\nretry:1.5\nretry:\nretry:-1\n", [{ retry: 10 }]],
    ["\uFEFFdata:a\n\n\uFEFFdata:b\n\n", [{ id: undefined, event: "", data: "a" }]],
  ]);
  for (const [text, expected] of cases) assert.deepEqual(parseText(text), expected, JSON.stringify(text));
});

test("every way to cut a stream gives the same events, which are those of another parser", () => {
  for (let seed = 0; seed < 300; seed += 1) {
    const below = random(seed);
    const text = stream(below);
    const name = `seed ${seed}: ${JSON.stringify(text)}`;
    const whole = parseText(text);
    const comparable = whole.filter((seen) => "retry" in seen || seen.data !== undefined);
    assert.deepEqual(comparable, parseByOther(text), name);
    const bytes = encoder.encode(text);
    assert.deepEqual(parse(Array.from(bytes, (byte) => Uint8Array.of(byte))), whole, name);
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      assert.deepEqual(parse([bytes.subarray(0, cut), bytes.subarray(cut)]), whole, `${name} cut at ${cut}`);
    }
    const pieces = [];
    for (let at = 0, end; at < bytes.length; at = end) {
      end = at + 1 + below(9);
      pieces.push(bytes.subarray(at, end));
    }
    assert.deepEqual(parse(pieces), whole, name);
  }
});

test("an event beyond all bounds is an error", () => {
  const feed = createParser(() => {});
  const megabyte = new Uint8Array(1 << 20).fill(97);
  assert.throws(() => {
    for (let count = 0; count < 40; count += 1) feed(megabyte);
  }, /too large/);
});
