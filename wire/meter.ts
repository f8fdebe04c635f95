/** Handlers whose requests are counted and timed, whichever way they come. */

import type { Clock } from "../base/clock.ts";
import { OperationMeter } from "../base/metrics.ts";
import type { CallContext, HandlerTable, Service } from "./service.ts";

/** Of requests for these services. */
export function requestMeter(...services: readonly Pick<Service, "methods">[]): OperationMeter {
  const names = new Map<number, string>();
  for (const { methods } of services) {
    for (const [name, { op }] of Object.entries(methods)) {
      names.set(op, name);
    }
  }
  return new OperationMeter("mfs_request", (op) => names.get(op) ?? `operation ${op}`, 176);
}

export function metered(handlers: HandlerTable, meter: OperationMeter, clock: Clock): HandlerTable {
  const table = new Map<number, (request: unknown, context: CallContext) => unknown>();
  for (const [op, handler] of handlers) {
    table.set(op, (request, context) => {
      const startMs = clock.monotonicMs();
      const bytesIn = bytesOf(request);
      const done = (answer: unknown) => {
        meter.note(op, clock.monotonicMs() - startMs, false, bytesIn, bytesOf(answer));
        return answer;
      };
      const failed = (error: unknown) => {
        meter.note(op, clock.monotonicMs() - startMs, true, bytesIn);
        throw error;
      };
      let answer: unknown;
      try {
        answer = handler(request, context);
      } catch (error) {
        return failed(error);
      }
      return answer instanceof Promise ? answer.then(done, failed) : done(answer);
    });
  }
  return table;
}

function bytesOf(message: unknown): number {
  const body = (message as { readonly body?: unknown } | null | undefined)?.body;
  return body instanceof Uint8Array ? body.length : 0;
}
