// Serves the files of a directory on a free port, and prints its origin.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";

const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript" };
const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  const file = await readFile(join(process.argv[2], pathname)).catch(() => undefined);
  response.writeHead(file ? 200 : 404, { "content-type": types[extname(pathname)] ?? "text/plain" });
  response.end(file);
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
