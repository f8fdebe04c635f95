/*
 * The operations of `checker look`. Each is drawn from the model, done through one mount, and then done to the model.
 * What it must answer is known before; an answer that says something else is a look at something old, too.
 */
#include "look_operations.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

const char *const operation_names[OPERATION_KINDS] = {
  [WRITE] = "write", [APPEND_TO] = "append", [TRUNCATE] = "truncate", [CREATE] = "create", [RENAME] = "rename",
  [UNLINK] = "unlink", [MKDIR] = "mkdir", [RMDIR] = "rmdir", [LINK] = "link", [MAKE_SYMLINK] = "symlink",
  [CHMOD] = "chmod", [UTIMES] = "utimensat", [SETXATTR] = "setxattr", [REMOVEXATTR] = "removexattr",
  [LOCK] = "lock", [FSYNC] = "fsync", [OPEN_HANDLE] = "open", [OPEN_DIRECTORY] = "opendir",
  [CLOSE_HANDLE] = "close", [MAP] = "mmap", [UNMAP] = "munmap", [MAPPED_WRITE] = "mapped write",
};

static const int weights[OPERATION_KINDS] = {
  [WRITE] = 14, [APPEND_TO] = 8, [TRUNCATE] = 6, [CREATE] = 14, [RENAME] = 10, [UNLINK] = 6, [MKDIR] = 4, [RMDIR] = 2,
  [LINK] = 4, [MAKE_SYMLINK] = 2, [CHMOD] = 5, [UTIMES] = 5, [SETXATTR] = 5, [REMOVEXATTR] = 2, [LOCK] = 2,
  [FSYNC] = 1, [OPEN_HANDLE] = 8, [OPEN_DIRECTORY] = 3, [CLOSE_HANDLE] = 3, [MAP] = 5, [UNMAP] = 1,
  [MAPPED_WRITE] = 4,
};

static const mode_t file_modes[] = {0600, 0640, 0644, 0666, 0700, 0711, 0755, 0751};
static const mode_t directory_modes[] = {0700, 0711, 0755, 0750, 0777, 0770, 0751, 0715};

/* ---- drawing */

static bool is_wanted(enum operation_kind kind) {
  switch (kind) {
    case OPEN_HANDLE:
    case OPEN_DIRECTORY:
    case CLOSE_HANDLE: return options.by_handle;
    case MAP:
    case UNMAP: return options.by_mapping;
    case MAPPED_WRITE: return options.by_mapping && options.mapped_writes;
    case SETXATTR:
    case REMOVEXATTR: return has_xattrs;
    default: return true;
  }
}

static enum operation_kind draw_kind(uint64_t *random) {
  int sum = 0;
  for (int i = 0; i < OPERATION_KINDS; i++) sum += weights[i];
  for (;;) {
    int left = (int)random_below(random, (uint64_t)sum), i = 0;
    while ((left -= weights[i]) >= 0) i++;
    if (is_wanted((enum operation_kind)i)) return (enum operation_kind)i;
  }
}

/* A name, mostly of something of the type. */
static void draw_name(struct object **dir, int *name, int type, uint64_t *random) {
  struct object *found[DIRECTORIES];
  int count = list_directories(found);
  for (int attempt = 0; attempt < 8; attempt++) {
    *dir = found[random_below(random, (uint64_t)count)];
    *name = (int)random_below(random, NAMES);
    const struct object *object = (*dir)->entry[*name];
    if (type < 0 || (object != NULL && (int)object->type == type)) return;
  }
}

static int wanted_type(enum operation_kind kind, uint64_t *random) {
  switch (kind) {
    case WRITE:
    case APPEND_TO:
    case TRUNCATE:
    case LINK:
    case LOCK:
    case FSYNC:
    case OPEN_HANDLE:
    case MAP: return REGULAR;
    case RMDIR: return DIRECTORY;
    case OPEN_DIRECTORY: return DIRECTORY;
    case UNLINK:
    case CHMOD:
    case SETXATTR:
    case REMOVEXATTR: return one_in(random, 5) ? DIRECTORY : REGULAR;
    case RENAME:
      switch (random_below(random, 6)) {
        case 0: return DIRECTORY;
        case 1: return SYMLINK;
        case 2: return -1;
        default: return REGULAR;
      }
    default: return -1;
  }
}

