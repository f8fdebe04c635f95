/** The executable under test: scripts/test builds it once for all; a test that is run by itself builds its own. */

import { HOST_TARGET } from "../../scripts/release/base_binary.ts";
import { compile } from "../../scripts/release/compile.ts";

/** Its path; made in `dir` if need be. */
export async function builtExecutable(dir: string): Promise<string> {
  const given = Deno.env.get("MFS_TEST_EXECUTABLE");
  if (given) return given;
  const executable = `${dir}/mfs`;
  console.log(await compile({ target: HOST_TARGET, output: executable }));
  return executable;
}
