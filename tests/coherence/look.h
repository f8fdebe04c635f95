/* What the parts of `checker look` share: the model of what is right, what is kept open, and the looks. look.c runs them. */
#ifndef LOOK_H
#define LOOK_H

#include "checker.h"

#include <dirent.h>
#include <sys/stat.h>

#define NAMES 6          /* in each directory */
#define DIRECTORIES 4    /* at most, with the top one */
#define DEPTH_MAX 3
#define XATTRS 3
#define FILE_BYTES_MAX 200000
#define HANDLES 6        /* on each mount */
#define MAPPINGS 3
#define REL_BYTES 96

/* ---- the model (look_model.c) */

enum type { REGULAR, DIRECTORY, SYMLINK };

struct xattr {
  bool is_set;
  uint32_t stamp;
  int length;
};

/* An inode. It goes with its last name, handle and mapping. */
struct object {
  long id;
  enum type type;
  /* As told by the mount that made it. */
  ino_t ino;
  mode_t mode;
  /* Names; a directory has one or none. */
  int links;
  /* Handles and mappings. */
  int uses;
  /* Known from when it was set until something else changes it. */
  bool is_mtime_known;
  struct timespec mtime;
  struct xattr xattr[XATTRS];
  int64_t size;
  uint8_t *data;
  /* Which operation wrote each byte; 0: none. */
  uint32_t *stamp;
  char target[24];
  struct object *parent;
  struct object *entry[NAMES];
};

extern struct object *top;
extern const char *const name_texts[NAMES];

struct object *new_object(enum type type, mode_t mode);
/* Frees an object that nothing refers to any more. */
void drop_if_unused(struct object *object);
void free_model(void);

void model_write(struct object *file, int64_t offset, size_t length, uint32_t stamp);
void model_truncate(struct object *file, int64_t size);
/* Puts an object at a name, or takes it away (NULL). What was there loses the name. */
void model_link(struct object *dir, int name, struct object *object);
int subdirectories(const struct object *dir);
int entries(const struct object *dir);
bool is_below(const struct object *object, const struct object *dir);
int depth_of(const struct object *dir);
int list_directories(struct object *found[DIRECTORIES]);

/* "b/e": a name below the top directory. "" is the top directory itself. */
void path_to(char path[REL_BYTES], const struct object *dir, int name);
/* What is at a path; NULL with *error otherwise. */
struct object *resolve(const char *path, int *error);

/* The byte that operation `stamp` writes at `offset`; never 0, and another one than operations shortly before wrote. */
void fill_pattern(uint8_t *data, int64_t offset, size_t length, uint32_t stamp);
/* Which operation could have written these bytes: the newest one, or 0. */
uint32_t find_stamp(const uint8_t *data, int64_t offset, size_t length, uint32_t newest);
/* The value of an extended attribute. Returns its length. */
size_t xattr_value(const struct xattr *xattr, uint8_t *value);

/* ---- what is kept open on each mount (look_kept.c) */

struct handle {
  int fd;
  DIR *dir;
  bool appends;
  struct object *object;
};

struct mapping {
  uint8_t *bytes;
  size_t length;
  int fd;
  /*
   * Bytes that were there all the time since this mount was last asked for the size. A kernel asks nobody how long a
   * file is when a mapping is touched, so who wants to see more of it must ask first, as any program would.
   */
  int64_t known;
  struct object *object;
};

extern struct handle handles[MOUNTS_MAX][HANDLES];
extern struct mapping mappings[MOUNTS_MAX][MAPPINGS];
/* Mappings that the file system would not give (ENODEV). */
extern long mappings_refused;

void keep_handle(int mount, int slot, int fd, DIR *dir, bool appends, struct object *object);
void close_handle(int mount, int slot);
/* The descriptor goes with the mapping. */
void keep_mapping(int mount, int slot, uint8_t *bytes, size_t length, int fd, struct object *object);
/* The file has become shorter. */
void note_cut(const struct object *file);
/* Asks for the size unless bytes up to `end` are known to be there. */
void know_size(int mount, int slot, int64_t end);
void drop_mapping(int mount, int slot);
void drop_all_kept(void);
/* A slot that holds the object, else any slot of that type in use if `any`, else -1. */
int find_handle(int mount, const struct object *object, enum type type, bool any, uint64_t *random);
int find_mapping(int mount, const struct object *object, bool any, uint64_t *random);

/* ---- looks (look_looks.c) */

enum look_kind {
  LOOK_STAT, LOOK_FORMER, LOOK_FSTAT, LOOK_READ, LOOK_READ_HANDLE, LOOK_READ_ALL, LOOK_READ_MAPPING, LOOK_READDIR,
  LOOK_READDIR_HANDLE, LOOK_OPEN, LOOK_ACCESS, LOOK_READLINK, LOOK_GETXATTR, LOOK_LISTXATTR, LOOK_KINDS
};

extern const char *const look_names[LOOK_KINDS];

struct look {
  enum look_kind kind;
  int mount;
  char path[REL_BYTES];
  /* A handle or mapping, and which object it was of. */
  int slot;
  long object;
  int64_t offset;
  size_t length;
  int xattr;
};

/* What a look has shown, or should have. */
struct seen {
  int error;
  size_t length, capacity;
  uint8_t *bytes;
};

/* Finds out what the file system can be asked for. */
void probe_looks(const char *base);
extern bool has_xattrs;
/* The path of the tree's top on a mount. */
extern char base_path[MOUNTS_MAX][PATH_BYTES];
void absolute(char full[PATH_BYTES], int mount, const char *path);

/* False when there is nothing to look at any more. */
bool expect_look(const struct look *look, struct seen *right);
void do_look(const struct look *look, struct seen *seen, uint64_t *random);
bool is_same(const struct seen *a, const struct seen *b);
void describe_look(char *text, size_t bytes, const struct look *look);
void describe_difference(char *text, size_t bytes, const struct look *look, const struct seen *seen,
                         const struct seen *right, uint32_t newest);

#endif
