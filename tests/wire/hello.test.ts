import assert from "node:assert/strict";
import { isErrno } from "../../wire/errno.ts";
import { PROTOCOL_VERSION } from "../../wire/frame.ts";
import { VERSION } from "../../base/version.ts";
import { checkHello, helloOf } from "../../wire/hello.ts";

const good = helloOf("client", "cluster", "host:/mnt");
const refused = (hello: unknown) =>
  assert.throws(() => checkHello(hello, "cluster", "nameserver"), (error) => isErrno(error, "EPROTO"));

Deno.test("hello: ours is answered with version, cluster and role", () => {
  for (const hello of [good, { ...good, clusterId: "" }]) {
    const { reply } = checkHello(hello, "cluster", "nameserver", 1.5e12);
    const own = { clusterId: "cluster", role: "nameserver", program: VERSION, nowMs: 1.5e12 };
    assert.deepEqual(reply, { version: PROTOCOL_VERSION, ...own });
  }
});

Deno.test("hello: unknown fields and wider version ranges are accepted", () => {
  checkHello({ ...good, versionMin: 0, versionMax: 99, token: "later" }, "cluster", "nameserver");
});

Deno.test("hello: another cluster is refused", () => {
  refused({ ...good, clusterId: "other" });
  refused({ ...good, clusterId: "Cluster" });
});

Deno.test("hello: a version range without ours is refused", () => {
  refused({ ...good, versionMin: PROTOCOL_VERSION + 1, versionMax: PROTOCOL_VERSION + 5 });
  refused({ ...good, versionMin: 0, versionMax: PROTOCOL_VERSION - 1 });
});

Deno.test("hello: a version range that is no range is refused", () => {
  refused({ ...good, versionMin: NaN, versionMax: NaN });
});

Deno.test("hello: what is no HELLO is refused", () => {
  for (const what of [null, undefined, 5, "hello", [], {}, new Uint8Array(9)]) refused(what);
  for (const field of Object.keys(good)) {
    refused(Object.fromEntries(Object.entries(good).filter(([name]) => name !== field)));
    refused({ ...good, [field]: [] });
  }
});
