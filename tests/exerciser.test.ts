/** The exerciser (exerciser.ts) with fixed seeds, for a short time: by hand it runs as long as one likes. */

import { assertEquals } from "@std/assert";
import { hasProgram, run } from "./harness/command.ts";
import { childArguments } from "./posix/small_cluster_process.ts";

const PROGRAM = decodeURIComponent(new URL("./exerciser.ts", import.meta.url).pathname);
const LIMIT_MS = 150_000;

for (const [seed, operations, ...more] of [[1, 400], [2, 200, "--tcp"]] as const) {
  Deno.test({
    name: `exerciser: files on two mounts equal their model, seed ${seed} ${more}`,
    ignore: !["cc", "gcc", "clang"].some(hasProgram),
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const args = ["--seed", String(seed), "--operations", String(operations), ...more];
      const { code, stderr } = await run(Deno.execPath(), [...childArguments(PROGRAM), ...args], {
        timeoutMs: LIMIT_MS,
        env: { NO_COLOR: "1" },
      });
      assertEquals(code, 0, `scripts/test exerciser ${args.join(" ")}\n${stderr}`);
    },
  });
}
