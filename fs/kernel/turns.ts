/**
 * Turns of the runtime's event loop, as one sees them who must not leave the thread to it while there is work: whether it
 * has something to do, and one turn in which it does all of it. So the serving thread may itself wait in poll(2), for a request
 * or for the event loop, where the pool's thread would have to be woken first, and then wake it in turn.
 *
 * The runtime waits in epoll_wait(2), and an epoll descriptor is readable while something is ready: sockets, and the
 * eventfd by which calls in the pool say that they are done. Which one it is gets tried out, with a connection to ourselves
 * that also makes a turn end: what was ready before its byte has been served then.
 */

import { assert } from "../../base/assert.ts";
import * as libc from "../../base/libc.ts";
import type { Logger } from "../../base/log.ts";
import { errnoName, FsError } from "../../wire/errno.ts";

const DESCRIPTORS = "/proc/self/fd";
const EPOLL = "anon_inode:[eventpoll]";
const TRIALS = 3;

export class EventLoopTurns {
  readonly #epoll: number;
  readonly #ends: Ends;

  private constructor(epoll: number, ends: Ends) {
    this.#epoll = epoll;
    this.#ends = ends;
  }

  /** Null where the runtime waits in another way, or there is no room for a socket. */
  static async open(log: Logger): Promise<EventLoopTurns | null> {
    let ends: Ends | undefined;
    try {
      ends = await Ends.open();
      const epoll = await findEpoll(ends);
      if (epoll !== undefined) return new EventLoopTurns(epoll, ends);
      throw new FsError("ENOENT", "the runtime's epoll descriptor was not found");
    } catch (error) {
      ends?.close();
      log.debug("the event loop can't be waited for: requests take longer", { error });
      return null;
    }
  }

  /**
   * Waits, with the whole thread, until `fd` is readable (true), or the event loop has something to do, or `timeoutMs` has
   * passed. Only after a turn without further work: what waits for a mere turn of the loop is not seen from here.
   */
  block(fd: number, timeoutMs: number): boolean {
    const ready = libc.pollTwo(fd, this.#epoll, timeoutMs);
    return ready === 1 || ready === 3;
  }

  /** One turn in which all is served that was ready before. */
  turn(): Promise<void> {
    return this.#ends.pass();
  }

  close(): void {
    this.#ends.close();
  }
}

/**
 * A connection to ourselves, by a Unix socket, which takes half of the time of loopback. The runtime does not know the sending
 * end, so that only what comes makes its epoll descriptor readable.
 */
class Ends {
  readonly #sending: number;
  readonly #receiving: Deno.Conn;
  readonly #byte = new Uint8Array(1);
  readonly #received = new Uint8Array(16);

  private constructor(sending: number, receiving: Deno.Conn) {
    this.#sending = sending;
    this.#receiving = receiving;
  }

  static async open(): Promise<Ends> {
    const dir = Deno.makeTempDirSync({ prefix: "mfs-turns-" });
    try {
      const path = `${dir}/socket`;
      using listener = Deno.listen({ transport: "unix", path });
      const accepting = listener.accept();
      const sending = libc.connectUnix(path);
      if (sending < 0) {
        accepting.catch(() => {}); // it ends with the listener
        throw new FsError(errnoName(-sending), `no connection to ${path}`, { op: "connect" });
      }
      return new Ends(sending, await accepting);
    } finally {
      Deno.removeSync(dir, { recursive: true });
    }
  }

  /** Sends a byte, and resolves when it has come. */
  async pass(): Promise<void> {
    // Else nothing would ever come.
    assert(libc.write(this.#sending, this.#byte) === 1, "a byte has room in a socket that is read");
    await this.#receiving.read(this.#received);
  }

  close(): void {
    libc.close(this.#sending);
    this.#receiving.close();
  }
}

/** The epoll descriptor that is readable if, and only if, a byte is on its way to us. */
async function findEpoll(ends: Ends): Promise<number | undefined> {
  const isReadable = (fd: number) => libc.poll(fd, libc.POLLIN, 0) > 0;
  let candidates = [...Deno.readDirSync(DESCRIPTORS)].map(({ name }) => name).filter(isEpoll).map(Number);
  for (let trial = 0; trial < TRIALS; trial++) {
    await ends.pass();
    await ends.pass();
    const idle = candidates.filter((fd) => !isReadable(fd));
    const passed = ends.pass();
    candidates = idle.filter(isReadable);
    await passed;
  }
  return candidates[0];
}

function isEpoll(name: string): boolean {
  try {
    return Deno.readLinkSync(`${DESCRIPTORS}/${name}`) === EPOLL;
  } catch {
    return false; // closed meanwhile
  }
}
