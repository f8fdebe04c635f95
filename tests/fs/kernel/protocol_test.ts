/** Every offset, size and number in protocol.ts against the C compiler and the system's linux/fuse.h. */

import assert from "node:assert/strict";
import * as P from "../../../fs/kernel/protocol.ts";

const HEADER = "/usr/include/linux/fuse.h";

/** The C structure of each table of offsets, where its name is not the lower-case one with "fuse_". */
const C_NAMES: Readonly<Record<string, string>> = { FILE_LOCK: "fuse_file_lock" };
/** struct fuse_statx is laid out as statx(2)'s structure, whose fields have a prefix. */
const STATX_TABLE = "STATX";

type Offsets = Readonly<Record<string, number>>;

function fieldsOf(header: string, struct: string): Set<string> | null {
  const body = new RegExp(`struct ${struct} \\{([^}]*)\\}`).exec(header)?.[1];
  if (body === undefined) return null;
  return new Set([...body.matchAll(/(\w+)(?:\[[^\]]*\])?;/g)].map((match) => match[1]!));
}

Deno.test("protocol: offsets, sizes and numbers equal the C compiler's", async () => {
  let header: string;
  try {
    header = await Deno.readTextFile(HEADER);
    await new Deno.Command("cc", { args: ["--version"], stdout: "null", stderr: "null" }).output();
  } catch {
    console.log(`skipped: no ${HEADER} or no C compiler`);
    return;
  }
  const lines: string[] = [];
  const absent: string[] = [];
  const expect = (expression: string, value: number) =>
    lines.push(`check(${JSON.stringify(expression)}, (long long)(${expression}), ${value}LL);`);

  for (const [table, exported] of Object.entries(P)) {
    if (typeof exported === "number") {
      const name = constantName(table);
      if (name === null) continue;
      if (!new RegExp(`\\b${name.c}\\b`).test(header)) absent.push(name.c);
      else expect(`(${name.c}) ${name.shift}`, exported);
      continue;
    }
    const offsets = exported as Offsets;
    if (table === STATX_TABLE) {
      for (const [field, at] of Object.entries(offsets)) {
        if (field === "bytes") expect("sizeof(struct statx)", at);
        else expect(`offsetof(struct statx, stx_${field})`, at);
      }
      continue;
    }
    const struct = C_NAMES[table] ?? `fuse_${table.toLowerCase()}`;
    const fields = fieldsOf(header, struct);
    if (fields === null) {
      absent.push(struct);
      continue;
    }
    for (const [field, at] of Object.entries(offsets)) {
      if (field === "bytes") {
        expect(`sizeof(struct ${struct})`, at);
      } else if (fields.has(field)) expect(`offsetof(struct ${struct}, ${field})`, at);
      else absent.push(`${struct}.${field}`);
    }
  }
  const directory = await Deno.makeTempDir();
  try {
    const program = `#include <stddef.h>
#include <stdio.h>
#include <linux/fuse.h>
#include <linux/stat.h>
static int bad;
static void check(const char *what, long long c, long long ts) {
  if (c != ts) { bad = 1; printf("%s: C %lld, protocol.ts %lld\\n", what, c, ts); }
}
int main(void) {
${lines.join("\n")}
return bad; }`;
    await Deno.writeTextFile(`${directory}/check.c`, program);
    const compiled = await new Deno.Command("cc", {
      args: ["-o", `${directory}/check`, `${directory}/check.c`],
    })
      .output();
    assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
    const result = await new Deno.Command(`${directory}/check`).output();
    assert.equal(new TextDecoder().decode(result.stdout), "");
    assert.ok(lines.length > 200, `only ${lines.length} comparisons`);
    if (absent.length > 0) console.log(`not in this header: ${absent.join(", ")}`);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

/** The header's name of one of our constants, and what brings its value to ours; null: ours alone. */
function constantName(ours: string): { c: string; shift: string } | null {
  if (ours.startsWith("OP_")) return { c: `FUSE_${ours.slice(3)}`, shift: "" };
  if (ours.startsWith("INIT2_")) return { c: `FUSE_${ours.slice(6)}`, shift: ">> 32" };
  if (ours.startsWith("INIT_")) return { c: `FUSE_${ours.slice(5)}`, shift: "" };
  if (ours.startsWith("FOPEN_") || ours.startsWith("FATTR_")) return { c: ours, shift: "" };
  switch (ours) {
    case "GETATTR_FH":
    case "OPEN_KILL_SUIDGID":
    case "WRITE_CACHE":
    case "WRITE_KILL_SUIDGID":
    case "FSYNC_FDATASYNC":
    case "LK_FLOCK":
      return { c: `FUSE_${ours}`, shift: "" };
    case "NOTIFY_INVAL_INODE":
    case "NOTIFY_INVAL_ENTRY":
    case "NOTIFY_DELETE":
    case "NOTIFY_INC_EPOCH":
      return { c: `FUSE_${ours}`, shift: "" };
    case "NOTIFY_EXPIRE_ONLY":
      return { c: "FUSE_EXPIRE_ONLY", shift: "" };
    case "DEV_IOC_BACKING_OPEN":
    case "DEV_IOC_BACKING_CLOSE":
      return { c: `FUSE_${ours}`, shift: "" };
    default:
      return null;
  }
}
