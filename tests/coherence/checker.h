/*
 * What the parts of the coherence checker share: the command line, randomness, clocks, and ways to tell things.
 * checker.c says what the program is for.
 */
#ifndef CHECKER_H
#define CHECKER_H

#define _GNU_SOURCE
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MOUNTS_MAX 8
#define PATH_BYTES 512
#define PAGE 4096

/* Bits of options.only: what `race` runs on. */
enum { REGISTERS = 1, OVERLAP = 2, APPEND = 4, NAMES = 8, ATTRIBUTES = 16, REPLACED = 32, EVERYTHING = 63 };
#define PARTS 6

struct options {
  uint64_t seed;
  int mounts;
  /* Directories of one file system, one a mount. */
  const char *mount[MOUNTS_MAX];
  /* The answer of one check is made wrong now and then: see `inject` in each mode. NULL: none is. */
  const char *inject;
  bool json;

  /* look */
  long operations;
  bool by_name, by_handle, by_mapping, mapped_writes, count;
  int settle_ms;

  /* race */
  double seconds;
  int threads;
  int pause_ms;
  unsigned only;
  bool faults, mapped, allow_torn, strict;
  long epoch_operations;
  double epoch_seconds;
  double hang_seconds;
};

extern struct options options;

int look(void);
int race(void);

/* ---- randomness: splitmix64 */

static inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static inline uint64_t random_u64(uint64_t *state) { return mix(*state += 0x9e3779b97f4a7c15ull); }

static inline uint64_t random_below(uint64_t *state, uint64_t limit) { return random_u64(state) % limit; }

/* True once in `times`. */
static inline bool one_in(uint64_t *state, uint64_t times) { return random_below(state, times) == 0; }

/* ---- clocks */

/* CLOCK_MONOTONIC in ns: the same for all threads and mounts of this machine. */
uint64_t now_ns(void);
void sleep_ms(double ms);

/* ---- memory that is there, or the program ends */

void *allocate(size_t bytes);
void *grow(void *memory, size_t bytes);

/* ---- reports */

/* Ends the program with 2: it can't do its work here. Says errno. */
void give_up(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* "ENOENT" for ENOENT. */
const char *errno_name(int error);

/* ---- system calls */

/* Reads until `length` bytes or the end. Returns the count, or -errno. */
long read_fully(int fd, void *buffer, size_t length, int64_t offset);

/* Copies from a mapping. False when the kernel answered with SIGBUS. */
bool copy_mapped(void *to, const volatile void *from, size_t length);
void catch_bus_errors(void);

/* Removes a tree, as far as it can. */
void remove_tree(const char *path);

#endif
