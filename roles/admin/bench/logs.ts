/** Small durable changes: a database that commits each row, and a log that grows by a line at a time. */

import { close, O_APPEND, O_CREAT, O_TRUNC, O_WRONLY, open, write } from "../../../base/libc.ts";
import { type BenchContext, check, must, scaled, timedLoop, type Workload } from "./workload.ts";

const COMMITS = 200;
const ROW_BYTES = 200;
const LINES = 20_000;
const LINE_BYTES = 100;

function removeFiles(...paths: readonly string[]): void {
  for (const path of paths) {
    try {
      Deno.removeSync(path);
    } catch {
      // Not there.
    }
  }
}

/** The n-th line. */
function fillLine(line: Uint8Array, number: number): void {
  for (let at = LINE_BYTES - 2, rest = number; at >= LINE_BYTES - 10; at--, rest = Math.floor(rest / 10)) {
    line[at] = 48 + rest % 10;
  }
}

function newLine(): Uint8Array<ArrayBuffer> {
  const line = new Uint8Array(LINE_BYTES).fill(121);
  line[LINE_BYTES - 1] = 10;
  return line;
}

function checkLines(path: string, count: number): void {
  const all = Deno.readFileSync(path);
  check(all.length === count * LINE_BYTES, `${path} has ${all.length} bytes after ${count} lines`);
  const line = newLine();
  for (let i = 0; i < count; i++) {
    fillLine(line, i);
    for (let at = 0; at < LINE_BYTES; at++) {
      if (all[i * LINE_BYTES + at] !== line[at]) check(false, `line ${i} of ${path}`);
    }
  }
}

export const LOGS: readonly Workload[] = [
  {
    name: "sqlite_commits",
    unit: "commits/s",
    about: "inserts of 200 bytes into an SQLite database, each committed",
    async run(context: BenchContext) {
      const { DatabaseSync } = await import("node:sqlite");
      const path = `${context.dir}/database`;
      removeFiles(path, `${path}-journal`);
      const database = new DatabaseSync(path);
      try {
        database.exec("create table t(a integer primary key, b blob)");
        const insert = database.prepare("insert into t(b) values(?)");
        const row = new Uint8Array(ROW_BYTES).fill(120);
        const timed = timedLoop(context.limitMs, scaled(context, COMMITS, 10), () => void insert.run(row));
        const { rows } = database.prepare("select count(*) as rows from t where b = ?").get(row) as {
          rows: number;
        };
        check(rows === timed.done, `the database has ${rows} rows of ${timed.done}`);
        const { integrity_check: verdict } = database.prepare("pragma integrity_check").get() as {
          integrity_check: string;
        };
        check(verdict === "ok", `the database: ${verdict}`);
        return timed;
      } finally {
        database.close();
      }
    },
  },
  {
    name: "append_100b",
    unit: "writes/s",
    about: "writes of 100 bytes to the end of a file",
    async run(context) {
      const path = `${context.dir}/log`;
      const fd = must(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o644), "open", path);
      const line = newLine();
      const timed = timedLoop(context.limitMs, scaled(context, LINES, 100), (i) => {
        fillLine(line, i);
        const written = write(fd, line);
        if (written !== LINE_BYTES) must(Math.min(written, -1), "write", path);
      });
      must(close(fd), "close", path);
      checkLines(path, timed.done);
      return timed;
    },
  },
];