static size_t draw_length(uint64_t *random) {
  switch (random_below(random, 5)) {
    case 0: return 1;
    case 1: return 100;
    case 2: return PAGE;
    case 3: return 1 + random_below(random, 300);
    default: return 1 + random_below(random, 30000);
  }
}

static int64_t draw_offset(uint64_t *random) {
  switch (random_below(random, 4)) {
    case 0: return 0;
    case 1: return (int64_t)random_below(random, 2 * PAGE);
    case 2: return PAGE * (int64_t)random_below(random, 8);
    default: return (int64_t)random_below(random, 150000);
  }
}

static bool goes_through_handle(enum operation_kind kind) {
  return kind == WRITE || kind == APPEND_TO || kind == TRUNCATE || kind == CHMOD || kind == UTIMES ||
         kind == SETXATTR || kind == REMOVEXATTR || kind == LOCK || kind == FSYNC;
}

void draw_operation(struct operation *operation, uint64_t *random) {
  enum operation_kind kind = draw_kind(random);
  struct object *found[DIRECTORIES];
  int directories = list_directories(found);
  *operation = (struct operation){.number = operation->number, .mount = (int)random_below(random, (uint64_t)options.mounts)};
  draw_name(&operation->dir, &operation->name, wanted_type(kind, random), random);
  if (kind == OPEN_DIRECTORY && one_in(random, 2)) operation->dir = NULL;
  draw_name(&operation->dir2, &operation->name2, one_in(random, 3) ? REGULAR : -1, random);
  // No more directories than fit, and no deeper.
  if (kind == MKDIR && (directories == DIRECTORIES || depth_of(operation->dir) == DEPTH_MAX - 1)) kind = CREATE;
  if (kind == RENAME) {
    const struct object *moved = operation->dir->entry[operation->name];
    bool is_deep = depth_of(operation->dir2) > 0;
    if (moved != NULL && moved->type == DIRECTORY && is_deep && !is_below(operation->dir2, moved)) operation->dir2 = top;
  }
  operation->kind = kind;
  operation->offset = draw_offset(random);
  operation->length = draw_length(random);
  operation->variant = (unsigned)random_u64(random);
  operation->xattr = (int)random_below(random, XATTRS);
  operation->slot = -1;
  if (operation->dir == NULL) operation->path[0] = '\0';
  else path_to(operation->path, operation->dir, operation->name);
  path_to(operation->path2, operation->dir2, operation->name2);
  const struct object *object = object_of(operation);
  bool is_directory = kind == MKDIR || (kind != CREATE && object != NULL && object->type == DIRECTORY);
  operation->mode = (is_directory ? directory_modes : file_modes)[random_below(random, 8)];
  bool by_handle = one_in(random, 2);
  operation->keep = one_in(random, 4) ? (int)random_below(random, HANDLES) : -1;
  if (!options.by_handle) operation->keep = -1;
  if (options.by_handle && by_handle && goes_through_handle(kind))
    operation->slot = find_handle(operation->mount, object, REGULAR, true, random);
  if (kind == CLOSE_HANDLE) operation->slot = (int)random_below(random, HANDLES);
  if (kind == UNMAP) operation->slot = (int)random_below(random, MAPPINGS);
  if (kind == MAPPED_WRITE) operation->slot = find_mapping(operation->mount, object, true, random);
  if (kind == OPEN_HANDLE || kind == OPEN_DIRECTORY) operation->keep = (int)random_below(random, HANDLES);
  if (kind == MAP) operation->keep = (int)random_below(random, MAPPINGS);
}

struct object *object_of(const struct operation *operation) {
  if (operation->slot >= 0) {
    if (operation->kind == UNMAP || operation->kind == MAPPED_WRITE)
      return mappings[operation->mount][operation->slot].object;
    return handles[operation->mount][operation->slot].object;
  }
  int error;
  return resolve(operation->path, &error);
}

