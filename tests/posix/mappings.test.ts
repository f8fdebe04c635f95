/** Mappings of files that are truncated, extended and written beside them. */

import assert from "node:assert/strict";
import { hasProgram, sh } from "../harness/command.ts";
import { SmallCluster } from "./small_cluster_process.ts";

const BLOCK_BYTES = 100_000;
const SECONDS = 3;
const HERE = decodeURIComponent(new URL("./mappings/", import.meta.url).pathname);
const compiler = ["cc", "gcc", "clang"].find(hasProgram);

Deno.test({
  name: "mappings: while a file is mapped and truncated here, and written there, nobody stands still",
  ignore: compiler === undefined,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    const [here, there] = cluster.mountpoints;
    const program = `${cluster.scratch}/truncated`;
    await sh(`${compiler} -O1 -w -o ${program} ${HERE}truncated.c -lpthread`);
    assert.equal(await sh(`timeout -s KILL 30 ${program} ${here}/f ${there}/f ${SECONDS}`), "ok");
    await cluster.stop();
  },
});

Deno.test({
  name: "mappings: what was stored is data for lseek, and none where a file grows over what was past its end",
  ignore: compiler === undefined,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    const [here, there] = cluster.mountpoints;
    for (
      const [name, files] of [["past_the_end", [`${here}/f`, `${there}/f`]], ["holes", [
        `${here}/h`,
      ]]] as const
    ) {
      const program = `${cluster.scratch}/${name}`;
      await sh(`${compiler} -O1 -w -o ${program} ${HERE}${name}.c`);
      assert.equal(await sh(`timeout -s KILL 30 ${program} ${files.join(" ")}`), "ok");
    }
    await cluster.stop();
  },
});
