/**
 * Where the compiled executable starts: main.ts, with what a checkout has from its surroundings. Native addons lie
 * inside of the executable, and Deno writes one to a file of a fixed name in the directory for temporary files
 * before it loads it: a file that somebody else may have put there, or on a disk from which nothing may be run.
 */

import { Module } from "node:module";

/** Where a file may be put that is run: each is tried, and some machines forbid it in the first. */
const PLACES = ["/tmp", "/var/tmp", "/dev/shm"];

type LoadAddon = (module: unknown, filename: string) => void;

// @ts-expect-error: the types of node:module leave out what loads files by their extension.
const loaders: Record<string, LoadAddon> = Module._extensions;
const load = loaders[".node"]!;

/**
 * Loads an addon through a directory that only this user can write to, made for it and removed again.
 * Invariant: TMPDIR is as it was when this returns or throws.
 */
loaders[".node"] = (module, filename) => {
  const before = Deno.env.get("TMPDIR");
  let problem: unknown;
  for (const place of [before, ...PLACES, Deno.env.get("HOME")]) {
    if (place === undefined || place === "") continue;
    let dir: string;
    try {
      dir = Deno.makeTempDirSync({ dir: place, prefix: ".mfs-addon-" });
    } catch (error) {
      problem ??= error;
      continue;
    }
    try {
      Deno.env.set("TMPDIR", dir);
      return load(module, filename);
    } catch (error) {
      problem = error;
    } finally {
      if (before === undefined) Deno.env.delete("TMPDIR");
      else Deno.env.set("TMPDIR", before);
      // What is loaded stays loaded.
      Deno.removeSync(dir, { recursive: true });
    }
  }
  throw problem;
};

// Something started us without it; what we start is looked for there.
if (!Deno.env.get("PATH")) {
  Deno.env.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

await import("../../main.ts");
