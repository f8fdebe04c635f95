/** The version of the program; deno.json's `version` says the same (a test holds it). */
export const VERSION = "0.1.0";
