import assert from "node:assert/strict";
import { type LocalServer, ProcessDialer } from "../../wire/dialer.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { helloOf } from "../../wire/hello.ts";
import type { CallContext } from "../../wire/service.ts";

const server: LocalServer = {
  role: "nameserver",
  clusterId: () => "home",
  handlers: new Map<number, (request: unknown, context: CallContext) => unknown>([[1, (request) => request]]),
};
const options = { hello: helloOf("client", "home", "x"), expectRole: "nameserver" } as const;
const remote = { dial: () => Promise.reject(new FsError("ECONNREFUSED", "remote")) };

Deno.test("dialer: an announced server is reached directly, any other through the network", async () => {
  const dialer = new ProcessDialer(remote);
  dialer.announce("h:1", server);
  assert.ok(dialer.isLocal("h:1") && !dialer.isLocal("h:2"));
  const { channel, clusterId } = await dialer.dial("h:1", options);
  assert.equal(clusterId, "home");
  assert.deepEqual(await channel.call(1, { a: 1 }), { a: 1 });
  await assert.rejects(dialer.dial("h:2", options), (error) => isErrno(error, "ECONNREFUSED"));
  channel.close();
});

Deno.test("dialer: the direct way asks for the same HELLO", async () => {
  const dialer = new ProcessDialer(remote);
  dialer.announce("h:1", server);
  const refused = (error: unknown) => isErrno(error, "EPROTO");
  await assert.rejects(dialer.dial("h:1", { ...options, hello: helloOf("client", "away", "x") }), refused);
  await assert.rejects(dialer.dial("h:1", { ...options, expectRole: "dataserver" }), refused);
});

Deno.test("dialer: a withdrawn server's channels end and it is not found any more", async () => {
  const dialer = new ProcessDialer(remote);
  dialer.announce("h:1", server);
  const { channel } = await dialer.dial("h:1", options);
  dialer.withdraw("h:1");
  await channel.closed;
  await assert.rejects(channel.call(1, {}), (error) => isErrno(error, "ENOTCONN"));
  await assert.rejects(dialer.dial("h:1", options), (error) => isErrno(error, "ECONNREFUSED"));
  dialer.withdraw("h:1");
});
