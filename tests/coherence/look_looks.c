/*
 * The looks of `checker look`: each asks the file system for one thing through one mount, and says what the model says
 * about the same. Both are given as an errno and bytes, so that they can be compared, kept and told in one way.
 */
#include "look.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

const char *const look_names[LOOK_KINDS] = {
  [LOOK_STAT] = "stat", [LOOK_FORMER] = "stat-former", [LOOK_FSTAT] = "fstat", [LOOK_READ] = "read",
  [LOOK_READ_HANDLE] = "read-handle", [LOOK_READ_ALL] = "read-all", [LOOK_READ_MAPPING] = "read-mapping",
  [LOOK_READDIR] = "readdir", [LOOK_READDIR_HANDLE] = "readdir-handle", [LOOK_OPEN] = "open",
  [LOOK_ACCESS] = "access", [LOOK_READLINK] = "readlink", [LOOK_GETXATTR] = "getxattr",
  [LOOK_LISTXATTR] = "listxattr",
};

char base_path[MOUNTS_MAX][PATH_BYTES];
/* What this file system can be asked for. */
bool has_xattrs;
static bool has_directory_nlink, has_entry_ino;

void absolute(char full[PATH_BYTES], int mount, const char *path) {
  snprintf(full, PATH_BYTES, "%.400s%s%s", base_path[mount], path[0] == '\0' ? "" : "/", path);
}

/* ---- what is seen, as bytes */

struct shown {
  int64_t type, mode, nlink, size, ino, mtime_s, mtime_ns;
};

struct shown_entry {
  char name[16];
  int64_t ino, type;
};

static uint8_t *reserve(struct seen *seen, size_t length) {
  if (length > seen->capacity) seen->bytes = grow(seen->bytes, seen->capacity = length);
  seen->length = length;
  return seen->bytes;
}

static void set_error(struct seen *seen, int error) {
  seen->error = error;
  seen->length = 0;
}

static void set_bytes(struct seen *seen, const void *bytes, size_t length) {
  seen->error = 0;
  if (length > 0) memcpy(reserve(seen, length), bytes, length);
  seen->length = length;
}

static void append_entry(struct seen *seen, const char *name, int64_t ino, int64_t type) {
  struct shown_entry entry = {.ino = has_entry_ino ? ino : 0, .type = type};
  snprintf(entry.name, sizeof entry.name, "%s", name);
  size_t before = seen->length;
  memcpy(reserve(seen, before + sizeof entry) + before, &entry, sizeof entry);
}

static int compare_entries(const void *a, const void *b) { return memcmp(a, b, sizeof(struct shown_entry)); }

static const mode_t mode_types[] = {[REGULAR] = S_IFREG, [DIRECTORY] = S_IFDIR, [SYMLINK] = S_IFLNK};

/* ---- what is right */

static void expect_status(struct seen *right, const struct object *object) {
  struct shown shown = {.type = mode_types[object->type], .mode = object->mode, .ino = (int64_t)object->ino};
  if (object->type == SYMLINK) shown.mode = 0;
  if (object->type == REGULAR) shown.size = object->size;
  shown.nlink = object->links;
  if (object->type == DIRECTORY) shown.nlink = has_directory_nlink ? 2 + subdirectories(object) : 0;
  if (object->is_mtime_known) {
    shown.mtime_s = object->mtime.tv_sec;
    shown.mtime_ns = object->mtime.tv_nsec;
  }
  set_bytes(right, &shown, sizeof shown);
}

static void expect_entries(struct seen *right, const struct object *dir) {
  set_bytes(right, "", 0);
  for (int i = 0; i < NAMES; i++) {
    const struct object *object = dir->entry[i];
    if (object != NULL) append_entry(right, name_texts[i], (int64_t)object->ino, mode_types[object->type]);
  }
  if (right->length > 0)
    qsort(right->bytes, right->length / sizeof(struct shown_entry), sizeof(struct shown_entry), compare_entries);
}

static void expect_bytes(struct seen *right, const struct object *file, int64_t offset, size_t length) {
  if (offset > file->size) offset = file->size;
  if ((int64_t)length > file->size - offset) length = (size_t)(file->size - offset);
  set_bytes(right, file->data + offset, length);
}

