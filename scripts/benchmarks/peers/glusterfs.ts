/**
 * GlusterFS of Debian: a volume of two pairs of bricks, each file on the two of one pair; all options by default. (Two
 * replicas on three servers are not to be had: a number of bricks has to be a multiple of the replicas.)
 */

import { eventually } from "../../../tests/harness/command.ts";
import { Daemon, Place, PLACE_ADDRESS } from "./daemon.ts";
import { isMounted, type PeerKind, stopAll } from "./peer.ts";

const BRICKS = 4;
const REPLICAS = 2;
const VOLUME = "bench";
const READY_MS_MAX = 30_000;
/** As /etc/glusterfs/glusterd.vol of the package. */
const GLUSTERD = `volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
    option transport-type socket
    option transport.socket.keepalive-time 10
    option transport.socket.keepalive-interval 2
    option transport.socket.read-fail-log off
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
`;
/** What it keeps in the system lies in its directory, in its namespace of mounts. */
const SYSTEM_DIRECTORIES = { state: "/var/lib/glusterd", log: "/var/log/glusterfs", run: "/run/gluster" };

export const glusterfs: PeerKind = {
  name: "glusterfs",
  programs: {
    glusterd: "glusterfs-server",
    gluster: "glusterfs-server",
    glusterfs: "glusterfs-server",
    nsenter: "util-linux",
    ip: "iproute2",
  },
  async start(base) {
    const place = await Place.make(`${base}/place.log`);
    const daemons: Daemon[] = [];
    const stop = async () => {
      await stopAll(daemons);
      await place.remove();
    };
    try {
      for (const [name, path] of Object.entries(SYSTEM_DIRECTORIES)) {
        await Deno.mkdir(`${base}/${name}`);
        // Seen by nobody outside, but an empty directory may have to be made.
        await Deno.mkdir(path, { recursive: true });
        await place.run(["mount", "--bind", `${base}/${name}`, path]);
      }
      await Deno.writeTextFile(`${base}/glusterd.vol`, GLUSTERD);
      const gluster = (args: readonly string[]) => place.run(["gluster", "--mode=script", ...args]);
      daemons.push(
        await Daemon.start(
          [...place.enter, "glusterd", "--no-daemon", "-f", `${base}/glusterd.vol`],
          `${base}/glusterd.log`,
          () => gluster(["volume", "list"]).then(() => true, () => false),
        ),
      );
      const bricks = Array.from({ length: BRICKS }, (_, i) => `${base}/brick${i + 1}`);
      for (const brick of bricks) await Deno.mkdir(brick);
      await gluster([
        ...["volume", "create", VOLUME, "replica", String(REPLICAS)],
        ...bricks.map((brick) => `${PLACE_ADDRESS}:${brick}`),
        "force",
      ]);
      await gluster(["volume", "start", VOLUME]);
      const dir = `${base}/mount`;
      await Deno.mkdir(dir);
      const client = ["glusterfs", "-N", `--volfile-server=${PLACE_ADDRESS}`, `--volfile-id=${VOLUME}`];
      daemons.push(
        await Daemon.start(
          [...place.enterNetwork, ...client, "-l", `${base}/client.log`, dir],
          `${base}/client.out`,
          () => isMounted(dir),
        ),
      );
      // Mounted before it has reached the bricks.
      await eventually(READY_MS_MAX, "all bricks online", async () => {
        const xml = await gluster(["volume", "status", VOLUME, "detail", "--xml"]);
        return (xml.match(/<status>1<\/status>/g) ?? []).length >= BRICKS;
      });
      const version = /\d+\.\d+/.exec(await place.run(["glusterd", "--version"]))?.[0] ?? "";
      return {
        dir,
        pids: [place.pid, ...daemons.map(({ pid }) => pid)],
        note: `GlusterFS ${version}: ${BRICKS} bricks, replica ${REPLICAS}`,
        stop,
      };
    } catch (error) {
      await stop();
      throw error;
    }
  },
};
