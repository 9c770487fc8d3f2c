// A Svelte store that reads a topic while something subscribes to it.

import { readable } from "svelte/store";
import { subscribe } from "tallycast";

/** @typedef {{status: import("tallycast").Status, messages: import("tallycast").Message[], gap: import("tallycast").Gap | null}} Feed */

/**
 * The newest messages, newest first, with the state of the connection and the last gap.
 * @param {string} topic
 * @param {import("tallycast").Options} [options]
 */
export function feed(topic, options = {}, limit = 50) {
  /** @type {Feed} */
  const empty = { status: { state: "connecting" }, messages: [], gap: null };
  return readable(empty, (_, update) => {
    const change = (/** @type {Partial<Feed>} */ values) => update((feed) => ({ ...feed, ...values }));
    const subscription = subscribe(
      topic,
      {
        message: (message) => update((feed) => ({ ...feed, messages: [message, ...feed.messages].slice(0, limit) })),
        gap: (gap) => change({ gap }),
        state: (status) => change({ status }),
      },
      options,
    );
    return () => subscription.close();
  });
}
