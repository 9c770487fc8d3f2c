// A React hook that reads a topic as long as a component uses it.

import { useMemo, useSyncExternalStore } from "react";
import { subscribe, type Gap, type Message, type Options, type Status } from "tallycast";

export interface Feed {
  status: Status;
  /** The newest messages, newest first. */
  messages: readonly Message[];
  /** The last gap: load what is shown again, as at the start. */
  gap: Gap | null;
}

const EMPTY: Feed = { status: { state: "connecting" }, messages: [], gap: null };

/** A store that has a subscription while React listens. */
function createStore(topic: string, url: string, options: Options, limit: number) {
  let feed = EMPTY;
  return {
    getSnapshot: () => feed,
    subscribe(notify: () => void) {
      const update = (change: Partial<Feed>) => {
        feed = { ...feed, ...change };
        notify();
      };
      const subscription = subscribe(
        topic,
        {
          message: (message) => update({ messages: [message, ...feed.messages].slice(0, limit) }),
          gap: (gap) => update({ gap }),
          state: (status) => update({ status }),
        },
        { ...options, url },
      );
      return () => subscription.close();
    },
  };
}

/** Reads `topic`. Of `options`, the values of the first render count. */
export function useTallycast(topic: string, url = "/subscribe", options: Options = {}, limit = 50): Feed {
  const store = useMemo(() => createStore(topic, url, options, limit), [topic, url, limit]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, () => EMPTY);
}
