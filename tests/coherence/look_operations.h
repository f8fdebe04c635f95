/* The operations of `checker look` (look_operations.c), and how they tell that an answer was wrong (look.c). */
#ifndef LOOK_OPERATIONS_H
#define LOOK_OPERATIONS_H

#include "look.h"

enum operation_kind {
  WRITE, APPEND_TO, TRUNCATE, CREATE, RENAME, UNLINK, MKDIR, RMDIR, LINK, MAKE_SYMLINK, CHMOD, UTIMES, SETXATTR,
  REMOVEXATTR, LOCK, FSYNC, OPEN_HANDLE, OPEN_DIRECTORY, CLOSE_HANDLE, MAP, UNMAP, MAPPED_WRITE, OPERATION_KINDS
};

struct operation {
  uint32_t number;
  enum operation_kind kind;
  int mount;
  /* What it names, or the handle or mapping that it goes through (slot >= 0). */
  struct object *dir, *dir2;
  int name, name2;
  int slot;
  char path[REL_BYTES], path2[REL_BYTES];
  int64_t offset;
  size_t length;
  mode_t mode;
  int xattr;
  /* Different ways of doing it. */
  unsigned variant;
  /* Where a handle is kept afterwards; -1: it is closed. */
  int keep;
};

extern const char *const operation_names[OPERATION_KINDS];

void draw_operation(struct operation *operation, uint64_t *random);
void describe_operation(char *text, size_t bytes, const struct operation *operation);
/* Does it, compares what it answers with the model, and changes the model. */
void do_operation(struct operation *operation);
/* The object that it is about, as far as there is one. */
struct object *object_of(const struct operation *operation);

/* An operation answered `error` (0: it was done) where `right` should have been. Does not return without --count. */
void wrong_answer(const struct operation *operation, const char *what, int error, int right);

#endif
