/** A dataserver in a process of its own, to be killed: arguments NAMESERVER VOLUME; prints its address and ids. */

import { silentLogger } from "../../../base/log.ts";
import { tcpDialer } from "../../../wire/dialer.ts";
import { startDataserver } from "../../../roles/dataserver/dataserver.ts";

const [nameserver, volume] = Deno.args;
const server = await startDataserver({
  nameserver: nameserver!,
  volumes: [volume!],
  host: "child",
  log: silentLogger,
  dialer: tcpDialer,
  finalizeIdleMs: 20,
});
console.log(JSON.stringify({
  address: server.address,
  clusterId: server.clusterId,
  node: server.node,
  volumes: server.volumes,
}));
