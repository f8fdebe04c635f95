/** Destroys data of one dataserver, and waits until everything has all its replicas again. */

import { randomInt, type SeededRandom } from "../../base/random.ts";
import { run, sleep } from "../harness/command.ts";
import type { RoleCluster } from "../harness/role_cluster.ts";
import {
  breakFileSystem,
  type Damage,
  type DamagedReplica,
  mendFileSystem,
  tearDatabase,
  tearReplicas,
  wipe,
} from "./damage.ts";
import { COUNTED_MS, healthy } from "./health.ts";
import type { Injected } from "./faults.ts";

export type Destruction = "readonly" | "wipe" | "tear";

export interface DestructionOptions {
  readonly cluster: RoleCluster;
  readonly random: SeededRandom;
  readonly begin: (what: string, role: string) => Injected;
  readonly say: (line: string) => void;
}

const REPAIRED_MS = 90_000;
const BROKEN_MS = 4_000;
const TOUCH = decodeURIComponent(new URL("./touch_replicas.ts", import.meta.url).pathname);

export async function destroy(kind: Destruction, options: DestructionOptions): Promise<void> {
  const { cluster, random, begin, say } = options;
  const dataservers = cluster.names.filter((name) => name.startsWith("dataserver"));
  const role = kind === "readonly" ? "dataserver2" : dataservers[randomInt(random, dataservers.length)]!;
  const volume = cluster.volumeOf(Number(role.slice("dataserver".length)));
  await healthy(cluster, REPAIRED_MS);
  const injected = begin(`${role}`, role);
  try {
    if (kind === "readonly") {
      await breakFileSystem(volume);
      await sleep(BROKEN_MS);
      await cluster.kill(role);
      await mendFileSystem(volume);
      await cluster.restart(role);
    } else {
      // Killed, or stopped in order: then all is finalized.
      if (randomInt(random, 2) === 0) await cluster.kill(role);
      else await cluster.process(role).stop();
      if (await isOnlyOne(cluster)) say(`${kind}: not done, ${role} has the only replica of a block`);
      else if (kind === "wipe") await wipe(volume);
      else return await tear(role, volume, options);
      await cluster.restart(role);
    }
  } finally {
    injected.toMs = Date.now();
    await healthy(cluster, REPAIRED_MS);
    say(`${kind}: repaired`);
  }
}

/** Without the dataserver that is dead, a block has no replica. */
async function isOnlyOne(cluster: RoleCluster): Promise<boolean> {
  await sleep(COUNTED_MS + 500);
  return (await cluster.status()).missing > 0;
}

async function tear(role: string, volume: string, options: DestructionOptions): Promise<void> {
  const { cluster, random, say } = options;
  const identity = JSON.parse(await Deno.readTextFile(`${volume}/volume.json`));
  const damage: Damage = randomInt(random, 4) === 0
    ? await tearDatabase(volume, random)
    : await tearReplicas(volume, random);
  say(`tear: ${damage.what.join(", ") || "nothing was there"}`);
  try {
    await cluster.restart(role);
  } catch (error) {
    // It refuses what it can't read, and says so in one line; then the disk is replaced.
    const line = (error as Error).message.trim().split("\n").at(-1)!;
    say(`tear: ${role} does not start: ${line}`);
    if (!/^mfs: /.test(line)) throw error;
    await wipe(volume);
    return await cluster.restart(role);
  }
  await touch(role, identity, damage.replicas, options);
}

/** Has damaged replicas read, each of which is then found out; else it would be when its turn comes. */
async function touch(
  role: string,
  identity: { readonly clusterId: string; readonly volume: number },
  replicas: readonly DamagedReplica[],
  { cluster, say }: DestructionOptions,
): Promise<void> {
  if (replicas.length === 0) return;
  const { networks } = cluster;
  const address = cluster.addressOf(role);
  const list = replicas.map(({ block, generation, length }) => `${block}:${generation}:${length}`);
  const [program, ...args] = [
    ...networks?.enter(cluster.networkOf(role)) ?? [],
    ...[Deno.execPath(), "run", "--quiet", "--no-prompt", "--allow-all", "--no-check", "--frozen", TOUCH],
    ...[address, identity.clusterId, String(identity.volume), ...list],
  ];
  const { code, stdout, stderr } = await run(program!, args, { timeoutMs: 60_000 });
  if (code !== 0) throw new Error(`${TOUCH}: ${stderr}`);
  const outcomes = stdout.trim().split("\n").map((line) => line.split(" ")[1]!);
  const counts = new Map<string, number>();
  for (const outcome of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  say(`tear: read again: ${[...counts].map(([outcome, count]) => `${count} ${outcome}`).join(", ")}`);
}
