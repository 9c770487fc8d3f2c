// Readers of the package tallycast, in Node.js and in pages: each prints its name and what its handlers are called with.

/**
 * Starts readers from `[{name, topics, options, tokens}]`. Of several tokens, each connection takes the next one.
 */
export function start(subscribe, readers, print) {
  return readers.map(({ name, topics, options, tokens }) =>
    subscribe(
      topics,
      {
        message: ({ id, namespace, data }) => print([name, "message", id ?? null, namespace, data]),
        gap: ({ reason }) => print([name, "gap", reason]),
        totals: ({ known, values }) => print([name, "totals", known, Object.fromEntries(values)]),
        refused: ({ status, reason, permanent }) => print([name, "refused", status, reason, permanent]),
        state: ({ state, reason }) => print([name, "state", state, reason ?? null]),
      },
      { minDelay: 50, maxDelay: 500, ...options, token: tokens && (() => (tokens.length > 1 ? tokens.shift() : tokens[0])) },
    ),
  );
}
