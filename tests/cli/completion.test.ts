/** Completion and man page: made from the commands, and right for the programs that read them. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { mfs } from "../harness/cluster.ts";
import { hasProgram, run } from "../harness/command.ts";

const MODES = { bash: ["-n"], zsh: ["-n"], fish: ["--no-execute"] } as const;

async function inFile<T>(text: string, use: (file: string) => Promise<T>): Promise<T> {
  const file = await Deno.makeTempFile({ prefix: "mfs-test-" });
  try {
    await Deno.writeTextFile(file, text);
    return await use(file);
  } finally {
    await Deno.remove(file);
  }
}

for (const [shell, mode] of Object.entries(MODES)) {
  Deno.test({
    name: `completion: ${shell} takes it`,
    ignore: !hasProgram(shell),
    async fn() {
      const { code, stdout } = await mfs(["completion", shell]);
      assertEquals(code, 0);
      const checked = await inFile(stdout, (file) => run(shell, [...mode, file]));
      assertEquals([checked.code, checked.stderr], [0, ""]);
    },
  });
}

Deno.test("completion: bash completes commands, flags and their values", async () => {
  const { stdout } = await mfs(["completion", "bash"]);
  const complete = (...words: string[]) =>
    inFile(stdout, async (file) => {
      const list = words.map((word) => `'${word}'`).join(" ");
      const script = `source ${file}; COMP_WORDS=(${list}); COMP_CWORD=${
        words.length - 1
      }; _mfs; echo "\${COMPREPLY[@]}"`;
      return (await run("bash", ["-c", script])).stdout.trim();
    });
  assertEquals(await complete("mfs", "names"), "nameserver");
  assertEquals(await complete("mfs", "dataserver", "--vol"), "--volume");
  assertEquals(await complete("mfs", "mount", "--atime", ""), "relatime strict off");
  assert(!(await complete("mfs", "")).includes("bench-worker"), "what mfs starts for itself");
});

Deno.test("man page: has every command", async () => {
  const { stdout } = await mfs(["man"]);
  for (const name of ["nameserver", "dataserver", "mount", "fsck"]) {
    assertStringIncludes(stdout, `.SS mfs ${name} `);
  }
});

Deno.test({
  name: "man page: groff has nothing to say",
  ignore: !hasProgram("groff"),
  async fn() {
    const { stdout } = await mfs(["man"]);
    const checked = await inFile(stdout, (file) => run("groff", ["-man", "-Tutf8", "-ww", "-z", file]));
    assertEquals([checked.code, checked.stderr], [0, ""]);
  },
});
