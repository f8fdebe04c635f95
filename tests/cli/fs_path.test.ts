/** Paths within the file system as commands take and show them. */

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { bytesOf } from "../../base/bytes.ts";
import { randomInt } from "../../base/random.ts";
import { formatPath, locate, parsePath } from "../../roles/admin/fs_path.ts";
import { seededTest } from "../base/seeded.ts";
import { mfs } from "../harness/cluster.ts";

Deno.test("paths: text stays as it is; bytes that are none, and what a terminal would obey, are written in hex", () => {
  for (
    const [bytes, text] of [
      [bytesOf("/a b/ä/漢/🙂"), "/a b/ä/漢/🙂"],
      [new Uint8Array([0x2f, 0xff, 0xc3, 0x2f]), "/\\xff\\xc3/"],
      [bytesOf("/a\nb\x1b\u202e"), "/a\\x0ab\\x1b\\xe2\\x80\\xae"],
      [bytesOf("/back\\slash"), "/back\\\\slash"],
      [bytesOf("/\\x41"), "/\\\\x41"],
    ] as const
  ) {
    assertEquals(formatPath(bytes), text);
    assertEquals(parsePath(text), new Uint8Array(bytes));
  }
});

seededTest("paths: whatever is shown can be given again", (random) => {
  for (let i = 0; i < 3000; i++) {
    const pool = [0x2f, 0x5c, 0x78, 0x41, 0xc3, 0xa4, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x99, 0x82, 0x0a, 0xff];
    const bytes = Uint8Array.from(
      { length: randomInt(random, 12) },
      () => random.next() < 0.7 ? pool[randomInt(random, pool.length)]! : 1 + randomInt(random, 255),
    );
    assertEquals(parsePath(formatPath(bytes)), bytes);
  }
});

Deno.test("paths: a lone backslash, a relative path and one that is on no mount say what to write", async () => {
  assertThrows(() => parsePath("/a\\b"), Error, "write a backslash as \\\\");
  assertThrows(() => parsePath("/a\\xg0"), Error, "write a backslash as \\\\");
  await assertRejects(() => locate("a", "n:1"), Error, "write /a");
  await assertRejects(() => locate("/proc/self", undefined), Error, "not on a mount of MaggieFS");
  await assertRejects(() => locate("/no/such", undefined), Error, "/no/such");
  assertEquals(await locate("/a\\xff", "n:1"), {
    nameserver: "n:1",
    path: new Uint8Array([0x2f, 0x61, 0xff]),
  });
});

Deno.test({
  name: "paths: setrep and fsck refuse bad input in one line",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const cases: [string[], number, RegExp][] = [
      [["setrep", "17", "/x"], 2, /from 0 to 16/],
      [["setrep", "3"], 2, /missing required argument 'path'/],
      [["setrep", "3", "/proc"], 1, /not on a mount of MaggieFS/],
      [["setrep", "3", "/a", "--nameserver", "127.0.0.1:1"], 1, /127\.0\.0\.1:1/],
      [["fsck", "--verify-rate", "0"], 2, /from 1/],
      [["fsck", "/proc"], 3, /not on a mount of MaggieFS/],
      [["fsck", "--nameserver", "127.0.0.1:1"], 3, /127\.0\.0\.1:1/],
    ];
    await Promise.all(cases.map(async ([args, code, line]) => {
      const result = await mfs(args);
      assertEquals([result.code, result.stdout], [code, ""], args.join(" "));
      assertMatch(result.stderr, /^mfs: [a-z]+: [^\n]+\n$/);
      assertMatch(result.stderr, line);
    }));
  },
});
