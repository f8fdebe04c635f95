/** MooseFS of Debian: a master, three chunkservers, a mount; two replicas of each file. All else by default. */

import { eventually, run } from "../../../tests/harness/command.ts";
import { Daemon, Place, PLACE_ADDRESS } from "./daemon.ts";
import { isMounted, type PeerKind, stopAll } from "./peer.ts";

const CHUNKSERVERS = 3;
const REPLICAS = 2;
const CHUNKSERVER_PORT = 9431;
/** An empty tree, of the package. */
const EMPTY_METADATA = "/var/lib/mfs/metadata.mfs.empty";
/** Its processes would otherwise go before all others of the machine (-19), which the others here don't. */
const COMMON = ["WORKING_USER = root", "WORKING_GROUP = root", "NICE_LEVEL = 0"];

const READY_MS_MAX = 30_000;

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

async function version(): Promise<string> {
  const { stdout, stderr } = await run("mfsmaster", ["-v"]);
  return /\d+\.\d+\.\d+/.exec(stdout + stderr)?.[0] ?? "";
}

async function writeConfig(path: string, lines: readonly string[]): Promise<void> {
  await Deno.writeTextFile(path, [...lines, ""].join("\n"));
}

export const moosefs: PeerKind = {
  name: "moosefs",
  programs: {
    mfsmaster: "moosefs-master",
    mfschunkserver: "moosefs-chunkserver",
    mfsmount: "moosefs-client",
    mfssetgoal: "moosefs-client",
    nsenter: "util-linux",
    ip: "iproute2",
  },
  async start(base) {
    if (!await exists(EMPTY_METADATA)) {
      throw new Error(`${EMPTY_METADATA} is missing: apt-get install --reinstall moosefs-master`);
    }
    const place = await Place.make(`${base}/place.log`);
    const daemons: Daemon[] = [];
    const stop = async () => {
      await stopAll(daemons);
      await place.remove();
    };
    try {
      await Deno.mkdir(`${base}/master`);
      await Deno.copyFile(EMPTY_METADATA, `${base}/master/metadata.mfs`);
      await writeConfig(`${base}/exports.cfg`, ["* / rw,alldirs,admin,maproot=0:0"]);
      await writeConfig(`${base}/master.cfg`, [
        ...COMMON,
        `DATA_PATH = ${base}/master`,
        `EXPORTS_FILENAME = ${base}/exports.cfg`,
      ]);
      const serve = async (program: string, name: string) => {
        const log = `${base}/${name}.log`;
        daemons.push(
          await Daemon.start(
            [...place.enter, program, "-f", "-c", `${base}/${name}.cfg`, "start"],
            log,
            (said) => /initialized properly/.test(said),
          ),
        );
      };
      await serve("mfsmaster", "master");
      for (let i = 1; i <= CHUNKSERVERS; i++) {
        const name = `chunkserver${i}`;
        await Deno.mkdir(`${base}/${name}`);
        await Deno.mkdir(`${base}/volume${i}`);
        await writeConfig(`${base}/${name}.hdd`, [`${base}/volume${i}`]);
        await writeConfig(`${base}/${name}.cfg`, [
          ...COMMON,
          `DATA_PATH = ${base}/${name}`,
          `HDD_CONF_FILENAME = ${base}/${name}.hdd`,
          `MASTER_HOST = ${PLACE_ADDRESS}`,
          `CSSERV_LISTEN_PORT = ${CHUNKSERVER_PORT + i}`,
        ]);
        await serve("mfschunkserver", name);
      }
      const dir = `${base}/mount`;
      await Deno.mkdir(dir);
      const mount = await Daemon.start(
        [...place.enterNetwork, "mfsmount", "-f", "-H", PLACE_ADDRESS, "-o", "mfsnice=0", dir],
        `${base}/mount.log`,
        () => isMounted(dir),
      );
      daemons.push(mount);
      await eventually(READY_MS_MAX, "three chunkservers", () => {
        const registered =
          Deno.readTextFileSync(`${base}/master.log`).match(/^mfsmaster\[\d+\]: .*register end/gm) ?? [];
        return registered.length >= CHUNKSERVERS;
      });
      await place.run(["mfssetgoal", String(REPLICAS), dir], place.enterNetwork);
      return {
        dir,
        pids: daemons.map(({ pid }) => pid),
        note:
          `MooseFS ${await version()}: ${CHUNKSERVERS} chunkservers, goal ${REPLICAS}, its fsync does not reach the disks`,
        stop,
      };
    } catch (error) {
      await stop();
      throw error;
    }
  },
};
