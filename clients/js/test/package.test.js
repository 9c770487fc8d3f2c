// The package: its size, types, version and files, and the examples, which must compile.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build, transform } from "esbuild";
import { compile } from "svelte/compiler";

/** What users may download, minified and compressed by gzip. */
const MAX_BYTES = 4000;

const root = join(import.meta.dirname, "..");
/** @param {string} path */
const read = (path) => readFileSync(join(root, path), "utf8");

test("the module is small once minified and compressed", async () => {
  // As bundlers do, without constants that are inlined.
  const { code } = await transform(read("tallycast.js"), { minify: true, treeShaking: true, format: "esm", target: "es2022" });
  const size = gzipSync(code, { level: 9 }).length;
  assert.ok(size <= MAX_BYTES, `${size} bytes; expected at most ${MAX_BYTES}`);
});

test("the types are those of the module", () => {
  const directory = mkdtempSync(join(tmpdir(), "tallycast-types-"));
  try {
    execFileSync("node_modules/.bin/tsc", ["--project", "types/tsconfig.declaration.json", "--outDir", directory], { cwd: root });
    assert.equal(read("tallycast.d.ts"), readFileSync(join(directory, "tallycast.d.ts"), "utf8"), "run npm run types");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("version and licence are those of the workspace", () => {
  const { version, license } = JSON.parse(read("package.json"));
  const workspace = read("../../Cargo.toml");
  assert.ok(workspace.includes(`[workspace.package]\nversion = "${version}"\n`), version);
  assert.ok(workspace.includes(`license = "${license}"\n`), license);
});

test("the package has the module, its types, a README and licences, and nothing else", () => {
  const packed = execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: root, encoding: "utf8" });
  const [{ files }] = JSON.parse(packed.slice(packed.indexOf("[")));
  assert.deepEqual(files.map((/** @type {{path: string}} */ { path }) => path).sort(), [
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "package.json",
    "tallycast.d.ts",
    "tallycast.js",
  ]);
});

test("the lock file names no hosts", () => {
  assert.ok(!read("package-lock.json").includes('"resolved"'));
});

test("the examples compile", async () => {
  const result = await build({
    entryPoints: ["examples/react/Orders.tsx", "examples/svelte/Orders.svelte"],
    absWorkingDir: root,
    bundle: true,
    write: false,
    outdir: "out",
    format: "esm",
    jsx: "automatic",
    logLevel: "silent",
    plugins: [
      {
        name: "svelte",
        setup({ onLoad }) {
          onLoad({ filter: /\.svelte$/ }, ({ path }) => {
            const { js, warnings } = compile(readFileSync(path, "utf8"), { filename: path });
            return { contents: js.code, warnings: warnings.map(({ message }) => ({ text: message })) };
          });
        },
      },
    ],
  });
  assert.deepEqual(result.warnings, []);
  assert.equal(result.outputFiles.length, 2);
});
