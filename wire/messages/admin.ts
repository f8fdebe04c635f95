/**
 * The nameserver's service for administrators: what `mfs` commands ask of a running cluster. Long work goes in steps:
 * each request does a bounded part and answers where the next one goes on, so that a command shows progress, and ends
 * with its user.
 */

import { defineService } from "../service.ts";

export const ADMIN = defineService("admin", {});
