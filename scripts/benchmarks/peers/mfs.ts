/** MaggieFS as it is in production: a nameserver, three dataservers and a mount, each a process; two replicas. */

import { run } from "../../../tests/harness/command.ts";
import { MFS, MfsProcess } from "../../../tests/harness/process.ts";
import { freePort } from "../../../roles/singlenode/supervisor.ts";
import { type PeerKind, stopAll } from "./peer.ts";

const DATASERVERS = 3;
const REPLICAS = 2;
const LOOPBACK = "127.0.0.1";

export const mfs: PeerKind = {
  name: "mfs",
  programs: {},
  async start(base) {
    const roles: MfsProcess[] = [];
    const parts = () =>
      roles.map((role) => ({
        stop: async () => {
          // A clean stop writes what is waiting; the data is about to be removed.
          role.kill();
          await role.ended(5_000);
        },
      }));
    try {
      const nameserver = `${LOOPBACK}:${freePort(LOOPBACK)}`;
      const formatted = await run(MFS, ["format", "--dir", `${base}/nameserver`]);
      if (formatted.code !== 0) throw new Error(formatted.stderr);
      roles.push(
        await MfsProcess.start([
          ...["nameserver", "--dir", `${base}/nameserver`, "--listen", nameserver],
          ...["--replication", String(REPLICAS)],
        ]),
      );
      for (let i = 1; i <= DATASERVERS; i++) {
        const volume = `${base}/volume${i}`;
        await Deno.mkdir(volume);
        roles.push(
          await MfsProcess.start([
            ...["dataserver", "--nameserver", nameserver, "--volume", volume, "--host", `node${i}`],
            ...["--listen", `${LOOPBACK}:${freePort(LOOPBACK)}`],
          ]),
        );
      }
      const dir = `${base}/mount`;
      await Deno.mkdir(dir);
      roles.push(await MfsProcess.start(["mount", nameserver, dir, "--foreground", "--host", "node1"]));
      return {
        dir,
        pids: roles.map(({ pid }) => pid),
        note:
          `${DATASERVERS} dataservers, replication ${REPLICAS}, a mount on the host of the first; all by default`,
        stop: () => stopAll(parts()),
      };
    } catch (error) {
      await stopAll(parts());
      throw error;
    }
  },
};
