/**
 * The command line of `mfs`: roles/cli/ has the commands. Each role's code is loaded only when its command runs, so that
 * `--help` is quick.
 * Exit codes: 0, 1 for a failure (`mfs: WHAT: WHY` on stderr), 2 for wrong usage.
 */

import { main } from "./roles/cli/main.ts";

await main();
