/** The local file system itself, and bindfs: the least that a file system in user space does to one. */

import { Daemon } from "./daemon.ts";
import { isMounted, type PeerKind } from "./peer.ts";

/** Whatever holds the directory; ext4 on most machines. */
export const local: PeerKind = {
  name: "ext4",
  programs: {},
  async start(base) {
    const type = new TextDecoder().decode(
      (await new Deno.Command("df", { args: ["--output=fstype", base] }).output()).stdout,
    ).trim().split("\n").at(-1);
    return {
      dir: base,
      pids: [],
      note: `a directory of the local file system (${type})`,
      stop: async () => {},
    };
  },
};

export const bindfs: PeerKind = {
  name: "bindfs",
  programs: { bindfs: "bindfs" },
  async start(base) {
    const source = `${base}/source`;
    const dir = `${base}/mount`;
    await Deno.mkdir(source);
    await Deno.mkdir(dir);
    const daemon = await Daemon.start(["bindfs", "-f", source, dir], `${base}/log`, () => isMounted(dir));
    return { dir, pids: [daemon.pid], note: "a local directory through FUSE", stop: () => daemon.stop() };
  },
};
