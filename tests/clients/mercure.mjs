// Reads a stream of the Mercure protocol with npm's eventsource, which reconnects by itself. Arguments: a token, and the URL of the
// stream at each node. Prints a JSON line for each connection, with the id that it resumes at and the one that the hub starts at, and
// for each event.
import { EventSource } from "eventsource";

const [token, ...nodes] = process.argv.slice(2);
const print = (...line) => console.log(JSON.stringify(line));

const source = new EventSource(nodes[0], {
  async fetch(_url, { headers, ...options }) {
    try {
      const response = await fetch(nodes[0], { ...options, headers: { ...headers, authorization: `Bearer ${token}` } });
      print("connected", headers["Last-Event-ID"] ?? null, response.headers.get("last-event-id"));
      return response;
    } catch (error) {
      // The next attempt is at the next node.
      nodes.push(nodes.shift());
      throw error;
    }
  },
});
for (const name of ["message", "book"]) {
  source.addEventListener(name, (event) => print(name, event.lastEventId, event.data));
}
