/** Completion for shells, from the commands' definitions. */

import type { Command, Option } from "commander";

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = typeof SHELLS[number];

interface Described {
  readonly name: string;
  readonly description: string;
  readonly options: readonly Option[];
}

export function completion(program: Command, shell: Shell): string {
  const commands = visibleCommands(program);
  return { bash, zsh, fish }[shell](commands);
}

export function visibleCommands(program: Command): readonly Described[] {
  const isHidden = (command: Command) =>
    (command as unknown as { readonly _hidden?: boolean })._hidden === true;
  return program.commands.filter((command) => !isHidden(command)).map((command) => ({
    name: command.name(),
    description: command.description(),
    options: command.options.filter(({ hidden }) => !hidden),
  }));
}

const flagsOf = ({ options }: Described) =>
  options.flatMap(({ short, long }) => [short, long]).filter(Boolean);
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

function bash(commands: readonly Described[]): string {
  const cases = commands.map((command) => {
    const values = command.options.filter(({ argChoices }) => argChoices !== undefined).map(
      ({ long, argChoices }) => `        ${long}) words="${argChoices!.join(" ")}" ;;`,
    );
    return [
      `    ${command.name})`,
      ...values.length === 0 ? [] : ['      case "$before" in', ...values, "      esac"],
      `      [ -n "$words" ] || case "$word" in -*) words="${
        [...flagsOf(command), "--help"].join(" ")
      }" ;; esac`,
      "      ;;",
    ].join("\n");
  });
  return `# bash completion for mfs: put it into /usr/share/bash-completion/completions/mfs
_mfs() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD - 1]} words=
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="${commands.map(({ name }) => name).join(" ")} --help"
  else
    case "\${COMP_WORDS[1]}" in
${cases.join("\n")}
    esac
  fi
  if [ -n "$words" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    compopt -o filenames 2>/dev/null
  fi
}
complete -F _mfs mfs`;
}

function zsh(commands: readonly Described[]): string {
  const escaped = (text: string) => text.replaceAll(/[[\]:]/g, "\\$&");
  const argument = ({ short, long, description, required, argChoices }: Option) => {
    const value = !required
      ? ""
      : argChoices === undefined
      ? ":value:_files"
      : `:value:(${argChoices.join(" ")})`;
    return quoted(`${long ?? short}[${escaped(description)}]${value}`);
  };
  return `#compdef mfs
# zsh completion for mfs: put it as _mfs into a directory of $fpath
_mfs() {
  local -a commands=(
${commands.map(({ name, description }) => `    ${quoted(`${name}:${escaped(description)}`)}`).join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case $words[2] in
${
    commands.map(({ name, options }) =>
      `    ${name}) _arguments ${[...options.map(argument), "'*:file:_files'"].join(" ")} ;;`
    ).join("\n")
  }
  esac
}
_mfs "$@"`;
}

function fish(commands: readonly Described[]): string {
  const lines = [
    "# fish completion for mfs: put it as mfs.fish into ~/.config/fish/completions",
    "complete -c mfs -n __fish_use_subcommand -f",
  ];
  for (const { name, description, options } of commands) {
    lines.push(`complete -c mfs -n __fish_use_subcommand -a ${name} -d ${quoted(description)}`);
    for (const { short, long, description: what, required, argChoices } of options) {
      const names = [
        ...short === undefined ? [] : [`-s ${short.slice(1)}`],
        ...long === undefined ? [] : [`-l ${long.slice(2)}`],
      ];
      const value = argChoices !== undefined
        ? ` -x -a ${quoted(argChoices.join(" "))}`
        : required
        ? " -r"
        : "";
      lines.push(
        `complete -c mfs -n '__fish_seen_subcommand_from ${name}' ${names.join(" ")}${value} -d ${
          quoted(what)
        }`,
      );
    }
  }
  return lines.join("\n");
}
