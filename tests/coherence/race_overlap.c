/*
 * `checker race`, ranges that overlap: files of one page, cut at places that are no multiples of anything into
 * segments. A write covers some neighbouring segments and fills each with its stamp; a read takes the whole page. A
 * segment must never show what had been overwritten before the read began (check_fresh), which it does when a mount
 * writes back more than it was told to write, or keeps an old page.
 */
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES 2
#define SEGMENTS 40

/* Where segments begin, and where the last one ends. All are at least 8 bytes. */
static int cuts[SEGMENTS + 1];

static void draw_cuts(void) {
  uint64_t random = options.seed;
  for (int i = 0; i < SEGMENTS; i++) cuts[i] = i * 102 + (i == 0 ? 0 : (int)random_below(&random, 90));
  cuts[SEGMENTS] = PAGE;
}

static void fill(uint8_t *page, int from, int to, uint64_t stamp) {
  for (int segment = from; segment < to; segment++)
    for (int i = cuts[segment]; i < cuts[segment + 1]; i++)
      page[i] = (uint8_t)(stamp >> 8 * ((i - cuts[segment]) % 8));
}

void setup_overlap(void) {
  static uint8_t page[PAGE];
  draw_cuts();
  for (int file = 0; file < FILES; file++) {
    fill(page, 0, SEGMENTS, setup_stamp(file));
    setup_file("overlap", file, page, PAGE);
  }
}

static int kept(struct worker *worker, int file, uint64_t start) {
  int *fd = &worker->overlap_fd[file];
  if (*fd >= 0) return *fd;
  char path[PATH_BYTES];
  race_path(path, worker->mount, "overlap", file);
  *fd = open(path, O_RDWR);
  if (*fd < 0) failed(worker, OVERLAP_READ, file, start, 0, errno);
  return *fd;
}

static void forget(struct worker *worker, int file) {
  close(worker->overlap_fd[file]);
  worker->overlap_fd[file] = -1;
}

static void do_write(struct worker *worker, int file) {
  uint8_t page[PAGE];
  int from = (int)random_below(&worker->random, SEGMENTS);
  int to = from + 1 + (int)random_below(&worker->random, (uint64_t)(SEGMENTS - from < 12 ? SEGMENTS - from : 12));
  uint64_t stamp = next_stamp(worker);
  int fd = kept(worker, file, begin(worker, OVERLAP_WRITE));
  if (fd < 0) return;
  fill(page, from, to, stamp);
  ssize_t length = cuts[to] - cuts[from];
  uint64_t start = begin(worker, OVERLAP_WRITE);
  size_t before = worker->count;
  ssize_t count = pwrite(fd, page + cuts[from], (size_t)length, cuts[from]);
  if (count == length && acknowledged(fd) != 0) count = -1;
  if (count == length) finish(worker, OVERLAP_WRITE, file, start, stamp);
  else {
    failed(worker, OVERLAP_WRITE, file, start, stamp, count < 0 ? errno : EIO);
    forget(worker, file);
  }
  if (worker->count == before) return;
  worker->records[before].extra = (uint32_t)from;
  worker->records[before].extra2 = (uint32_t)to;
}

/* In place of a stamp: bytes of several writes. No stamp is so large. */
#define SEVERAL UINT64_MAX

/* The stamp that fills a segment (0: zeros), or SEVERAL. */
static uint64_t stamp_in(const uint8_t *page, int segment) {
  uint64_t stamp = 0;
  for (int i = 0; i < 8; i++) stamp |= (uint64_t)page[cuts[segment] + i] << 8 * i;
  for (int i = cuts[segment]; i < cuts[segment + 1]; i++)
    if (page[i] != (uint8_t)(stamp >> 8 * ((i - cuts[segment]) % 8))) return SEVERAL;
  return stamp;
}

static void do_read(struct worker *worker, int file) {
  uint8_t page[PAGE];
  uint64_t stamps[SEGMENTS];
  int fd = kept(worker, file, begin(worker, OVERLAP_READ));
  if (fd < 0) return;
  uint64_t start = begin(worker, OVERLAP_READ);
  ssize_t count = pread(fd, page, PAGE, 0);
  if (count < 0) {
    failed(worker, OVERLAP_READ, file, start, 0, errno);
    return forget(worker, file);
  }
  if (is_injected(worker, "overlap-torn")) page[cuts[7] + 3] ^= 1;
  struct record *record = finish(worker, OVERLAP_READ, file, start, 0);
  if (count != PAGE) {
    wrong("overlap short", "overlap %d: a read gave %zd bytes instead of %d", file, count, PAGE);
    worker->count--;
    return;
  }
  for (int i = 0; i < SEGMENTS; i++) stamps[i] = stamp_in(page, i);
  if (stamps[5] != SEVERAL) stamps[5] = inject_old(worker, "overlap-stale", file, stamps[5]);
  record->extra = keep_bulk(worker, stamps, SEGMENTS);
}

void race_overlap(struct worker *worker) {
  int file = (int)random_below(&worker->random, FILES);
  if (one_in(&worker->random, 2)) do_write(worker, file);
  else do_read(worker, file);
}

/* ---- checking */

/* A segment with bytes of several writes: only the kernel does that, with a write by the same mount. */
static void check_torn(int file, int segment, const struct record *read, const struct record **writes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct record *write = writes[i];
    bool covers = (int)write->extra <= segment && segment < (int)write->extra2;
    bool is_concurrent = write->start <= read->end && read->start <= write->end;
    if (!covers || !is_concurrent) continue;
    if (write->end == NEVER || is_same_device[mount_of(read)][mount_of(write)]) {
      torn_excused++;
      return;
    }
  }
  char text[200];
  describe_record(text, sizeof text, read);
  wrong("overlap torn", "overlap %d: %s gave bytes of several writes between %d and %d", file, text, cuts[segment],
        cuts[segment + 1]);
}

void check_overlap(void) {
  for (int file = 0; file < FILES; file++) {
    size_t written, count;
    const struct record **writes = gather(1u << OVERLAP_WRITE, file, &written);
    const struct record **reads = gather(1u << OVERLAP_READ, file, &count);
    const struct record first = {.value = setup_stamp(file), .what = OVERLAP_WRITE, .thread = SETUP_THREAD};
    struct access *accesses = allocate((written + count + 1) * sizeof *accesses);
    for (int segment = 0; segment < SEGMENTS; segment++) {
      size_t used = 0;
      accesses[used++] = (struct access){0, 0, first.value, true, &first};
      for (size_t i = 0; i < written; i++)
        if ((int)writes[i]->extra <= segment && segment < (int)writes[i]->extra2)
          accesses[used++] = (struct access){writes[i]->start, writes[i]->end, writes[i]->value, true, writes[i]};
      for (size_t i = 0; i < count; i++) {
        uint64_t stamp = workers[reads[i]->thread].bulk[reads[i]->extra + (uint32_t)segment];
        if (stamp == SEVERAL) check_torn(file, segment, reads[i], writes, written);
        else accesses[used++] = (struct access){reads[i]->start, reads[i]->end, stamp, false, reads[i]};
      }
      char name[60];
      snprintf(name, sizeof name, "overlap %d, bytes %d to %d", file, cuts[segment], cuts[segment + 1] - 1);
      if (options.strict) check_atomic("overlap order", name, accesses, used);
      else check_fresh("overlap old", name, accesses, used);
    }
    free(accesses);
    free(writes);
    free(reads);
  }
}
