/* What the parts of `checker race` share: threads and the history that they record. race.c says how they work together. */
#ifndef RACE_H
#define RACE_H

#include "checker.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS_MAX 60
/* The set-up's writes are those of one more thread. */
#define SETUP_THREAD 255
/* The end of an operation of which nobody knows what it did, or when. */
#define NEVER UINT64_MAX
#define OBJECTS_MAX 4

enum what {
  REGISTER_WRITE, REGISTER_READ, REGISTER_READ_NAME, REGISTER_READ_MAPPED, OVERLAP_WRITE, OVERLAP_READ, APPEND_WRITE,
  APPEND_READ, APPEND_SIZE, NAME_CREATE, NAME_UNLINK, NAME_RENAME, NAME_STAT, NAME_OPEN, NAME_READDIR, MODE_SET,
  MODE_GET, TIME_SET, TIME_GET, REPLACE, REPLACE_OPEN, REPLACE_STAT, WHATS
};

extern const char *const what_names[WHATS];

enum { TORN = 1, TORN_IN_PAGE = 2 };

/* One operation. What `value` and the others hold is said where it is made. */
struct record {
  uint64_t start, end;
  uint64_t value;
  uint32_t extra, extra2;
  uint8_t what, object, thread, flags;
};

struct worker {
  int id, mount;
  pthread_t thread;
  uint64_t random;
  /* The history of this epoch, and what of it is larger than a record. */
  struct record *records;
  size_t count, capacity;
  uint64_t *bulk;
  size_t bulk_count, bulk_capacity;
  /* When the operation under way began, 0: none; and what it is. */
  _Atomic uint64_t busy_since;
  _Atomic(const char *) busy_with;
  _Atomic bool is_idle;
  _Atomic long operations;
  long by_what[WHATS], unknown;
  uint64_t longest_ns;
  const char *longest_name;
  /* Descriptors and mappings of this epoch; -1 and NULL: not yet. */
  int register_fd[OBJECTS_MAX], overlap_fd[OBJECTS_MAX], log_fd[OBJECTS_MAX], attribute_fd[OBJECTS_MAX];
  void *register_map[OBJECTS_MAX];
  void *names_dir;
  /* Bytes of each log that this thread knows of. */
  uint64_t log_size[OBJECTS_MAX];
  uint64_t mode_sequence;
  /* For --inject: what was seen some time ago. */
  uint64_t old_value[16];
  int old_count[16];
};

extern struct worker workers[THREADS_MAX];
extern int worker_count;
extern unsigned epoch;
extern uint64_t epoch_start;
/* Mounts that have one kernel below them, such as one directory given twice, see each other's unfinished writes. */
extern bool is_same_device[MOUNTS_MAX][MOUNTS_MAX];
extern atomic_long mappings_refused_by_race, torn_excused, unchecked;

/* ---- recording */

/* Begins an operation: its start. */
uint64_t begin(struct worker *worker, enum what what);
/* Ends it and keeps it: `value` and `object`. The record stays valid until the next one. */
struct record *finish(struct worker *worker, enum what what, int object, uint64_t start, uint64_t value);
/* The operation failed. True when nobody knows what it did: then it was recorded so, or dropped if it only looked. */
bool failed(struct worker *worker, enum what what, int object, uint64_t start, uint64_t value, int error);
/*
 * Where faults are injected, a write counts as acknowledged when a close(2) after it has succeeded: what a mount was allowed
 * to keep to itself until then may be lost with it, if that is told. 0, or -1 and errno.
 */
int acknowledged(int fd);
/* Keeps words that belong to a record; returns where. */
uint32_t keep_bulk(struct worker *worker, const uint64_t *words, size_t count);

/* A value that nobody else writes: it says which record of which thread wrote it. */
uint64_t next_stamp(const struct worker *worker);
uint64_t setup_stamp(int object);
/* "write #12 of thread 3" */
void describe_stamp(char *text, size_t bytes, uint64_t stamp);
void describe_record(char *text, size_t bytes, const struct record *record);
int mount_of(const struct record *record);

/* All records of some kinds (bits 1 << what) on an object, in no order. The caller frees the list. */
const struct record **gather(unsigned kinds, int object, size_t *count);

/* Something is wrong. */
void wrong(const char *kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "BASE/NAME-INDEX" on a mount. */
void race_path(char path[PATH_BYTES], int mount, const char *name, int index);
/* True when servers may be away: the set-up and the last look try again, until `since` is too long ago. */
bool is_worth_a_retry(int error, uint64_t since);
/* Gives a name a new file with this content, by renaming over the old one. */
void setup_file(const char *name, int index, const void *content, size_t length);

/* ---- answers made wrong on purpose */

bool is_injected(struct worker *worker, const char *what);
/* Now and then what was seen some time ago. */
uint64_t inject_old(struct worker *worker, const char *what, int slot, uint64_t value);

/* ---- one part for each kind of object */

void setup_registers(void);
void race_registers(struct worker *worker);
void check_registers(void);
void setup_overlap(void);
void race_overlap(struct worker *worker);
void check_overlap(void);
void setup_append(void);
void race_append(struct worker *worker);
void check_append(void);
void setup_names(void);
void race_names(struct worker *worker);
void check_names(void);
void setup_attributes(void);
void race_attributes(struct worker *worker);
void check_attributes(void);
void setup_replace(void);
void race_replace(struct worker *worker);
void check_replace(void);

#endif
