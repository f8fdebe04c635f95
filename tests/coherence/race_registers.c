/*
 * `checker race`, registers: files that are always written as a whole, with one stamp in all their words. A read must
 * give one stamp, and all reads and writes of a file must be explained by one order (check_atomic). Reads through a
 * mapping take one word and must give nothing old (check_fresh).
 *
 * A read that is torn (several stamps) is wrong, with two exceptions. The kernel lets a read of a cached page see a
 * write by the same mount that is under way; and a write of which nobody knows what it did may have been done in part.
 * Then each stamp must still be nothing old.
 */
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES 4
#define WORDS (PAGE / 8)
#define STAMPS_MAX 8

static const size_t sizes[FILES] = {PAGE, PAGE, PAGE, 16 * PAGE};
/* Stamps of writes that have begun but are not yet done, for --inject register-early. */
static _Atomic uint64_t early[FILES];

static void fill(uint64_t *words, int file, uint64_t stamp) {
  for (size_t i = 0; i < sizes[file] / 8; i++) words[i] = stamp;
}

void setup_registers(void) {
  static uint64_t words[16 * WORDS];
  for (int file = 0; file < FILES; file++) {
    fill(words, file, setup_stamp(file));
    setup_file("register", file, words, sizes[file]);
    early[file] = 0;
  }
}

static int open_register(struct worker *worker, int file, int flags) {
  char path[PATH_BYTES];
  race_path(path, worker->mount, "register", file);
  return open(path, flags);
}

/* The descriptor that the thread keeps. -1: it could not be opened; that was told. */
static int kept(struct worker *worker, int file, enum what what, uint64_t start) {
  int *fd = &worker->register_fd[file];
  if (*fd >= 0) return *fd;
  *fd = open_register(worker, file, O_RDWR);
  if (*fd < 0) failed(worker, REGISTER_READ, file, start, what, errno); // nothing was written
  return *fd;
}

static void forget(struct worker *worker, int file) {
  if (worker->register_fd[file] >= 0) close(worker->register_fd[file]);
  worker->register_fd[file] = -1;
}

static void do_write(struct worker *worker, int file) {
  static _Thread_local uint64_t words[16 * WORDS];
  bool by_name = one_in(&worker->random, 3);
  uint64_t stamp = next_stamp(worker), opening = begin(worker, REGISTER_WRITE);
  int fd = by_name ? open_register(worker, file, O_WRONLY) : kept(worker, file, REGISTER_WRITE, opening);
  if (fd < 0) {
    if (by_name) failed(worker, REGISTER_READ, file, opening, 0, errno);
    return;
  }
  fill(words, file, stamp);
  uint64_t start = begin(worker, REGISTER_WRITE);
  if (is_injected(worker, "register-early")) {
    early[file] = stamp;
    sleep_ms(3);
  }
  ssize_t count = pwrite(fd, words, sizes[file], 0);
  if (count == (ssize_t)sizes[file] && acknowledged(fd) != 0) count = -1;
  if (count == (ssize_t)sizes[file]) finish(worker, REGISTER_WRITE, file, start, stamp);
  else {
    failed(worker, REGISTER_WRITE, file, start, stamp, count < 0 ? errno : EIO);
    if (!by_name) forget(worker, file);
  }
  early[file] = 0;
  if (by_name && close(fd) != 0) failed(worker, REGISTER_READ, file, start, 0, errno);
}

/* Keeps a read, with all its stamps if it has several. */
static void finish_read(struct worker *worker, enum what what, int file, uint64_t start, const uint64_t *words) {
  uint64_t stamps[STAMPS_MAX] = {words[0]};
  size_t count = 1;
  bool is_torn_in_page = false;
  for (size_t i = 1; i < sizes[file] / 8; i++) {
    if (words[i] == words[i - 1]) continue;
    if (i % WORDS != 0) is_torn_in_page = true;
    if (count < STAMPS_MAX) stamps[count++] = words[i];
  }
  struct record *record = finish(worker, what, file, start, stamps[0]);
  if (count == 1) return;
  record->flags = (uint8_t)(TORN | (is_torn_in_page ? TORN_IN_PAGE : 0));
  record->extra2 = (uint32_t)count;
  record->extra = keep_bulk(worker, stamps, count);
}

static void do_read(struct worker *worker, int file) {
  static _Thread_local uint64_t words[16 * WORDS];
  bool by_name = one_in(&worker->random, 3);
  enum what what = by_name ? REGISTER_READ_NAME : REGISTER_READ;
  uint64_t start = begin(worker, what);
  int fd = by_name ? open_register(worker, file, O_RDONLY) : kept(worker, file, what, start);
  if (fd < 0) {
    if (by_name) failed(worker, what, file, start, 0, errno);
    return;
  }
  if (!by_name) start = begin(worker, what);
  ssize_t count = pread(fd, words, sizes[file], 0);
  int error = errno;
  if (by_name) close(fd);
  if (count < 0) {
    failed(worker, what, file, start, 0, error);
    if (!by_name) forget(worker, file);
    return;
  }
  if (count != (ssize_t)sizes[file]) {
    finish(worker, what, file, start, 0);
    wrong("register short", "register %d: a read gave %zd bytes instead of %zu", file, count, sizes[file]);
    worker->count--;
    return;
  }
  uint64_t leaked = early[file];
  if (leaked != 0) fill(words, file, leaked);
  if (is_injected(worker, "register-torn")) words[sizes[file] / 16] = setup_stamp(file);
  if (words[0] == words[1]) {
    uint64_t old = inject_old(worker, "register-stale", file, words[0]);
    if (old != words[0]) fill(words, file, old);
  }
  finish_read(worker, what, file, start, words);
}

