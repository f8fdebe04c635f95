import { silentLogger } from "../../base/log.ts";
import { connect } from "../../wire/client.ts";
import { helloOf } from "../../wire/hello.ts";
import { LocalChannel } from "../../wire/local.ts";
import { serve } from "../../wire/server.ts";
import { channelContract } from "./channel_contract.ts";

channelContract("connection", async (handlers, onPush) => {
  const server = serve("127.0.0.1:0", {
    role: "nameserver",
    clusterId: () => "c",
    handlers,
    log: silentLogger,
  });
  const { channel } = await connect(server.address, {
    hello: helloOf("client", "c", "test"),
    expectRole: "nameserver",
    ...(onPush === undefined ? {} : { onPush }),
  });
  return {
    channel,
    [Symbol.asyncDispose]: async () => {
      channel.close();
      await server.close();
      await channel.closed;
    },
  };
});

channelContract("local channel", (handlers, onPush) => {
  const channel = new LocalChannel(handlers, "client", "test", onPush);
  return Promise.resolve({
    channel,
    [Symbol.asyncDispose]: () => {
      channel.close();
      return channel.closed;
    },
  });
});
