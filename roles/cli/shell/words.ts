/**
 * Lines of the shell as words, and paths as text: quoting as in sh, but for `\xHH`, which is the byte HH, so that each name that
 * is shown (formatPath) can be given back. Bytes that are no UTF-8 are lone surrogates in text (U+DC80 to U+DCFF), as Python
 * has it; text that came in so goes out as the same bytes.
 */

import { bytesOf, concatBytes } from "../../../base/bytes.ts";

/** Of one line: commands, each of one word or more. */
export type Commands = readonly (readonly string[])[];

/** Why a line can't be cut into words. */
export class LineError extends Error {}

const BLANK = /[ \t\r\n]/;
const SPECIAL = /[|&<>()`]/;
const SURROGATE = 0xdc00;

/** Commands end with `;` or the line; `#` at the start of a word begins a comment. Errors: LineError. */
export function parseLine(line: string): Commands {
  const { commands, open } = scan(line);
  if (open === "\\") throw new LineError("nothing follows the backslash");
  if (open !== "") throw new LineError(`the quote ${open} is not closed`);
  return commands.map((words) => words.map(({ text }) => text)).filter((words) => words.length > 0);
}

/** The words of the last command, and where the last of them begins in the line: it is empty behind a space. */
export function lastWord(line: string): { readonly words: readonly string[]; readonly start: number } {
  const { commands, isInWord } = scan(line, true);
  const words = commands.at(-1)!;
  const texts = words.map(({ text }) => text);
  return isInWord
    ? { words: texts, start: words.at(-1)!.start }
    : { words: [...texts, ""], start: line.length };
}

/** As it can be given in a line, outside of quotes. */
export function quoteWord(text: string): string {
  let quoted = "";
  for (const character of text) {
    const code = character.charCodeAt(0);
    const isByte = character.length === 1 && code >= SURROGATE && code < 0xe000;
    if (code < 0x20 || code === 0x7f || isByte) {
      quoted += `\\x${(code & 0xff).toString(16).padStart(2, "0")}`;
    } else quoted += /[\s\\'"|&<>()`;#$*?]/.test(character) ? `\\${character}` : character;
  }
  return quoted;
}

interface Word {
  text: string;
  readonly start: number;
}

function scan(line: string, isLenient = false) {
  const commands: Word[][] = [[]];
  let word: Word | undefined;
  let open = "";
  for (let at = 0; at < line.length; at++) {
    const character = line[at]!;
    const begin = () => {
      if (word === undefined) commands.at(-1)!.push(word = { text: "", start: at });
      return word;
    };
    if (open === "'") {
      if (character === "'") open = "";
      else word!.text += character;
    } else if (character === "\\") {
      const byte = /^x([0-9a-fA-F]{2})/.exec(line.slice(at + 1, at + 4));
      const into = begin();
      if (byte !== null) {
        into.text += ofByte(parseInt(byte[1]!, 16));
        at += 3;
      } else if (at + 1 === line.length) {
        open = "\\";
      } else {
        at++;
        // As sh: within double quotes it quotes a few only.
        into.text += open === "" || '"\\$`'.includes(line[at]!) ? line[at] : `\\${line[at]}`;
      }
    } else if (open === '"') {
      if (character === '"') open = "";
      else word!.text += character;
    } else if (character === "'" || character === '"') {
      begin();
      open = character;
    } else if (BLANK.test(character)) {
      word = undefined;
    } else if (character === ";") {
      word = undefined;
      commands.push([]);
    } else if (character === "#" && word === undefined) {
      break;
    } else if (SPECIAL.test(character) && !isLenient) {
      throw new LineError(`${character} has no meaning here: put it into quotes`);
    } else {
      begin().text += character;
    }
  }
  return { commands, open, isInWord: word !== undefined };
}

function ofByte(byte: number): string {
  return String.fromCharCode(byte < 0x80 ? byte : SURROGATE + byte);
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function textOfPath(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return textOfMixed(bytes);
  }
}

function textOfMixed(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const length = bytes[at]! < 0x80 ? 1 : bytes[at]! < 0xe0 ? 2 : bytes[at]! < 0xf0 ? 3 : 4;
    try {
      text += strict.decode(bytes.subarray(at, at + length));
      at += length;
    } catch {
      text += ofByte(bytes[at]!);
      at++;
    }
  }
  return text;
}

/** The reverse. Bytes that were written one by one may come to be a character. */
export function bytesOfPath(text: string): Uint8Array {
  const parts = text.match(
    /[\udc80-\udcff]|(?:[^\ud800-\udfff]|[\ud800-\udbff][\udc00-\udfff])+|[\ud800-\udfff]/g,
  );
  return concatBytes(
    (parts ?? []).map((part) =>
      part.length === 1 && part >= "\udc80" && part <= "\udcff"
        ? new Uint8Array([part.charCodeAt(0) - SURROGATE])
        : bytesOf(part)
    ),
  );
}

/** `path`, as seen from the directory `from`; both begin at the root when they begin with a slash. */
export function joinPath(from: string, path: string): string {
  return path.startsWith("/") ? path : from.endsWith("/") ? `${from}${path}` : `${from}/${path}`;
}

/** Without "." and "..": as a shell's `cd` goes back through a symbolic link by which it came. */
export function normalPath(path: string): string {
  const names: string[] = [];
  for (const name of path.split("/")) {
    if (name === "..") names.pop();
    else if (name !== "" && name !== ".") names.push(name);
  }
  return `/${names.join("/")}`;
}

export function baseName(path: string): string {
  return path.replace(/\/+$/, "").split("/").at(-1)!;
}
