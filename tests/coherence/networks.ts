/**
 * Network namespaces for a cluster whose mounts can be cut off: one for the servers, with a bridge in it, and one for
 * each mount, with a link to a port of that bridge. The namespaces of the machine itself are left alone, so that several
 * clusters may use the same addresses at once. Needs root and ip(8).
 */

import { run, sh } from "../harness/command.ts";
import { forgetCleanUp, trackCleanUp } from "../harness/scratch.ts";

const PREFIX = "mfs-coherence-";
/** Of the servers; mount 1 has 10.77.0.1. */
const SERVER_ADDRESS = "10.77.0.254";
let made = 0;

export class Networks {
  readonly serverAddress = SERVER_ADDRESS;
  /** That of the servers first. */
  readonly #names: readonly string[];
  readonly #remove = () => this.remove();

  private constructor(names: readonly string[]) {
    this.#names = names;
  }

  static async make(mounts: number): Promise<Networks> {
    await removeOrphans();
    const id = `${PREFIX}${Deno.pid}-${++made}`;
    const networks = new Networks([`${id}-0`, ...Array.from({ length: mounts }, (_, i) => `${id}-${i + 1}`)]);
    trackCleanUp(networks.#remove);
    try {
      await networks.#make();
      return networks;
    } catch (error) {
      await networks.remove();
      throw error;
    }
  }

  async #make(): Promise<void> {
    const [servers, ...mounts] = this.#names;
    await sh(`ip netns add ${servers}
      ip -n ${servers} link set lo up
      ip -n ${servers} link add bridge type bridge
      ip -n ${servers} address add ${SERVER_ADDRESS}/24 dev bridge
      ip -n ${servers} link set bridge up`);
    for (const [i, mount] of mounts.entries()) {
      await sh(`ip netns add ${mount}
        ip -n ${mount} link set lo up
        ip link add eth0 netns ${mount} type veth peer name port${i + 1} netns ${servers}
        ip -n ${servers} link set port${i + 1} master bridge up
        ip -n ${mount} address add 10.77.0.${i + 1}/24 dev eth0
        ip -n ${mount} link set eth0 up`);
    }
  }

  /** What runs a program in the servers' namespace (0) or a mount's (1 ...), and becomes it. Mounts stay visible. */
  enter(which: number): readonly [string, ...string[]] {
    return ["nsenter", `--net=/run/netns/${this.#names[which]}`, "--"];
  }

  /** Cuts a mount off, or joins it again. What was sent meanwhile is lost, and nobody is told. */
  async setLink(mount: number, up: boolean): Promise<void> {
    await sh(`ip -n ${this.#names[0]} link set port${mount} ${up ? "up" : "down"}`);
  }

  /** Takes all away; links go with their namespaces. Never rejects. */
  async remove(): Promise<void> {
    forgetCleanUp(this.#remove);
    await removeNamespaces(this.#names);
  }
}

async function removeNamespaces(names: readonly string[]): Promise<void> {
  for (const name of names) await run("ip", ["netns", "delete", name], { timeoutMs: 10_000 }).catch(() => {});
}

/** Namespaces of a run that was killed: their name says which process made them. */
async function removeOrphans(): Promise<void> {
  const list = (await run("ip", ["netns", "list"])).stdout.split("\n").map((line) => line.split(" ")[0]!);
  await removeNamespaces(list.filter((name) => {
    const pid = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    return pid !== undefined && !exists(`/proc/${pid}`);
  }));
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