void describe_operation(char *text, size_t bytes, const struct operation *operation) {
  const struct object *object = object_of(operation);
  char what[REL_BYTES + 80], more[REL_BYTES + 80] = "";
  if (operation->slot >= 0) snprintf(what, sizeof what, "handle %d", operation->slot);
  else snprintf(what, sizeof what, "/%s", operation->path);
  switch (operation->kind) {
    case WRITE:
    case MAPPED_WRITE:
      snprintf(more, sizeof more, ": %zu bytes at %lld", operation->length, (long long)operation->offset);
      break;
    case APPEND_TO: snprintf(more, sizeof more, ": %zu bytes", operation->length); break;
    case TRUNCATE: snprintf(more, sizeof more, " to %lld", (long long)operation->offset); break;
    case RENAME:
    case LINK: snprintf(more, sizeof more, " to /%s", operation->path2); break;
    case CHMOD: snprintf(more, sizeof more, " to %o", operation->mode); break;
    case CREATE:
      snprintf(more, sizeof more, " %s%s mode %o", operation->variant & 1 ? "O_EXCL" : "",
               (operation->variant & 6) == 6 ? " O_TRUNC" : "", operation->mode);
      break;
    case SETXATTR:
    case REMOVEXATTR: snprintf(more, sizeof more, " user.%c", 'a' + operation->xattr); break;
    default: break;
  }
  int used = snprintf(text, bytes, "%u mount %d: %s %s%s", operation->number, operation->mount + 1,
                      operation_names[operation->kind], what, more);
  if (object == NULL) snprintf(text + used, bytes - (size_t)used, " (nothing there)");
  else
    snprintf(text + used, bytes - (size_t)used, " (object %ld, ino %llu, %lld bytes, %d links)", object->id,
             (unsigned long long)object->ino, (long long)object->size, object->links);
}

/* ---- doing */

/* True when an answer is as it must be, and the operation was done. */
static bool is_done(const struct operation *operation, const char *what, int error, int right) {
  if (options.inject != NULL && strcmp(options.inject, "operation") == 0 && operation->variant % 200 == 0)
    error = error == 0 ? EEXIST : 0;
  if (error != right) wrong_answer(operation, what, error, right);
  return error == 0 && right == 0;
}

static int error_of(long result) { return result < 0 ? errno : 0; }

/* Which file a descriptor is of. A name that leads elsewhere than it should must not be written to. */
static bool is_right_file(const struct operation *operation, int fd, const struct object *object) {
  struct stat status;
  if (fstat(fd, &status) != 0) return is_done(operation, "fstat after open", errno, 0);
  if (status.st_ino == object->ino) return true;
  wrong_answer(operation, "open of another file", ESTALE, 0);
  return false;
}

