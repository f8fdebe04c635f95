/*
 * The model of `checker look`: a small tree of files, directories and symbolic links as it must be. For each byte of a
 * file it knows which operation wrote it. Does no system calls.
 */
#include "look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const name_texts[NAMES] = {"ant", "bee", "cat", "dog", "elk", "fox"};
struct object *top;
static long next_id = 1;

struct object *new_object(enum type type, mode_t mode) {
  struct object *object = allocate(sizeof *object);
  object->id = next_id++;
  object->type = type;
  object->mode = mode;
  if (type == REGULAR) {
    object->data = allocate(FILE_BYTES_MAX);
    object->stamp = allocate(FILE_BYTES_MAX * sizeof object->stamp[0]);
  }
  return object;
}

void drop_if_unused(struct object *object) {
  if (object->links > 0 || object->uses > 0 || object == top) return;
  free(object->data);
  free(object->stamp);
  free(object);
}

static void free_below(struct object *dir) {
  for (int i = 0; i < NAMES; i++) {
    struct object *object = dir->entry[i];
    if (object == NULL) continue;
    if (object->type == DIRECTORY) free_below(object);
    dir->entry[i] = NULL;
    object->links--;
    drop_if_unused(object);
  }
}

void free_model(void) {
  if (top == NULL) return;
  free_below(top);
  free(top);
  top = NULL;
}

/* ---- contents */

static uint8_t pattern_byte(int64_t offset, uint32_t stamp) {
  unsigned shift = 8 * (unsigned)(offset & 3);
  uint32_t part = shift == 0 ? stamp : stamp + (stamp >> shift) * 7;
  return (uint8_t)(1 + (part + (uint32_t)(mix((uint64_t)offset / 4) & 0xff)) % 255);
}

void fill_pattern(uint8_t *data, int64_t offset, size_t length, uint32_t stamp) {
  for (size_t i = 0; i < length; i++) data[i] = pattern_byte(offset + (int64_t)i, stamp);
}

uint32_t find_stamp(const uint8_t *data, int64_t offset, size_t length, uint32_t newest) {
  for (uint32_t stamp = newest; stamp > 0; stamp--) {
    size_t i = 0;
    while (i < length && data[i] == pattern_byte(offset + (int64_t)i, stamp)) i++;
    if (i == length) return stamp;
  }
  return 0;
}

size_t xattr_value(const struct xattr *xattr, uint8_t *value) {
  fill_pattern(value, 0, (size_t)xattr->length, xattr->stamp);
  return (size_t)xattr->length;
}

void model_write(struct object *file, int64_t offset, size_t length, uint32_t stamp) {
  fill_pattern(file->data + offset, offset, length, stamp);
  for (size_t i = 0; i < length; i++) file->stamp[offset + (int64_t)i] = stamp;
  if (length > 0 && offset + (int64_t)length > file->size) file->size = offset + (int64_t)length;
  file->is_mtime_known = false;
}

void model_truncate(struct object *file, int64_t size) {
  if (size < file->size) {
    memset(file->data + size, 0, (size_t)(file->size - size));
    memset(file->stamp + size, 0, (size_t)(file->size - size) * sizeof file->stamp[0]);
  }
  bool is_cut = size < file->size;
  file->size = size;
  file->is_mtime_known = false;
  if (is_cut) note_cut(file);
}

/* ---- names */

void model_link(struct object *dir, int name, struct object *object) {
  struct object *before = dir->entry[name];
  dir->entry[name] = object;
  dir->is_mtime_known = false;
  if (object != NULL) {
    object->links++;
    object->parent = object->type == DIRECTORY ? dir : NULL;
  }
  if (before == NULL) return;
  before->links--;
  drop_if_unused(before);
}

int subdirectories(const struct object *dir) {
  int count = 0;
  for (int i = 0; i < NAMES; i++) count += dir->entry[i] != NULL && dir->entry[i]->type == DIRECTORY;
  return count;
}

int entries(const struct object *dir) {
  int count = 0;
  for (int i = 0; i < NAMES; i++) count += dir->entry[i] != NULL;
  return count;
}

bool is_below(const struct object *object, const struct object *dir) {
  for (; object != NULL; object = object->parent)
    if (object == dir) return true;
  return false;
}

int depth_of(const struct object *dir) {
  int depth = 0;
  while ((dir = dir->parent) != NULL) depth++;
  return depth;
}

static int list_below(struct object *dir, struct object *found[DIRECTORIES], int count) {
  found[count++] = dir;
  for (int i = 0; i < NAMES; i++)
    if (dir->entry[i] != NULL && dir->entry[i]->type == DIRECTORY) count = list_below(dir->entry[i], found, count);
  return count;
}

int list_directories(struct object *found[DIRECTORIES]) { return list_below(top, found, 0); }

static int name_in(const struct object *dir, const struct object *object) {
  for (int i = 0; i < NAMES; i++)
    if (dir->entry[i] == object) return i;
  abort();
}

void path_to(char path[REL_BYTES], const struct object *dir, int name) {
  char above[REL_BYTES] = "";
  if (dir != top) path_to(above, dir->parent, name_in(dir->parent, dir));
  snprintf(path, REL_BYTES, "%.80s%s%s", above, above[0] == '\0' ? "" : "/", name_texts[name]);
}

struct object *resolve(const char *path, int *error) {
  struct object *at = top;
  *error = 0;
  while (*path != '\0') {
    // A symbolic link on the way leads nowhere.
    *error = at->type == SYMLINK ? ENOENT : ENOTDIR;
    if (at->type != DIRECTORY) return NULL;
    size_t length = strcspn(path, "/");
    int name = 0;
    while (strncmp(path, name_texts[name], length) != 0 || name_texts[name][length] != '\0') name++;
    *error = ENOENT;
    if ((at = at->entry[name]) == NULL) return NULL;
    *error = 0;
    path += length + (path[length] == '/');
  }
  return at;
}
