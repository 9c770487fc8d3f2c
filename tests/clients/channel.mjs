// Reads an event channel with npm's eventsource, which comes back by itself with the last id. Argument: the URL. Prints a JSON line for
// each connection and each message.

import { EventSource } from "eventsource";

const show = (...line) => console.log(JSON.stringify(line));
const source = new EventSource(process.argv[2]);
source.onopen = () => show("open");
source.onmessage = ({ data }) => show("message", JSON.parse(data));
