/** What a file must hold, in memory: bytes that were written, zeros in holes, and nothing past its size. */
export class FileModel {
  #bytes = new Uint8Array(1 << 20);
  size = 0;

  #reserve(size: number): void {
    if (size <= this.#bytes.length) return;
    const larger = new Uint8Array(size * 2);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }

  write(offset: number, data: Uint8Array): void {
    this.#reserve(offset + data.length);
    this.#bytes.set(data, offset);
    this.size = Math.max(this.size, offset + data.length);
  }

  resize(size: number): void {
    this.#reserve(size);
    if (size < this.size) this.#bytes.fill(0, size, this.size);
    this.size = size;
  }

  /** [offset, end), as far as it lies in the file. */
  zero(offset: number, end: number): void {
    this.#bytes.fill(0, Math.min(offset, this.size), Math.min(end, this.size));
  }

  /** A view, up to the end of the file. */
  read(offset: number, length: number): Uint8Array {
    return this.#bytes.subarray(Math.min(offset, this.size), Math.min(offset + length, this.size));
  }

  isZero(offset: number, end: number): boolean {
    return this.read(offset, end - offset).every((byte) => byte === 0);
  }
}