/* What open(2) with O_NOFOLLOW and a read, or O_DIRECTORY, answer for what is no file or directory. */
static int error_of_type(const struct object *object, enum type wanted) {
  if (object->type == wanted) return 0;
  if (wanted == DIRECTORY) return ENOTDIR;
  return object->type == SYMLINK ? ELOOP : EISDIR;
}

static void expect_list(struct seen *right, const struct object *object) {
  set_bytes(right, "", 0);
  for (int i = 0; i < XATTRS; i++) {
    if (!object->xattr[i].is_set) continue;
    size_t before = right->length;
    char name[8];
    snprintf(name, sizeof name, "user.%c", 'a' + i);
    memcpy(reserve(right, before + 7) + before, name, 7);
  }
}

static const struct object *kept_object(const struct look *look) {
  const struct object *object = look->kind == LOOK_READ_MAPPING ? mappings[look->mount][look->slot].object
                                                                : handles[look->mount][look->slot].object;
  return object != NULL && object->id == look->object ? object : NULL;
}

static bool expect_kept(const struct look *look, struct seen *right) {
  const struct object *object = kept_object(look);
  if (object == NULL) return false;
  switch (look->kind) {
    case LOOK_FSTAT:
      if (object->type == DIRECTORY && object->links == 0) return false;
      expect_status(right, object);
      return true;
    case LOOK_READ_HANDLE: expect_bytes(right, object, look->offset, look->length); return true;
    case LOOK_READDIR_HANDLE: expect_entries(right, object); return true;
    default: break;
  }
  int64_t end = (int64_t)mappings[look->mount][look->slot].length;
  if (end > object->size) end = object->size;
  if (look->offset >= end) return false;
  expect_bytes(right, object, look->offset,
               (int64_t)look->length > end - look->offset ? (size_t)(end - look->offset) : look->length);
  return true;
}

bool expect_look(const struct look *look, struct seen *right) {
  if (look->slot >= 0) return expect_kept(look, right);
  int error;
  const struct object *object = resolve(look->path, &error);
  set_error(right, error);
  if (object == NULL) return true;
  switch (look->kind) {
    case LOOK_STAT:
    case LOOK_FORMER: expect_status(right, object); break;
    case LOOK_READ:
    case LOOK_READ_ALL:
      set_error(right, error_of_type(object, REGULAR));
      if (right->error != 0) break;
      if (look->kind == LOOK_READ) expect_bytes(right, object, look->offset, look->length);
      else expect_bytes(right, object, 0, FILE_BYTES_MAX);
      break;
    case LOOK_READDIR:
      set_error(right, error_of_type(object, DIRECTORY));
      if (right->error == 0) expect_entries(right, object);
      break;
    case LOOK_OPEN:
      set_error(right, object->type == SYMLINK ? ELOOP : 0);
      if (right->error == 0) set_bytes(right, &(int64_t){(int64_t)object->ino}, 8);
      break;
    case LOOK_ACCESS:
      // Links lead nowhere. Who may not read and write is not tried: root may. X_OK tells the mode.
      set_error(right, object->type == SYMLINK ? ENOENT : (object->mode & 0111) != 0 ? 0 : EACCES);
      break;
    case LOOK_READLINK:
      set_error(right, object->type == SYMLINK ? 0 : EINVAL);
      if (right->error == 0) set_bytes(right, object->target, strlen(object->target));
      break;
    case LOOK_GETXATTR: {
      uint8_t value[256];
      const struct xattr *xattr = &object->xattr[look->xattr];
      set_error(right, xattr->is_set ? 0 : ENODATA);
      if (xattr->is_set) set_bytes(right, value, xattr_value(xattr, value));
      break;
    }
    default: expect_list(right, object); break;
  }
  return true;
}

/* ---- what is there */

static void see_status(struct seen *seen, const struct stat *status, const struct seen *right) {
  struct shown shown = {
    .type = status->st_mode & S_IFMT, .mode = status->st_mode & 07777, .nlink = (int64_t)status->st_nlink,
    .size = status->st_size, .ino = (int64_t)status->st_ino, .mtime_s = status->st_mtim.tv_sec,
    .mtime_ns = status->st_mtim.tv_nsec,
  };
  if (shown.type != S_IFREG) shown.size = 0;
  if (shown.type == S_IFLNK) shown.mode = 0;
  if (shown.type == S_IFDIR && !has_directory_nlink) shown.nlink = 0;
  // Not known, so not compared.
  struct shown should;
  if (right->length == sizeof should && memcpy(&should, right->bytes, sizeof should) && should.mtime_s == 0)
    shown.mtime_s = shown.mtime_ns = 0;
  set_bytes(seen, &shown, sizeof shown);
}

