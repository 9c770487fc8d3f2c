// A client of ws-hub with npm's ws. Argument: the URL. Sends "hello" when it is open, as text and as bytes. Prints a JSON line when it is
// open, for each message, and at the end.
import WebSocket from "ws";

const print = (...line) => console.log(JSON.stringify(line));
const socket = new WebSocket(process.argv[2]);
socket.on("open", () => {
  print("open");
  socket.send("hello");
  socket.send(Buffer.from("bytes"));
});
socket.on("message", (data, isBinary) => print(isBinary ? "binary" : "text", data.toString()));
socket.on("close", (code, reason) => print("closed", code, reason.toString()));