static void do_mapped_read(struct worker *worker, int file) {
  uint64_t start = begin(worker, REGISTER_READ_MAPPED), stamp;
  void **map = &worker->register_map[file];
  if (*map == NULL) {
    int fd = kept(worker, file, REGISTER_READ_MAPPED, start);
    if (fd < 0) return;
    *map = mmap(NULL, sizes[file], PROT_READ, MAP_SHARED, fd, 0);
    if (*map == MAP_FAILED) {
      *map = NULL;
      if (errno == ENODEV) mappings_refused_by_race++;
      else failed(worker, REGISTER_READ_MAPPED, file, start, 0, errno);
      return;
    }
    start = begin(worker, REGISTER_READ_MAPPED);
  }
  const uint8_t *word = (const uint8_t *)*map + 8 * random_below(&worker->random, sizes[file] / 8);
  if (!copy_mapped(&stamp, word, 8)) {
    // The page could not be had: as an error of a read.
    failed(worker, REGISTER_READ_MAPPED, file, start, 0, EIO);
    return;
  }
  stamp = inject_old(worker, "mapped-stale", file, stamp);
  finish(worker, REGISTER_READ_MAPPED, file, start, stamp);
}

void race_registers(struct worker *worker) {
  int file = (int)random_below(&worker->random, FILES);
  uint64_t which = random_below(&worker->random, 10);
  if (which < 4) do_write(worker, file);
  else if (which < 8 || !options.mapped) do_read(worker, file);
  else do_mapped_read(worker, file);
}

/* ---- checking */

/* True when the kernel, or a write that nobody knows of, may have torn the read. */
static bool is_excused(const struct record *read, const struct record **writes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    bool is_concurrent = writes[i]->start <= read->end && read->start <= writes[i]->end;
    if (!is_concurrent) continue;
    if (writes[i]->end == NEVER || is_same_device[mount_of(read)][mount_of(writes[i])]) return true;
    if (options.allow_torn && !(read->flags & TORN_IN_PAGE)) return true;
  }
  return false;
}

static void tell_torn(int file, const struct record *read, const uint64_t *stamps) {
  char text[200], stamp[STAMPS_MAX][100];
  for (uint32_t i = 0; i < STAMPS_MAX; i++)
    describe_stamp(stamp[i], sizeof stamp[i], i < read->extra2 ? stamps[i] : 0);
  describe_record(text, sizeof text, read);
  wrong("register torn", "register %d: %s gave parts of %s and %s%s%s (%u in all; it changes %s)", file, text, stamp[0],
        stamp[1], read->extra2 > 2 ? " and " : "", read->extra2 > 2 ? stamp[2] : "", read->extra2,
        read->flags & TORN_IN_PAGE ? "within a page" : "between pages");
}

static struct access access_of(const struct record *record) {
  return (struct access){record->start, record->end, record->value, record->what == REGISTER_WRITE, record};
}

void check_registers(void) {
  for (int file = 0; file < FILES; file++) {
    size_t written, count, whole = 0, fresh = 0;
    const struct record **writes = gather(1u << REGISTER_WRITE, file, &written);
    const struct record **reads =
      gather(1u << REGISTER_READ | 1u << REGISTER_READ_NAME | 1u << REGISTER_READ_MAPPED, file, &count);
    struct record first = {.value = setup_stamp(file), .what = REGISTER_WRITE, .thread = SETUP_THREAD};
    size_t most = written + STAMPS_MAX * count + 1;
    struct access *atomic = allocate(most * sizeof *atomic), *weak = allocate(most * sizeof *weak);
    atomic[whole++] = weak[fresh++] = access_of(&first);
    for (size_t i = 0; i < written; i++) atomic[whole++] = weak[fresh++] = access_of(writes[i]);
    for (size_t i = 0; i < count; i++) {
      const struct record *read = reads[i];
      struct access access = access_of(read);
      if (read->what == REGISTER_READ_MAPPED) {
        weak[fresh++] = access;
      } else if (!(read->flags & TORN)) {
        atomic[whole++] = access;
      } else {
        const uint64_t *stamps = workers[read->thread].bulk + read->extra;
        if (is_excused(read, writes, written)) torn_excused++;
        else tell_torn(file, read, stamps);
        for (uint32_t k = 0; k < read->extra2; k++) {
          access.value = stamps[k];
          weak[fresh++] = access;
        }
      }
    }
    char name[40];
    snprintf(name, sizeof name, "register %d", file);
    check_atomic("register order", name, atomic, whole);
    check_fresh("register old", name, weak, fresh);
    free(atomic);
    free(weak);
    free(writes);
    free(reads);
  }
}