static void see_entries(struct seen *seen, DIR *dir) {
  set_bytes(seen, "", 0);
  errno = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL; errno = 0) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    append_entry(seen, entry->d_name, (int64_t)entry->d_ino, DTTOIF(entry->d_type));
  }
  // A directory that was removed has no entries; some say ENOENT.
  if (errno != 0 && errno != ENOENT) set_error(seen, errno);
  else if (seen->length > 0)
    qsort(seen->bytes, seen->length / sizeof(struct shown_entry), sizeof(struct shown_entry), compare_entries);
}

static void see_bytes(struct seen *seen, int fd, int64_t offset, size_t length) {
  long count = read_fully(fd, reserve(seen, length), length, offset);
  if (count < 0) set_error(seen, (int)-count);
  else {
    seen->error = 0;
    seen->length = (size_t)count;
  }
}

static void see_list(struct seen *seen, const char *full) {
  char names[4096], *sorted[XATTRS];
  ssize_t length = llistxattr(full, names, sizeof names);
  if (length < 0) return set_error(seen, errno);
  set_bytes(seen, "", 0);
  int count = 0;
  for (char *name = names; name < names + length; name += strlen(name) + 1)
    if (strncmp(name, "user.", 5) == 0 && strlen(name) == 6 && count < XATTRS) sorted[count++] = name;
  for (char letter = 'a'; letter <= 'z'; letter++) {
    for (int i = 0; i < count; i++) {
      if (sorted[i][5] != letter) continue;
      size_t before = seen->length;
      memcpy(reserve(seen, before + 7) + before, sorted[i], 7);
    }
  }
}

static void see_kept(const struct look *look, struct seen *seen, const struct seen *right) {
  const struct handle *handle = &handles[look->mount][look->slot];
  struct stat status;
  switch (look->kind) {
    case LOOK_FSTAT:
      if (fstat(handle->fd, &status) != 0) set_error(seen, errno);
      else see_status(seen, &status, right);
      break;
    case LOOK_READ_HANDLE: see_bytes(seen, handle->fd, look->offset, look->length); break;
    case LOOK_READDIR_HANDLE:
      rewinddir(handle->dir);
      see_entries(seen, handle->dir);
      break;
    default:
      reserve(seen, right->length);
      seen->error = 0;
      know_size(look->mount, look->slot, look->offset + (int64_t)right->length);
      if (!copy_mapped(seen->bytes, mappings[look->mount][look->slot].bytes + look->offset, right->length))
        set_error(seen, EFAULT); // SIGBUS
  }
}

static void see(const struct look *look, struct seen *seen, const struct seen *right) {
  if (look->slot >= 0) return see_kept(look, seen, right);
  char full[PATH_BYTES], text[256];
  struct stat status;
  absolute(full, look->mount, look->path);
  switch (look->kind) {
    case LOOK_STAT:
    case LOOK_FORMER:
      if (lstat(full, &status) != 0) set_error(seen, errno);
      else see_status(seen, &status, right);
      break;
    case LOOK_READ:
    case LOOK_READ_ALL:
    case LOOK_OPEN: {
      int fd = open(full, O_RDONLY | O_NOFOLLOW);
      if (fd < 0) return set_error(seen, errno);
      if (look->kind == LOOK_READ) see_bytes(seen, fd, look->offset, look->length);
      else if (look->kind == LOOK_READ_ALL) see_bytes(seen, fd, 0, FILE_BYTES_MAX + 1);
      else if (fstat(fd, &status) != 0) set_error(seen, errno);
      else set_bytes(seen, &(int64_t){(int64_t)status.st_ino}, 8);
      close(fd);
      break;
    }
    case LOOK_READDIR: {
      int fd = open(full, O_RDONLY | O_NOFOLLOW | O_DIRECTORY);
      if (fd < 0) return set_error(seen, errno);
      DIR *dir = fdopendir(fd);
      if (dir == NULL) give_up("fdopendir");
      see_entries(seen, dir);
      closedir(dir);
      break;
    }
    case LOOK_ACCESS: set_error(seen, access(full, X_OK) == 0 ? 0 : errno); break;
    case LOOK_READLINK: {
      ssize_t length = readlink(full, text, sizeof text);
      if (length < 0) set_error(seen, errno);
      else set_bytes(seen, text, (size_t)length);
      break;
    }
    case LOOK_GETXATTR: {
      char name[8];
      snprintf(name, sizeof name, "user.%c", 'a' + look->xattr);
      ssize_t length = lgetxattr(full, name, text, sizeof text);
      if (length < 0) set_error(seen, errno);
      else set_bytes(seen, text, (size_t)length);
      break;
    }
    default: see_list(seen, full); break;
  }
}

