/** The npm packages in Deno's cache, and what of them no executable needs. */

import type { Target } from "./base_binary.ts";

/** Sources of addons, tests and documentation. */
const NEEDLESS_DIRECTORIES = ["deps", "test", "tests", "typings", "node_modules"];
const NEEDLESS_FILES = /\.(md|map|d\.[cm]?ts|ts|cc|h|gyp|gypi)$/i;
const PREBUILDS: Record<Target, string> = {
  "x86_64-unknown-linux-gnu": "linux-x64",
  "aarch64-unknown-linux-gnu": "linux-arm64",
};

/** Paths in the directories of some packages that an executable for `target` does without. */
export function needlessPaths(packages: readonly string[], target: Target): string[] {
  const found: string[] = [];
  const visit = (dir: string, depth: number) => {
    for (const entry of Deno.readDirSync(dir)) {
      const path = `${dir}/${entry.name}`;
      if (isNeedless(entry, dir, depth, target)) found.push(path);
      else if (entry.isDirectory) visit(path, depth + 1);
    }
  };
  for (const dir of packages) visit(dir, 0);
  return found.sort();
}

function isNeedless(entry: Deno.DirEntry, dir: string, depth: number, target: Target): boolean {
  const { name } = entry;
  if (dir.endsWith("/prebuilds")) return name !== PREBUILDS[target];
  if (entry.isDirectory) return depth === 0 && NEEDLESS_DIRECTORIES.includes(name);
  return NEEDLESS_FILES.test(name) || name.includes(".musl.");
}

/** The directories of all packages in Deno's cache of a registry: NAME/VERSION, @SCOPE/NAME/VERSION. */
export function cachedPackages(registry: string): string[] {
  return withoutScopes(registry).flatMap(directoriesIn);
}

/** The directories of all packages in a node_modules that Deno has made: .deno/NAME@VERSION/node_modules/NAME. */
export function installedPackages(nodeModules: string): string[] {
  return directoriesIn(`${nodeModules}/.deno`).flatMap((dir) =>
    dir.endsWith("/node_modules") ? [] : withoutScopes(`${dir}/node_modules`)
  );
}

function withoutScopes(dir: string): string[] {
  return directoriesIn(dir).flatMap((path) => /\/@[^/]*$/.test(path) ? directoriesIn(path) : [path]);
}

/** Links are none. */
function directoriesIn(dir: string): string[] {
  return [...Deno.readDirSync(dir)].filter((entry) => entry.isDirectory).map(({ name }) => `${dir}/${name}`);
}
