/**
 * What a thread that waits for a lock has called. The kernel asks for the locks of open files (OFD) just as for those of
 * processes, but only the latter are looked at for deadlocks; the thread itself tells which it is.
 */

/** fcntl(2) of these machines. Source: Linux asm-generic/unistd.h, and arch/x86/entry/syscalls/syscall_64.tbl. */
const FCNTL = Deno.build.arch === "x86_64" ? 72 : 25;
/** Source: Linux asm-generic/fcntl.h. */
const F_OFD_SETLKW = 38;
/** The request may be here before its thread has gone to sleep. */
const LOOKS = 10;
const LOOK_MS = 2;

/** Of the text of /proc/TID/syscall (proc(5)): true, false, or undefined while the thread runs. */
export function isOfdWait(syscall: string): boolean | undefined {
  const [number, _fd, command] = syscall.trim().split(" ");
  if (command === undefined) return undefined;
  return Number(number) === FCNTL && Number(command) === F_OFD_SETLKW;
}

/** Whether a thread waits in fcntl(F_OFD_SETLKW); no, if it can't be seen. */
export async function waitsForOfdLock(tid: number): Promise<boolean> {
  for (let look = 0; look < LOOKS; look++) {
    let answer: boolean | undefined;
    try {
      answer = isOfdWait(await Deno.readTextFile(`/proc/${tid}/syscall`));
    } catch {
      return false; // another pid namespace, or not ours to look at
    }
    if (answer !== undefined) return answer;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  return false;
}
