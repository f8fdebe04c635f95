/** Files and names that are on disk when the call returns. */

/** Makes the names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  using directory = await Deno.open(path, { read: true });
  await directory.sync();
}

/** Replaces a file whole: after a power cut it has the old content or the new one. */
export async function replaceFile(directory: string, name: string, content: Uint8Array): Promise<void> {
  const temporary = `${directory}/${name}.new`;
  {
    using file = await Deno.open(temporary, { create: true, truncate: true, write: true });
    await writeAll(file, content);
    await file.sync();
  }
  await Deno.rename(temporary, `${directory}/${name}`);
  await syncDirectory(directory);
}

export async function writeAll(file: Deno.FsFile, content: Uint8Array): Promise<void> {
  for (let done = 0; done < content.length;) done += await file.write(content.subarray(done));
}
