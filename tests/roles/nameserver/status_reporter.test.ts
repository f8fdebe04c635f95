import assert from "node:assert/strict";
import { StatusReporter } from "../../../roles/nameserver/status_reporter.ts";
import { watch } from "../../fs/client.ts";
import { makeService, REPLICATION } from "./service.ts";

Deno.test("status: while blocks are counted anew, who asks gets the figures of before after a second", async () => {
  const service = await makeService();
  const { clock, journal } = service;
  const status = new StatusReporter({
    ...service,
    clusterId: "c",
    version: "0",
    replication: REPLICATION,
  });
  const scan = journal.scan.bind(journal);
  let slow = Promise.withResolvers<void>();
  journal.scan = async (range, limit) => {
    await slow.promise;
    return await scan(range, limit);
  };
  const first = watch(status.report());
  await clock.advance(60_000);
  assert.equal(first.state, "waits", "there is nothing to tell yet");
  slow.resolve();
  assert.equal((await first.promise).missing, 0);

  await clock.advance(200_000);
  slow = Promise.withResolvers();
  const second = watch(status.report());
  const third = watch(status.report());
  await clock.advance(900);
  assert.deepEqual([second.state, third.state], ["waits", "waits"]);
  await clock.advance(200);
  assert.deepEqual([second.state, third.state], ["done", "done"]);
  slow.resolve();
  const fourth = watch(status.report());
  await clock.advance(1);
  assert.equal(fourth.state, "done");
});
