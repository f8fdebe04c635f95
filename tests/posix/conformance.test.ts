/**
 * The conformance suite: the tables of conformance/topics/, run on a mount of a small cluster and on ext4, and every answer
 * compared. The calls are made by interpreters (conformance/interpreter.c): children with a time limit.
 *
 * To see one topic only: --filter "conformance", MFS_TEST_TOPIC=NAME.
 */

import assert from "node:assert/strict";
import { hasProgram, sh } from "../harness/command.ts";
import { runOn } from "./conformance/run.ts";
import { compare, scriptOf, type Topic } from "./conformance/script.ts";
import { TOPICS } from "./conformance/topics/index.ts";
import { readOnly } from "./conformance/topics/read_only.ts";
import { referenceImage } from "./reference.ts";
import { SmallCluster } from "./small_cluster_process.ts";

const BLOCK_BYTES = 100_000;
const IMAGE_MIB = 512;
const IMAGE_INODES = 131_072;
const SHOWN = 40;
const HERE = decodeURIComponent(new URL("./conformance/", import.meta.url).pathname);
const compiler = ["cc", "gcc", "clang"].find(hasProgram);
const asked = Deno.env.get("MFS_TEST_TOPIC");

Deno.test({
  name: "conformance: every call is answered as on ext4",
  // Only root can be several users.
  ignore: Deno.uid() !== 0 || compiler === undefined,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn(t) {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    const reference = await referenceImage(cluster.scratch, IMAGE_MIB, IMAGE_INODES);
    try {
      if (!reference.isExt4) return console.log("skipped: this machine has no ext4 to compare with");
      const interpreter = `${cluster.scratch}/interpreter`;
      await sh(`${compiler} -O1 -w -o ${interpreter} ${HERE}*.c`);
      let calls = 0;
      let differing = 0;
      for (const topic of TOPICS.filter(({ name }) => asked === undefined || name === asked)) {
        await t.step({
          name: topic.name,
          sanitizeOps: false,
          sanitizeResources: false,
          async fn() {
            const script = scriptOf(topic);
            const places = [cluster.mountpoints[0], reference.dir];
            const [onMount, onExt4] = await Promise.all(
              places.map((dir) =>
                runOn(interpreter, `${dir}/${topic.name.replaceAll(" ", "_")}`, script.text)
              ),
            );
            const { compared, differences } = compare(topic, script, onMount!, onExt4!);
            calls += compared;
            differing += differences.length;
            if (differences.length > 0) {
              const more = differences.length > SHOWN ? `\n... ${differences.length - SHOWN} more` : "";
              throw new Error(`${differences.slice(0, SHOWN).join("\n")}${more}`);
            }
          },
        });
      }
      assert.ok(calls > 0, `there is no topic ${asked}`);
      console.log(`${calls.toLocaleString("en-US")} calls compared, ${differing} differ`);
      await cluster.stop();
    } finally {
      await reference.remove();
    }
  },
});

Deno.test({
  name: "conformance: a mount that is read-only refuses what ext4 does, or says what it says",
  ignore: Deno.uid() !== 0 || compiler === undefined,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES, ["", "ro"]);
    const reference = await referenceImage(cluster.scratch, IMAGE_MIB, IMAGE_INODES);
    try {
      if (!reference.isExt4) return console.log("skipped: this machine has no ext4 to compare with");
      const interpreter = `${cluster.scratch}/interpreter`;
      await sh(`${compiler} -O1 -w -o ${interpreter} ${HERE}*.c`);
      const asked = async (topic: Topic, dirs: readonly string[]) => {
        const script = scriptOf(topic);
        const answers = await Promise.all(dirs.map((dir) => runOn(interpreter, `${dir}/asked`, script.text)));
        return compare(topic, script, answers[0]!, answers[1]!);
      };
      const [writable, mount] = cluster.mountpoints;
      const made = await asked(readOnly.before, [writable, reference.dir]);
      assert.deepEqual(made.differences, []);
      await sh(`mount -o remount,ro ${reference.dir}`);
      for (const dir of [mount, writable]) {
        const { compared, differences } = await asked(readOnly.after, [dir, reference.dir]);
        assert.deepEqual(differences.slice(0, SHOWN), []);
        console.log(`${compared.toLocaleString("en-US")} calls compared`);
        // The other mount becomes so later.
        if (dir === mount) await sh(`mount -i -o remount,ro ${writable}`);
      }
      await cluster.stop();
    } finally {
      await reference.remove();
    }
  },
});
