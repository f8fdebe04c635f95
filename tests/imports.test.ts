/**
 * The import direction that the folders promise: main.ts -> roles/ -> fs/ -> wire/ -> base/. Roles do not import
 * each other, but for singlenode, which starts them all, and cli, which defines the commands that do;
 * fs/kernel/ and base/ know nothing of MaggieFS; there is no cycle.
 */

import { assert, assertEquals } from "@std/assert";

const ROOT = decodeURIComponent(new URL("..", import.meta.url).pathname);
const LAYERS = ["base", "wire", "fs", "roles", "main.ts"];

/** Every source file but the tests', with the files of ours that it imports, paths from the root. */
function readImports(): Map<string, string[]> {
  const files: string[] = ["main.ts"];
  const visit = (dir: string) => {
    for (const entry of Deno.readDirSync(ROOT + dir)) {
      const path = `${dir}/${entry.name}`;
      if (entry.isDirectory) visit(path);
      else if (path.endsWith(".ts")) files.push(path);
    }
  };
  for (const dir of LAYERS.slice(0, -1)) visit(dir);
  return new Map(files.map((file) => [file, importsOf(file)]));
}

function importsOf(file: string): string[] {
  const text = Deno.readTextFileSync(ROOT + file);
  const specifiers = [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*"(\.{1,2}\/[^"]+)"/g)].map((match) =>
    match[1]!
  );
  return specifiers.map((specifier) => new URL(specifier, `file:///${file}`).pathname.slice(1));
}

const imports = readImports();
const layerOf = (file: string) => LAYERS.indexOf(file.split("/")[0]!);
const roleOf = (file: string) => file.startsWith("roles/") ? file.split("/")[1]! : undefined;

Deno.test("imports: every one of them leads to a file and downwards", () => {
  const wrong: string[] = [];
  for (const [file, targets] of imports) {
    for (const target of targets) {
      if (target === "deno.json") continue;
      const known = imports.has(target);
      if (!known || layerOf(target) > layerOf(file)) wrong.push(`${file} -> ${target}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("imports: main.ts knows roles only", () => {
  const targets = imports.get("main.ts")!.filter((target) => target !== "deno.json");
  assert(targets.length > 0);
  assertEquals(targets.filter((target) => roleOf(target) === undefined), []);
});

Deno.test("imports: roles do not know each other", () => {
  const wrong: string[] = [];
  for (const [file, targets] of imports) {
    const from = roleOf(file);
    if (from === undefined || from === "singlenode" || from === "cli") continue;
    for (const target of targets) {
      const to = roleOf(target);
      // The leaseserver is a module of the nameserver's process (one service beside the other).
      const isLeaseserver = from === "nameserver" && to === "leaseserver";
      if (to !== undefined && to !== from && !isLeaseserver) wrong.push(`${file} -> ${target}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("imports: only the mount role knows fs/, and fs/ knows wire/'s client side", () => {
  const wrong: string[] = [];
  for (const [file, targets] of imports) {
    for (const target of targets) {
      const role = roleOf(file);
      if (target.startsWith("fs/") && role !== undefined && role !== "mount") {
        wrong.push(`${file} -> ${target}`);
      }
      if (file.startsWith("fs/") && target === "wire/server.ts") wrong.push(`${file} -> ${target}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("imports: the kernel protocol knows errno names and base/, no more", () => {
  const wrong: string[] = [];
  for (const [file, targets] of imports) {
    if (!file.startsWith("fs/kernel/")) continue;
    for (const target of targets) {
      const isAllowed = target.startsWith("fs/kernel/") || target.startsWith("base/") ||
        target === "wire/errno.ts";
      if (!isAllowed) wrong.push(`${file} -> ${target}`);
    }
  }
  assertEquals(wrong, []);
});

Deno.test("imports: there is no cycle", () => {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]) => {
    assert(!path.includes(file), `cycle: ${[...path, file].join(" -> ")}`);
    if (done.has(file)) return;
    for (const target of imports.get(file) ?? []) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
});