/* ---- answers made stale on purpose: what the same look has shown before */

#define OLD_ANSWERS 1024
static struct { uint64_t key; struct seen seen; } old_answers[OLD_ANSWERS];

static void inject(const struct look *look, struct seen *seen, uint64_t *random) {
  uint64_t key = mix((uint64_t)look->kind * 64 + (uint64_t)look->mount + 1) + (uint64_t)look->xattr;
  for (const char *c = look->path; *c != '\0'; c++) key = mix(key + (uint64_t)*c);
  if (look->slot >= 0) key = mix(key + (uint64_t)look->object);
  struct seen *old = &old_answers[key % OLD_ANSWERS].seen;
  bool is_known = old_answers[key % OLD_ANSWERS].key == key;
  if (is_known && one_in(random, 10)) {
    set_bytes(seen, old->bytes, old->length);
    seen->error = old->error;
    return;
  }
  old_answers[key % OLD_ANSWERS].key = key;
  set_bytes(old, seen->bytes, seen->length);
  old->error = seen->error;
}

void do_look(const struct look *look, struct seen *seen, uint64_t *random) {
  static struct seen right;
  set_error(seen, 0);
  if (!expect_look(look, &right)) return;
  see(look, seen, &right);
  if (options.inject != NULL && strcmp(options.inject, look_names[look->kind]) == 0) inject(look, seen, random);
}

bool is_same(const struct seen *a, const struct seen *b) {
  return a->error == b->error && a->length == b->length &&
         (a->length == 0 || memcmp(a->bytes, b->bytes, a->length) == 0);
}

/* ---- what the file system can be asked for */

void probe_looks(const char *base) {
  char path[PATH_BYTES];
  struct stat status;
  snprintf(path, sizeof path, "%s/probe", base);
  if (stat(base, &status) != 0) give_up("%s", base);
  has_directory_nlink = status.st_nlink == 2;
  if (mkdir(path, 0755) != 0) give_up("%s", path);
  if (stat(base, &status) != 0) give_up("%s", base);
  has_directory_nlink = has_directory_nlink && status.st_nlink == 3;
  if (stat(path, &status) != 0) give_up("%s", path);
  DIR *dir = opendir(base);
  if (dir == NULL) give_up("%s", base);
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
    if (strcmp(entry->d_name, "probe") == 0) has_entry_ino = entry->d_ino == status.st_ino;
  closedir(dir);
  has_xattrs = lsetxattr(path, "user.probe", "", 0, 0) == 0;
  rmdir(path);
}

/* ---- telling */

void describe_look(char *text, size_t bytes, const struct look *look) {
  char range[64] = "", what[REL_BYTES + 32];
  if (look->kind == LOOK_READ || look->kind == LOOK_READ_HANDLE || look->kind == LOOK_READ_MAPPING)
    snprintf(range, sizeof range, " %zu bytes at %lld", look->length, (long long)look->offset);
  if (look->kind == LOOK_GETXATTR) snprintf(range, sizeof range, " user.%c", 'a' + look->xattr);
  if (look->slot >= 0) snprintf(what, sizeof what, "object %ld kept in slot %d", look->object, look->slot);
  else snprintf(what, sizeof what, "/%s", look->path);
  snprintf(text, bytes, "%s of %s%s by mount %d", look_names[look->kind], what, range, look->mount + 1);
}