/* Opens what an operation names; -1 when it can't be. */
static int open_named(const struct operation *operation, int flags) {
  char full[PATH_BYTES];
  int error;
  absolute(full, operation->mount, operation->path);
  const struct object *object = resolve(operation->path, &error);
  bool for_directory = (flags & O_DIRECTORY) != 0;
  if (object != NULL && for_directory && object->type != DIRECTORY) error = ENOTDIR;
  if (object != NULL && !for_directory && object->type != REGULAR) error = object->type == DIRECTORY ? EISDIR : ELOOP;
  int fd = open(full, flags | O_NOFOLLOW);
  if (is_done(operation, "open", error_of(fd), error) && is_right_file(operation, fd, object)) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

/* Keeps a descriptor as a handle where that was drawn, else closes it. */
static void keep_or_close(const struct operation *operation, int fd, bool appends, struct object *object) {
  if (operation->keep >= 0) keep_handle(operation->mount, operation->keep, fd, NULL, appends, object);
  else is_done(operation, "close", error_of(close(fd)), 0);
}

static void learn_ino(const struct operation *operation, struct object *object) {
  struct stat status;
  char full[PATH_BYTES];
  absolute(full, operation->mount, operation->path);
  if (is_done(operation, "lstat of what was made", error_of(lstat(full, &status)), 0)) object->ino = status.st_ino;
}

/* Writes through a descriptor; `appends` whatever the offset says. */
static void write_through(const struct operation *operation, int fd, bool appends, struct object *file) {
  int64_t offset = appends ? file->size : operation->offset;
  size_t length = operation->length;
  if (offset + (int64_t)length > FILE_BYTES_MAX) {
    if (is_done(operation, "ftruncate", error_of(ftruncate(fd, PAGE)), 0)) model_truncate(file, PAGE);
    return;
  }
  uint8_t *data = allocate(length);
  fill_pattern(data, offset, length, operation->number);
  ssize_t count = appends && (operation->variant & 2) ? write(fd, data, length) : pwrite(fd, data, length, offset);
  if (is_done(operation, "write", error_of(count), 0)) {
    if (count != (ssize_t)length) wrong_answer(operation, "short write", EIO, 0);
    model_write(file, offset, length, operation->number);
  }
  free(data);
}

static void do_data(const struct operation *operation) {
  bool by_path = operation->kind == TRUNCATE && operation->slot < 0 && (operation->variant & 1);
  bool appends = operation->kind == APPEND_TO;
  if (by_path) {
    char full[PATH_BYTES];
    int error;
    absolute(full, operation->mount, operation->path);
    struct object *object = resolve(operation->path, &error);
    if (object != NULL) error = object->type == REGULAR ? 0 : object->type == DIRECTORY ? EISDIR : ENOENT;
    if (is_done(operation, "truncate", error_of(truncate(full, operation->offset)), error))
      model_truncate(object, operation->offset);
    return;
  }
  struct object *file = object_of(operation);
  int fd = operation->slot >= 0 ? handles[operation->mount][operation->slot].fd
                                : open_named(operation, O_RDWR | (appends ? O_APPEND : 0));
  if (fd < 0) return;
  // A handle appends or not as it was opened.
  if (operation->slot >= 0) appends = handles[operation->mount][operation->slot].appends;
  if (operation->kind == TRUNCATE) {
    if (is_done(operation, "ftruncate", error_of(ftruncate(fd, operation->offset)), 0))
      model_truncate(file, operation->offset);
  } else {
    write_through(operation, fd, appends, file);
  }
  if (operation->slot < 0) keep_or_close(operation, fd, appends, file);
}

static void do_create(const struct operation *operation) {
  char full[PATH_BYTES];
  int error;
  bool excludes = operation->variant & 1, empties = (operation->variant & 6) == 6;
  absolute(full, operation->mount, operation->path);
  struct object *object = resolve(operation->path, &error);
  if (object == NULL && error == ENOENT) error = 0;
  if (object != NULL && object->type == DIRECTORY) error = EISDIR;
  if (object != NULL && object->type == SYMLINK) error = ELOOP;
  if (object != NULL && excludes) error = EEXIST;
  int flags = O_RDWR | O_CREAT | O_NOFOLLOW | (excludes ? O_EXCL : 0) | (empties ? O_TRUNC : 0);
  int fd = open(full, flags, operation->mode);
  if (!is_done(operation, "open", error_of(fd), error)) {
    if (fd >= 0) close(fd);
    return;
  }
  if (object == NULL) {
    struct stat status;
    object = new_object(REGULAR, operation->mode);
    if (is_done(operation, "fstat", error_of(fstat(fd, &status)), 0)) object->ino = status.st_ino;
    if (status.st_size != 0 || status.st_nlink != 1) wrong_answer(operation, "a new file that is not new", EIO, 0);
    model_link(operation->dir, operation->name, object);
  } else if (!is_right_file(operation, fd, object)) {
    close(fd);
    return;
  } else if (empties) {
    model_truncate(object, 0);
  }
  if (operation->variant & 8) write_through(operation, fd, false, object);
  keep_or_close(operation, fd, false, object);
}

static int rename_error(const struct operation *operation, struct object *source, struct object *target) {
  if (source == NULL) return ENOENT;
  if (source->type == DIRECTORY && is_below(operation->dir2, source)) return EINVAL;
  if (target != NULL && target->type == DIRECTORY && is_below(operation->dir, target)) return ENOTEMPTY;
  if (target == NULL || source == target) return 0;
  if (source->type == DIRECTORY && target->type != DIRECTORY) return ENOTDIR;
  if (source->type != DIRECTORY && target->type == DIRECTORY) return EISDIR;
  return target->type == DIRECTORY && entries(target) > 0 ? ENOTEMPTY : 0;
}

static void do_rename(const struct operation *operation) {
  char from[PATH_BYTES], to[PATH_BYTES];
  struct object *source = operation->dir->entry[operation->name];
  struct object *target = operation->dir2->entry[operation->name2];
  absolute(from, operation->mount, operation->path);
  absolute(to, operation->mount, operation->path2);
  int error = rename_error(operation, source, target);
  if (!is_done(operation, "rename", error_of(rename(from, to)), error) || source == target) return;
  source->uses++; // or it would go with its name
  model_link(operation->dir, operation->name, NULL);
  model_link(operation->dir2, operation->name2, source);
  source->uses--;
  if (source->type == DIRECTORY) source->is_mtime_known = false; // its ".." changes
}

static void do_remove(const struct operation *operation, bool directory) {
  char full[PATH_BYTES];
  int error;
  absolute(full, operation->mount, operation->path);
  struct object *object = resolve(operation->path, &error);
  if (object != NULL) {
    if (!directory) error = object->type == DIRECTORY ? EISDIR : 0;
    else error = object->type != DIRECTORY ? ENOTDIR : entries(object) > 0 ? ENOTEMPTY : 0;
  }
  long result = directory ? rmdir(full) : unlink(full);
  if (!is_done(operation, directory ? "rmdir" : "unlink", error_of(result), error)) return;
  object->uses++;
  model_link(operation->dir, operation->name, NULL);
  // It has no entries any more, whatever it is asked for.
  if (object->type == DIRECTORY) object->parent = NULL;
  object->uses--;
  drop_if_unused(object);
}

static void do_make(const struct operation *operation) {
  char full[PATH_BYTES];
  int error;
  bool is_directory = operation->kind == MKDIR;
  absolute(full, operation->mount, operation->path);
  error = resolve(operation->path, &error) != NULL ? EEXIST : 0;
  char target[24];
  snprintf(target, sizeof target, "absent-%u", operation->number);
  long result = is_directory ? mkdir(full, operation->mode) : symlink(target, full);
  if (!is_done(operation, is_directory ? "mkdir" : "symlink", error_of(result), error)) return;
  struct object *object = new_object(is_directory ? DIRECTORY : SYMLINK, is_directory ? operation->mode : 0777);
  memcpy(object->target, target, sizeof target);
  model_link(operation->dir, operation->name, object);
  learn_ino(operation, object);
}

static void do_link(const struct operation *operation) {
  char from[PATH_BYTES], to[PATH_BYTES];
  struct object *source = operation->dir->entry[operation->name];
  absolute(from, operation->mount, operation->path);
  absolute(to, operation->mount, operation->path2);
  int error = source == NULL                                        ? ENOENT
              : operation->dir2->entry[operation->name2] != NULL    ? EEXIST
              : source->type == DIRECTORY                           ? EPERM
                                                                    : 0;
  if (is_done(operation, "link", error_of(link(from, to)), error))
    model_link(operation->dir2, operation->name2, source);
}

/* Changes of what an inode says of itself: by its name, or through a handle. */
static void do_attributes(const struct operation *operation) {
  char full[PATH_BYTES], name[8];
  uint8_t value[256];
  int error = 0;
  int fd = operation->slot >= 0 ? handles[operation->mount][operation->slot].fd : -1;
  struct object *object = object_of(operation);
  if (fd < 0) object = resolve(operation->path, &error);
  absolute(full, operation->mount, operation->path);
  snprintf(name, sizeof name, "user.%c", 'a' + operation->xattr);
  bool is_link = object != NULL && object->type == SYMLINK;
  struct xattr xattr = {true, operation->number, (int)(operation->length % 200)};
  struct timespec times[2] = {
    {.tv_nsec = UTIME_OMIT},
    {1000000000 + (time_t)operation->number, (long)(mix(operation->number) % 1000000000)},
  };
  long result;
  switch (operation->kind) {
    case CHMOD:
      if (is_link) error = ENOENT; // it is followed
      result = fd >= 0 ? fchmod(fd, operation->mode) : chmod(full, operation->mode);
      break;
    case UTIMES:
      result = fd >= 0 ? futimens(fd, times) : utimensat(AT_FDCWD, full, times, AT_SYMLINK_NOFOLLOW);
      break;
    case SETXATTR: {
      if (is_link) error = EPERM;
      size_t length = xattr_value(&xattr, value);
      result = fd >= 0 ? fsetxattr(fd, name, value, length, 0) : lsetxattr(full, name, value, length, 0);
      break;
    }
    default:
      if (is_link) error = EPERM;
      else if (object != NULL && !object->xattr[operation->xattr].is_set) error = ENODATA;
      result = fd >= 0 ? fremovexattr(fd, name) : lremovexattr(full, name);
      break;
  }
  if (!is_done(operation, operation_names[operation->kind], error_of(result), error)) return;
  switch (operation->kind) {
    case CHMOD: object->mode = operation->mode; break;
    case UTIMES:
      object->is_mtime_known = true;
      object->mtime = times[1];
      break;
    case SETXATTR: object->xattr[operation->xattr] = xattr; break;
    default: object->xattr[operation->xattr].is_set = false; break;
  }
}

static void do_lock(const struct operation *operation) {
  struct object *file = object_of(operation);
  int fd = operation->slot >= 0 ? handles[operation->mount][operation->slot].fd : open_named(operation, O_RDWR);
  if (fd < 0) return;
  if (operation->kind == FSYNC) {
    is_done(operation, "fsync", error_of(fsync(fd)), 0);
  } else if (operation->variant & 1) {
    is_done(operation, "flock", error_of(flock(fd, (operation->variant & 2 ? LOCK_EX : LOCK_SH) | LOCK_NB)), 0);
    is_done(operation, "flock to unlock", error_of(flock(fd, LOCK_UN)), 0);
  } else {
    struct flock lock = {.l_type = operation->variant & 2 ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET,
                         .l_start = operation->offset, .l_len = (off_t)operation->length};
    is_done(operation, "fcntl F_SETLK", error_of(fcntl(fd, F_SETLK, &lock)), 0);
    lock.l_type = F_UNLCK;
    is_done(operation, "fcntl to unlock", error_of(fcntl(fd, F_SETLK, &lock)), 0);
  }
  if (operation->slot < 0) keep_or_close(operation, fd, false, file);
}

static void do_open(const struct operation *operation) {
  bool appends = operation->variant % 4 == 0;
  struct object *object = object_of(operation);
  if (operation->kind == OPEN_HANDLE) {
    int fd = open_named(operation, O_RDWR | (appends ? O_APPEND : 0));
    if (fd >= 0) keep_handle(operation->mount, operation->keep, fd, NULL, appends, object);
    return;
  }
  int fd = open_named(operation, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return;
  DIR *dir = fdopendir(fd);
  if (dir == NULL) give_up("fdopendir");
  keep_handle(operation->mount, operation->keep, fd, dir, false, object);
}

static void do_map(const struct operation *operation) {
  struct object *file = object_of(operation);
  if (file == NULL || file->type != REGULAR || file->size == 0) return;
  int fd = open_named(operation, O_RDWR);
  if (fd < 0) return;
  size_t length = ((size_t)file->size + PAGE - 1) / PAGE * PAGE;
  int protection = PROT_READ | (options.mapped_writes ? PROT_WRITE : 0);
  void *bytes = mmap(NULL, length, protection, MAP_SHARED, fd, 0);
  if (bytes != MAP_FAILED) {
    keep_mapping(operation->mount, operation->keep, bytes, length, fd, file);
    return;
  }
  if (errno == ENODEV) mappings_refused++;
  else wrong_answer(operation, "mmap", errno, 0);
  is_done(operation, "close", error_of(close(fd)), 0);
}

static void do_mapped_write(const struct operation *operation) {
  if (operation->slot < 0) return;
  struct mapping *mapping = &mappings[operation->mount][operation->slot];
  struct object *file = mapping->object;
  int64_t end = file->size < (int64_t)mapping->length ? file->size : (int64_t)mapping->length;
  if (end == 0) return;
  int64_t offset = operation->offset % end;
  size_t length = operation->length;
  if ((int64_t)length > end - offset) length = (size_t)(end - offset);
  uint8_t *data = allocate(length);
  fill_pattern(data, offset, length, operation->number);
  know_size(operation->mount, operation->slot, offset + (int64_t)length);
  bool is_written = copy_mapped(mapping->bytes + offset, data, length);
  free(data);
  if (!is_written) return wrong_answer(operation, "SIGBUS", EFAULT, 0);
  model_write(file, offset, length, operation->number);
  is_done(operation, "msync", error_of(msync(mapping->bytes, mapping->length, MS_SYNC)), 0);
}

void do_operation(struct operation *operation) {
  switch (operation->kind) {
    case WRITE:
    case APPEND_TO:
    case TRUNCATE: do_data(operation); break;
    case CREATE: do_create(operation); break;
    case RENAME: do_rename(operation); break;
    case UNLINK: do_remove(operation, false); break;
    case RMDIR: do_remove(operation, true); break;
    case MKDIR:
    case MAKE_SYMLINK: do_make(operation); break;
    case LINK: do_link(operation); break;
    case CHMOD:
    case UTIMES:
    case SETXATTR:
    case REMOVEXATTR: do_attributes(operation); break;
    case LOCK:
    case FSYNC: do_lock(operation); break;
    case OPEN_HANDLE:
    case OPEN_DIRECTORY: do_open(operation); break;
    case CLOSE_HANDLE: close_handle(operation->mount, operation->slot); break;
    case MAP: do_map(operation); break;
    case UNMAP: drop_mapping(operation->mount, operation->slot); break;
    case MAPPED_WRITE: do_mapped_write(operation); break;
    case OPERATION_KINDS: break;
  }
}
