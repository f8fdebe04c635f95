/** What Ctrl-C does to a command that takes long: its work hears of it, and ends with a message of its own. */

/** Runs `work`, whose signal aborts at SIGINT, SIGTERM or SIGHUP; a second one ends the process as usual. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const onSignal = () => {
    release();
    abort.abort(new Error("interrupted"));
  };
  const release = () => signals.forEach((signal) => Deno.removeSignalListener(signal, onSignal));
  for (const signal of signals) Deno.addSignalListener(signal, onSignal);
  try {
    return await work(abort.signal);
  } finally {
    if (!abort.signal.aborted) release();
  }
}
