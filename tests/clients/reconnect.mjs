// Reads the stream at the URL with npm's eventsource, which reconnects by itself, and prints the id and data of each event.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
for (const name of ["message", "reset"]) {
  source.addEventListener(name, (event) => console.log(name, event.lastEventId, event.data));
}
