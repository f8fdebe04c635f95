/** The man page mfs(1), from the commands' definitions. */

import type { Command } from "commander";
import { VERSION } from "../../base/version.ts";
import { visibleCommands } from "./completion.ts";

export function manPage(program: Command): string {
  const lines = [
    `.TH MFS 1 "" "MaggieFS ${VERSION}" "MaggieFS"`,
    ".SH NAME",
    `mfs \\- ${text(program.description())}`,
    ".SH SYNOPSIS",
    ".B mfs",
    ".I command",
    "[options]",
    ".SH DESCRIPTION",
    "One program has all of MaggieFS: the servers, the mount, and what looks after a cluster. Each command has its own",
    ".BR \\-\\-help .",
    "Under the name",
    ".B mount.mfs",
    "it is the helper of",
    ".BR mount (8).",
    ".SH COMMANDS",
  ];
  for (const { name } of visibleCommands(program)) {
    const command = program.commands.find((one) => one.name() === name)!;
    lines.push(".SS " + text(`mfs ${name} ${command.usage()}`), text(command.description()));
    for (const { flags, description, hidden } of command.options) {
      if (!hidden) lines.push(".TP", `.B ${text(flags)}`, text(description));
    }
  }
  lines.push(
    ".SH FILES",
    ".TP",
    ".I /etc/mfs/nameserver.toml, dataserver.toml, mount.toml",
    "Settings;",
    ".B mfs config",
    "prints and checks them.",
    ".SH EXIT STATUS",
    "0; 1 for a failure, which one line on stderr names; 2 for wrong usage. Some commands have more, see their",
    ".BR \\-\\-help .",
    ".SH SEE ALSO",
    ".BR mount (8),",
    ".BR systemctl (1)",
  );
  return lines.join("\n");
}

/** As troff takes it for plain text. */
function text(line: string): string {
  return line.replaceAll("\\", "\\e").replaceAll("-", "\\-").replace(/^([.'])/, "\\&$1");
}
