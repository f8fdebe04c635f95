/**
 * Thousands of configuration files and command lines that somebody got wrong, from a seed (MFS_TEST_SEED): each is taken, or
 * refused in one line that names the place; nothing else comes of it. Some of them by real processes, which start nothing.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Command, CommanderError } from "commander";
import { type Random, randomInt } from "../../base/random.ts";
import { configTemplate, RoleSettings } from "../../roles/admin/config.ts";
import { messageOf, UsageError } from "../../roles/admin/process.ts";
import { program } from "../../roles/cli/flags.ts";
import "../../roles/cli/servers.ts";
import "../../roles/cli/mounts.ts";
import "../../roles/cli/operation.ts";
import { chance, pick, seededTest } from "../base/seeded.ts";
import { run } from "../harness/command.ts";
import { MFS } from "../harness/process.ts";

const FILES = 5_000;
const LINES = 5_000;
/** So many of them as processes of their own. */
const PROCESSES = 12;
const ROLES = ["nameserver", "dataserver", "mount"] as const;
const JUNK = [
  "",
  "\0",
  "\ufeff",
  "=",
  "[",
  "]",
  '"',
  "'''",
  "#",
  "\r",
  "\\u12",
  "-1",
  "1e309",
  "nan",
  "99999999999999999999",
  "true",
  "[[x]]",
  "1979-05-27",
  "ü",
  "a.b = 1\n",
  "\t",
  "{",
  "--",
  "/dev/null",
  "127.0.0.1:0",
  "host:70000",
];

const role = (name: string): Command => program.commands.find((one) => one.name() === name)!;

/** Parses, and does nothing. */
for (const command of program.commands) command.action(() => {});

function mutated(random: Random, text: string): string {
  for (let times = 1 + randomInt(random, 3); times > 0; times--) {
    const at = randomInt(random, text.length + 1);
    const lines = text.split("\n");
    const line = randomInt(random, lines.length);
    switch (randomInt(random, 7)) {
      case 0:
        text = text.slice(0, at) + pick(random, JUNK) + text.slice(at);
        break;
      case 1:
        text = text.slice(0, at) + text.slice(at + 1 + randomInt(random, 4));
        break;
      case 2:
        text = text.slice(0, at);
        break;
      case 3:
        lines.splice(line, 0, lines[randomInt(random, lines.length)]!);
        text = lines.join("\n");
        break;
      case 4:
        lines[line] = lines[line]!.replace(/= .*/, `= ${pick(random, JUNK)}`);
        text = lines.join("\n");
        break;
      case 5:
        lines[line] = lines[line]!.replace(/^(#?)([a-z])([a-z])/, "$1$3$2");
        text = lines.join("\n");
        break;
      default:
        lines[line] = lines[line]!.replace(/^#/, "");
        text = lines.join("\n");
    }
  }
  return text;
}

const oneLine = (message: string) => {
  assertEquals(message.trim().split("\n").length, 1, JSON.stringify(message));
  assert(message.length < 1_000, message);
};

seededTest(
  "configuration: files that were got wrong are refused in one line with their place",
  async (random) => {
    const dir = Deno.makeTempDirSync({ prefix: "mfs-test-" });
    const file = `${dir}/role.toml`;
    const refused: [string, string][] = [];
    try {
      for (let i = 0; i < FILES; i++) {
        const name = pick(random, ROLES);
        const template = configTemplate(role(name));
        const text = mutated(
          random,
          chance(random, 0.5) ? template.replace(/^#(?=[a-z-]+ = )/gm, "") : template,
        );
        Deno.writeTextFileSync(file, text);
        role(name).setOptionValueWithSource("config", file, "cli");
        try {
          new RoleSettings(role(name)).merge();
        } catch (error) {
          if (!(error instanceof UsageError)) throw new Error(text, { cause: error });
          oneLine(error.message);
          assertMatch(error.message, /role\.toml(:\d+)?: /);
          refused.push([name, text]);
        }
      }
      assert(refused.length > FILES / 20 && refused.length < FILES, `${refused.length} were refused`);
      for (let i = 0; i < PROCESSES; i++) {
        const [name, text] = pick(random, refused);
        Deno.writeTextFileSync(file, text);
        const { code, stdout, stderr } = await run(MFS, [name, "--config", file], { timeoutMs: 30_000 });
        assertEquals([code, stdout], [2, ""], stderr);
        oneLine(stderr);
      }
      assertEquals([...Deno.readDirSync(dir)].map(({ name }) => name), ["role.toml"]);
    } finally {
      Deno.removeSync(dir, { recursive: true });
    }
  },
);

seededTest("command lines that were got wrong are refused in one line", async (random) => {
  const refused: string[][] = [];
  for (let i = 0; i < LINES; i++) {
    const command = pick(random, program.commands);
    const words = [command.name()];
    for (let count = randomInt(random, 5); count > 0; count--) {
      const option = command.options[randomInt(random, Math.max(1, command.options.length))];
      const flag = option?.long ?? option?.short ?? "--nothing";
      words.push(chance(random, 0.2) ? mutated(random, flag) : flag);
      if (chance(random, 0.7)) words.push(pick(random, [...JUNK, "5", "/x", "10.0.0.1:7400"]));
    }
    if (chance(random, 0.1)) words[0] = mutated(random, words[0]!);
    try {
      await program.parseAsync(words, { from: "user" });
    } catch (error) {
      const isOurs = error instanceof CommanderError || error instanceof UsageError;
      if (!isOurs) throw new Error(JSON.stringify(words), { cause: error });
      if (error instanceof CommanderError && error.exitCode === 0) continue; // --help
      if (error.message === "(outputHelp)") continue;
      oneLine(messageOf(error));
      // What the kernel gives to no process, and what would be run (a mount, a listing) if it were right elsewhere.
      if (!words.some((word) => word.includes("\0"))) refused.push(words);
    }
  }
  assert(refused.length > LINES / 10, `${refused.length} were refused`);
  for (let i = 0; i < PROCESSES; i++) {
    const words = pick(random, refused);
    const { code, stderr } = await run(MFS, words, { timeoutMs: 30_000 });
    assertEquals(code, 2, `${JSON.stringify(words)}: ${stderr}`);
    if (!stderr.startsWith("Usage:")) oneLine(stderr);
  }
});
