// Reads a WebSocket with npm's ws. Arguments: the URL, and the header authorization if there is one. Prints a JSON line when it is open,
// for each message, with its kind, and at the end.
import WebSocket from "ws";

const [url, authorization] = process.argv.slice(2);
const print = (...line) => console.log(JSON.stringify(line));

const socket = new WebSocket(url, { headers: authorization ? { authorization } : {} });
socket.on("open", () => print("open"));
socket.on("message", (data, isBinary) => print(isBinary ? "binary" : "text", data.toString()));
socket.on("close", (code, reason) => print("closed", code, reason.toString()));
