/** A directory as plain data: what a disk holds, to be written out and opened by real programs. */

/** Paths relative to the directory; null is a directory. Parents come before what is in them. */
export type Image = ReadonlyMap<string, Uint8Array | null>;

/** Reads everything below `dir`, and the inode number of each ("" is `dir` itself). */
export function readImage(
  dir: string,
): { readonly image: Image; readonly files: ReadonlyMap<string, number> } {
  const image = new Map<string, Uint8Array | null>();
  const files = new Map<string, number>();
  const visit = (path: string) => {
    const full = path === "" ? dir : `${dir}/${path}`;
    const stat = Deno.lstatSync(full);
    if (!stat.isDirectory && !stat.isFile) throw new Error(`${full} is neither a file nor a directory`);
    files.set(path, stat.ino!);
    if (path !== "") image.set(path, stat.isDirectory ? null : Deno.readFileSync(full));
    if (!stat.isDirectory) return;
    const names = [...Deno.readDirSync(full)].map(({ name }) => name).sort();
    for (const name of names) visit(path === "" ? name : `${path}/${name}`);
  };
  visit("");
  return { image, files };
}

/** Makes `dir`, which must not exist, with what the image holds. */
export function writeImage(image: Image, dir: string): void {
  Deno.mkdirSync(dir);
  for (const [path, content] of image) {
    if (content === null) Deno.mkdirSync(`${dir}/${path}`);
    else Deno.writeFileSync(`${dir}/${path}`, content);
  }
}
