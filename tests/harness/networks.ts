/**
 * Network namespaces for a cluster whose hosts can be cut off: one with a bridge in it, where servers may run, and one
 * for each host, with a link to a port of that bridge. The namespaces of the machine itself are left alone, so that
 * several clusters may use the same addresses at once. Needs root and ip(8).
 */

import { run, sh } from "./command.ts";
import { forgetCleanUp, trackCleanUp } from "./scratch.ts";

const PREFIX = "mfs-test-";
const BRIDGE_HOST = 254;
/** Nobody has it: what is sent there is lost, and the sender is not told. */
const NOWHERE = "02:00:00:00:00:fe";
let made = 0;

export class Networks {
  /** That of the bridge first. */
  readonly #names: readonly string[];
  readonly #remove = () => this.remove();

  private constructor(names: readonly string[]) {
    this.#names = names;
  }

  static async make(hosts: number): Promise<Networks> {
    await removeOrphans();
    const id = `${PREFIX}${Deno.pid}-${++made}`;
    const networks = new Networks([`${id}-0`, ...Array.from({ length: hosts }, (_, i) => `${id}-${i + 1}`)]);
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
    const [bridge, ...hosts] = this.#names;
    await sh(`ip netns add ${bridge}
      ip -n ${bridge} link set lo up
      ip -n ${bridge} link add bridge type bridge
      ip -n ${bridge} address add ${this.address(0)}/24 dev bridge
      ip -n ${bridge} link set bridge up`);
    for (const [i, host] of hosts.entries()) {
      await sh(`ip netns add ${host}
        ip -n ${host} link set lo up
        ip link add eth0 netns ${host} type veth peer name port${i + 1} netns ${bridge}
        ip -n ${bridge} link set port${i + 1} master bridge up
        ip -n ${host} address add ${this.address(i + 1)}/24 dev eth0
        ip -n ${host} link set eth0 up`);
    }
  }

  /** The address of a host (1 ...), or of the namespace with the bridge (0). */
  address(host: number): string {
    return `10.77.0.${host === 0 ? BRIDGE_HOST : host}`;
  }

  /** What runs a program in a host's namespace, and becomes it. Mounts stay visible. */
  enter(host: number): readonly [string, ...string[]] {
    return ["nsenter", `--net=/run/netns/${this.#names[host]}`, "--"];
  }

  /** Cuts a host (1 ...) off from all others, or joins it again. What was sent meanwhile is lost, and nobody is told. */
  async setLink(host: number, up: boolean): Promise<void> {
    await sh(`ip -n ${this.#names[0]} link set port${host} ${up ? "up" : "down"}`);
  }

  /** What one host sends to another is lost, or arrives again; the way back is not touched. */
  async setDropped(from: number, to: number, dropped: boolean): Promise<void> {
    const entry = `${this.address(to)} dev ${from === 0 ? "bridge" : "eth0"}`;
    await sh(
      dropped
        ? `ip -n ${this.#names[from]} neigh replace ${entry} lladdr ${NOWHERE} nud permanent`
        : `ip -n ${this.#names[from]} neigh del ${entry}`,
    );
  }

  /** What a host (1 ...) sends leaves at so many bits a second; null: as fast as it can. */
  async setRate(host: number, bitsPerSecond: number | null): Promise<void> {
    const shape = `tc qdisc add dev eth0 root tbf rate ${bitsPerSecond} burst 64k latency 500ms`;
    const script = bitsPerSecond === null ? "tc qdisc del dev eth0 root" : shape;
    await sh(`${this.enter(host).join(" ")} ${script}`);
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
