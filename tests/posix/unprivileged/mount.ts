/**
 * Mounts as an ordinary user: becomes that user once all of the program is loaded, which may lie where the user can't go.
 *
 *     mount.ts UID NAMESERVER MOUNTPOINT [OPTIONS]
 *
 * Ends when it is unmounted, or on SIGTERM.
 */

import { createLogger } from "../../../base/log.ts";
import { parseMountOptions, startMount } from "../../../roles/mount/mount.ts";
import { tcpDialer } from "../../../wire/dialer.ts";

const [uid, nameserver, mountpoint, options = ""] = Deno.args;
const libc = Deno.dlopen("libc.so.6", {
  setgroups: { parameters: ["usize", "pointer"], result: "i32" },
  setresgid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  setresuid: { parameters: ["u32", "u32", "u32"], result: "i32" },
});
const user = Number(uid);
const { setgroups, setresgid, setresuid } = libc.symbols;
if (setgroups(0n, null) + setresgid(user, user, user) + setresuid(user, user, user) !== 0) {
  throw new Error(`can't become user ${uid}`);
}
try {
  const mount = await startMount({
    nameserver: nameserver!,
    mountpoint: mountpoint!,
    host: "user",
    log: createLogger("mount"),
    dialer: tcpDialer,
    options: parseMountOptions(options),
  });
  Deno.addSignalListener("SIGTERM", () => void mount.stop());
  await mount.ended;
} catch (error) {
  console.error((error as Error).message);
  Deno.exit(1);
}
Deno.exit(0);
