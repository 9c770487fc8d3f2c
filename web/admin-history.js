// Samples for the charts: the past from the server, then those of its events.

import { request } from "./admin-api.js";
import { serverTime } from "./admin-time.js";
import { RATE_SECONDS } from "./units.js";

/**
 * A point of the charts. All values but memory and connections count from the start of the process.
 * @typedef {object} Sample
 * @property {number} at
 * @property {number} received
 * @property {number} delivered
 * @property {number} bytes
 * @property {number | null} memory_bytes
 * @property {number | null} cpu_seconds
 * @property {number} connections
 * @property {number} lost
 */

/** @typedef {"10m" | "1h" | "6h" | "24h"} Range */

/** @type {Readonly<Record<Range, number>>} */
export const RANGES = { "10m": 600, "1h": 3600, "6h": 21_600, "24h": 86_400 };
/** Samples of a range at most, as the server keeps them. */
const MAX_SAMPLES = 600;
/** The pause before a range that could not be read is read again. */
const RETRY_SECONDS = 5;
/** The longest interval between samples that is filled by the events, which come every second. */
const MAX_LIVE_INTERVAL = 1.5;

export class History {
  /** @type {Sample[]} */
  samples = [];
  /** @type {Range} */
  range = "10m";
  #interval = 1;
  #loadedAt = 0;
  #hasFailed = false;
  #request = 0;

  /** Reads all samples of a range. @param {Range} range */
  async load(range) {
    const request_ = ++this.#request;
    if (range !== this.range) this.samples = [];
    this.range = range;
    this.#interval = RANGES[range] / MAX_SAMPLES;
    this.#loadedAt = serverTime();
    this.#hasFailed = false;
    const answer = await request(`/admin/history.json?range=${range}`);
    if (request_ !== this.#request) return;
    this.#hasFailed = !answer.ok;
    if (answer.ok) this.samples = answer.data.samples;
  }

  /** Adds a sample to the shortest range; reads the others again when they have new ones, and each that could not be read. @param {Sample} sample */
  push(sample) {
    const isLive = this.#interval <= MAX_LIVE_INTERVAL;
    if (isLive) {
      if (sample.at > (this.samples.at(-1)?.at ?? 0)) this.samples.push(sample);
      const oldest = sample.at - RANGES[this.range];
      while (this.samples[0] && this.samples[0].at < oldest) this.samples.shift();
    }
    const pause = this.#hasFailed ? RETRY_SECONDS : isLive ? Infinity : this.#interval;
    if (serverTime() - this.#loadedAt >= pause) void this.load(this.range);
  }

  /** The times between which the charts show values. @returns {[number, number]} */
  span() {
    const to = serverTime();
    return [to - RANGES[this.range], to];
  }
}

/**
 * The growth per second of a count at each sample, over {@link RATE_SECONDS} as everywhere, or over one interval if that is longer.
 * Null for the first sample and where the count began again.
 * @param {readonly Sample[]} samples
 * @param {"received" | "delivered" | "bytes" | "cpu_seconds" | "lost"} name
 * @returns {(number | null)[]}
 */
export function rates(samples, name) {
  let first = 0;
  return samples.map((sample, index) => {
    const value = sample[name];
    const before = samples[index - 1]?.[name];
    if (value === null || before === null || before === undefined || value < before) {
      first = index;
      return null;
    }
    // Samples come a little early or late.
    while (first < index - 1 && sample.at - at(samples, first) > RATE_SECONDS + 0.5) first += 1;
    return (value - (samples[first]?.[name] ?? value)) / (sample.at - at(samples, first));
  });
}

/** @param {readonly Sample[]} samples @param {number} index */
function at(samples, index) {
  return /** @type {Sample} */ (samples[index]).at;
}
