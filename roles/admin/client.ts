/** A command's connection to the nameserver. */

import { type Dialer, tcpDialer } from "../../wire/dialer.ts";
import { helloOf } from "../../wire/hello.ts";
import { ADMIN } from "../../wire/messages/admin.ts";
import { NAMESERVER } from "../../wire/messages/nameserver.ts";
import { type Client, createClient } from "../../wire/service.ts";

export interface AdminClient {
  readonly admin: Client<typeof ADMIN>;
  readonly nameserver: Client<typeof NAMESERVER>;
}

/** Runs `use` on a connection to the nameserver. Errors: as Dialer.dial and `use`. */
export async function withNameserver<T>(
  nameserver: string,
  command: string,
  use: (client: AdminClient) => Promise<T>,
  dialer: Dialer = tcpDialer,
): Promise<T> {
  const { channel } = await dialer.dial(nameserver, {
    hello: helloOf("admin", "", `${command} on ${Deno.hostname()}`),
    expectRole: "nameserver",
  });
  const call: Parameters<typeof createClient>[1] = (op, request, options) =>
    channel.call(op, request, options);
  try {
    return await use({ admin: createClient(ADMIN, call), nameserver: createClient(NAMESERVER, call) });
  } finally {
    channel.close();
  }
}