static size_t describe_status(char *text, size_t bytes, const struct seen *seen) {
  struct shown shown;
  memcpy(&shown, seen->bytes, sizeof shown);
  int used = snprintf(text, bytes, "type %llo mode %llo nlink %lld size %lld ino %lld", (long long)shown.type,
                      (long long)shown.mode, (long long)shown.nlink, (long long)shown.size, (long long)shown.ino);
  if (shown.mtime_s != 0)
    used += snprintf(text + used, bytes - (size_t)used, " mtime %lld.%09lld", (long long)shown.mtime_s,
                     (long long)shown.mtime_ns);
  return (size_t)used;
}

static void describe_seen(char *text, size_t bytes, enum look_kind kind, const struct seen *seen) {
  size_t used = 0;
  text[0] = '\0';
  if (seen->error != 0) {
    snprintf(text, bytes, "%s", seen->error == EFAULT ? "SIGBUS" : errno_name(seen->error));
    return;
  }
  switch (kind) {
    case LOOK_STAT:
    case LOOK_FORMER:
    case LOOK_FSTAT: describe_status(text, bytes, seen); break;
    case LOOK_READDIR:
    case LOOK_READDIR_HANDLE:
      for (size_t i = 0; i < seen->length / sizeof(struct shown_entry) && used < bytes - 64; i++) {
        struct shown_entry entry;
        memcpy(&entry, seen->bytes + i * sizeof entry, sizeof entry);
        used += (size_t)snprintf(text + used, bytes - used, "%s(ino %lld, %llo) ", entry.name, (long long)entry.ino,
                                 (long long)entry.type);
      }
      if (used == 0) snprintf(text, bytes, "no entries");
      break;
    case LOOK_OPEN: {
      int64_t ino;
      memcpy(&ino, seen->bytes, sizeof ino);
      snprintf(text, bytes, "opened ino %lld", (long long)ino);
      break;
    }
    case LOOK_ACCESS: snprintf(text, bytes, "may"); break;
    case LOOK_READLINK: snprintf(text, bytes, "%.*s", (int)seen->length, (char *)seen->bytes); break;
    case LOOK_LISTXATTR:
      for (size_t i = 0; i + 7 <= seen->length; i += 7)
        used += (size_t)snprintf(text + used, bytes - used, "%s ", (char *)seen->bytes + i);
      if (used == 0) snprintf(text, bytes, "none");
      break;
    default: snprintf(text, bytes, "%zu bytes", seen->length); break;
  }
}

void describe_difference(char *text, size_t bytes, const struct look *look, const struct seen *seen,
                         const struct seen *right, uint32_t newest) {
  char a[600], b[600], where[300] = "";
  describe_seen(a, sizeof a, look->kind, seen);
  describe_seen(b, sizeof b, look->kind, right);
  bool is_read = look->kind == LOOK_READ || look->kind == LOOK_READ_HANDLE || look->kind == LOOK_READ_ALL ||
                 look->kind == LOOK_READ_MAPPING || look->kind == LOOK_GETXATTR;
  size_t common = seen->length < right->length ? seen->length : right->length, first = 0;
  while (first < common && seen->bytes[first] == right->bytes[first]) first++;
  if (is_read && seen->error == 0 && right->error == 0 && first < common) {
    size_t last = common - 1, wrong = 0, run = first;
    while (seen->bytes[last] == right->bytes[last]) last--;
    for (size_t i = first; i <= last; i++) wrong += seen->bytes[i] != right->bytes[i];
    while (run <= last && run < first + 16 && seen->bytes[run] != right->bytes[run]) run++;
    int64_t at = (look->kind == LOOK_READ_ALL || look->kind == LOOK_GETXATTR ? 0 : look->offset) + (int64_t)first;
    bool is_zero = seen->bytes[first] == 0;
    uint32_t was = is_zero ? 0 : find_stamp(seen->bytes + first, at, run - first, newest);
    uint32_t should = right->bytes[first] == 0 ? 0 : find_stamp(right->bytes + first, at, run - first, newest);
    char was_text[40], should_text[40];
    snprintf(was_text, sizeof was_text, is_zero ? "zero" : was == 0 ? "of no operation" : "of operation %u", was);
    snprintf(should_text, sizeof should_text, right->bytes[first] == 0 ? "zero" : "of operation %u", should);
    snprintf(where, sizeof where, "; %zu wrong bytes from %lld to %lld: the first are %s, and should be %s", wrong,
             (long long)at, (long long)at + (long long)(last - first), was_text, should_text);
  }
  snprintf(text, bytes, "saw %s, right is %s%s", a, b, where);
}
