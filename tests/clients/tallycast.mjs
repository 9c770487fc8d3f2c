// Runs the readers of the first argument, and calls a method of one for each line of standard input: [number, method, argument].
import { createInterface } from "node:readline";
import { subscribe } from "tallycast";
import { WebSocket } from "ws";
import { start } from "./readers.mjs";

const readers = JSON.parse(process.argv[2]).map((reader) => ({ ...reader, options: { ...reader.options, WebSocket } }));
const subscriptions = start(subscribe, readers, (line) => console.log(JSON.stringify(line)));
for await (const line of createInterface({ input: process.stdin })) {
  const [number, method, argument] = JSON.parse(line);
  subscriptions[number][method](argument);
}
