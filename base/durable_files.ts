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

export interface SaveOptions {
  /** Replaces a file of that name; otherwise AlreadyExists. */
  readonly overwrite: boolean;
  readonly onBytes?: (bytes: number) => void;
}

/**
 * Writes a new file piece by piece, under the name PATH.partial until all of it is on disk. When `content` throws, nothing
 * is left. Throws AlreadyExists also when PATH.partial exists: somebody writes it, or was killed. Gives the bytes.
 */
export async function saveFile(
  path: string,
  content: AsyncIterable<Uint8Array>,
  options: SaveOptions,
): Promise<number> {
  const partial = `${path}.partial`;
  const refuse = async () => {
    const exists = await Deno.lstat(path).then(() => true, () => false);
    if (exists && !options.overwrite) throw new Deno.errors.AlreadyExists(`${path} exists`);
  };
  await refuse();
  let bytes = 0;
  const file = await createPartial(partial);
  try {
    try {
      for await (const piece of content) {
        await writeAll(file, piece);
        bytes += piece.length;
        options.onBytes?.(bytes);
      }
      await file.sync();
    } finally {
      file.close();
    }
    await refuse();
    await Deno.rename(partial, path);
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    throw error;
  }
  await syncDirectory(path.includes("/") ? path.slice(0, path.lastIndexOf("/") + 1) : ".");
  return bytes;
}

async function createPartial(partial: string): Promise<Deno.FsFile> {
  try {
    return await Deno.open(partial, { createNew: true, write: true, mode: 0o600 });
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    throw new Deno.errors.AlreadyExists(
      `${partial} exists: another is writing it, or was killed; then remove it`,
    );
  }
}
