import assert from "node:assert/strict";
import { asFsError, ERRNO, errnoName, FsError, isErrno, isTransportError } from "../../wire/errno.ts";
import { decodeError, encodeError } from "../../wire/error_message.ts";

Deno.test("errno: names and numbers lead to each other; an unknown number is EIO", () => {
  for (const [name, number] of Object.entries(ERRNO)) assert.equal(errnoName(number), name);
  assert.equal(errnoName(0), "EIO");
  assert.equal(errnoName(9999), "EIO");
});

Deno.test("errno: the numbers are the C compiler's", async () => {
  const header = `#include <errno.h>\n${Object.keys(ERRNO).map((name) => `"${name}" ${name}`).join("\n")}\n`;
  const process = new Deno.Command("cc", {
    args: ["-E", "-P", "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const writer = process.stdin.getWriter();
  await writer.write(new TextEncoder().encode(header));
  await writer.close();
  const text = new TextDecoder().decode((await process.output()).stdout);
  const theirs = Object.fromEntries(
    [...text.matchAll(/"(E\w+)"\s+(\d+)/g)].map(([, name, number]) => [name, Number(number)]),
  );
  assert.deepEqual(theirs, { ...ERRNO });
});

Deno.test("errno: foreign errors keep a known code, all else is EIO with its cause", () => {
  const ours = new FsError("EBUSY", "busy", { op: "x" });
  assert.equal(asFsError(ours, "y"), ours);
  const system = asFsError(Object.assign(new Error("no"), { code: "ENOSPC" }), "write");
  assert.ok(isErrno(system, "ENOSPC") && system.op === "write");
  for (const thrown of [new Error("no"), "text", null, undefined, { code: "toString" }, { code: 5 }]) {
    const error = asFsError(thrown, "read");
    assert.equal(error.errno, "EIO");
    assert.equal(error.cause, thrown);
  }
});

Deno.test("errno: an error travels with errno, message and operation; what is strange arrives as EIO", () => {
  const arrived = decodeError(encodeError(new FsError("ENOTEMPTY", "not empty", { op: "rmdir" })));
  assert.deepEqual([arrived.errno, arrived.message, arrived.op], ["ENOTEMPTY", "not empty", "rmdir"]);
  assert.equal(decodeError(encodeError(new TypeError("bug"))).errno, "EIO");
  for (
    const value of [null, undefined, 5, "x", [], {}, { errno: 7 }, { errno: "EFUTURE" }, {
      errno: "__proto__",
    }]
  ) {
    assert.equal(decodeError(value).errno, "EIO");
  }
});

Deno.test("errno: transport errors are told from the file system's", () => {
  for (const errno of ["ENOTCONN", "ETIMEDOUT", "ECONNREFUSED", "EHOSTUNREACH", "ESHUTDOWN"] as const) {
    assert.ok(isTransportError(new FsError(errno, "")));
  }
  for (const errno of ["ENOENT", "EIO", "EINTR", "ENOSPC", "ESTALE", "EPROTO"] as const) {
    assert.ok(!isTransportError(new FsError(errno, "")));
  }
  assert.ok(!isTransportError(new Error("x")));
});
