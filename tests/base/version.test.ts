import assert from "node:assert/strict";
import { VERSION } from "../../base/version.ts";
import config from "../../deno.json" with { type: "json" };

Deno.test("version: the program says the same as deno.json", () => {
  assert.equal(VERSION, config.version);
});
