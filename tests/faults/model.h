/*
 * What a worker knows of its files: for each byte which write it must come from, and which others it may come from as long
 * as nothing was acknowledged by close or fsync. worker.c says what the program is for.
 */
#ifndef MODEL_H
#define MODEL_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Of a file's window, which begins at `base`; before that there is a hole. */
#define WINDOW_BYTES (3u << 20)
/* So that the window lies across the border of two blocks. */
#define SECOND_BASE ((128ll << 20) - (1 << 20))
#define RECENT 256
#define NAME_BYTES 32

/* A write or a truncate. Versions count up from 1; 0 is what is a hole. */
struct change {
  size_t start, end;
  uint16_t version;
  size_t size_before;
  /* Versions that it replaced. */
  uint16_t *former;
};

struct file {
  /* Part of the content: another one for each file that was ever made. */
  uint32_t id;
  bool exists;
  char name[NAME_BYTES];
  ino_t ino;
  off_t base;
  size_t size;
  uint16_t last_version;
  uint16_t *version;
  /* What no close or fsync has acknowledged yet, in order. */
  struct change *pending;
  int pendings;
  /* The last changes, `former` apart; how many there were. */
  struct change recent[RECENT];
  unsigned changes;
  /* Another one: what was known before is of no use. */
  unsigned epoch;
  /* Its name, or what it is, may be another just now. */
  bool is_unsure;
};

/* What was allowed when a read began. */
struct snapshot {
  size_t start, end;
  uint16_t *version;
  struct change *pending;
  int pendings;
  unsigned changes, epoch;
};

uint8_t content(const struct file *file, uint16_t version, size_t at);
void fill(const struct file *file, uint16_t version, size_t start, size_t end, uint8_t *bytes);

void file_make(struct file *file, uint32_t id, off_t base);
void file_free(struct file *file);
/* A change begins: of a write the range gets `version`, of a truncate 0. Answers the version. */
uint16_t change_write(struct file *file, size_t start, size_t end);
void change_truncate(struct file *file, size_t size);
/* What was changed so far is acknowledged. */
void commit(struct file *file);

/* One of the sizes that the file may have. */
bool may_have_size(const struct file *file, size_t size);
/* What was read is what the file is from now on: -1, or the first wrong byte. */
ssize_t settle(struct file *file, const uint8_t *bytes, size_t size);

struct snapshot snapshot_take(const struct file *file, size_t start, size_t end);
/* -1, or the first byte of what was read from `snapshot.start` that is none of those allowed then or made since. */
ssize_t snapshot_check(const struct snapshot *snapshot, const struct file *file, const uint8_t *bytes, size_t count);
void snapshot_free(struct snapshot *snapshot);

void *allocate(size_t bytes);

#endif
