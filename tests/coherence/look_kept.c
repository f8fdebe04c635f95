/* Handles and mappings that `checker look` keeps open from one operation to the next, in a few slots on each mount. */
#include "look.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct handle handles[MOUNTS_MAX][HANDLES];
struct mapping mappings[MOUNTS_MAX][MAPPINGS];
long mappings_refused;

void keep_handle(int mount, int slot, int fd, DIR *dir, bool appends, struct object *object) {
  close_handle(mount, slot);
  handles[mount][slot] = (struct handle){fd, dir, appends, object};
  object->uses++;
}

void close_handle(int mount, int slot) {
  struct handle *handle = &handles[mount][slot];
  struct object *object = handle->object;
  if (object == NULL) return;
  if (handle->dir != NULL) closedir(handle->dir);
  else close(handle->fd);
  memset(handle, 0, sizeof *handle);
  object->uses--;
  drop_if_unused(object);
}

void keep_mapping(int mount, int slot, uint8_t *bytes, size_t length, int fd, struct object *object) {
  drop_mapping(mount, slot);
  mappings[mount][slot] = (struct mapping){bytes, length, fd, object->size, object};
  object->uses++;
}

void note_cut(const struct object *file) {
  for (int mount = 0; mount < options.mounts; mount++)
    for (int slot = 0; slot < MAPPINGS; slot++)
      if (mappings[mount][slot].object == file && mappings[mount][slot].known > file->size)
        mappings[mount][slot].known = file->size;
}

void know_size(int mount, int slot, int64_t end) {
  struct mapping *mapping = &mappings[mount][slot];
  struct stat status;
  // What it answers is looked at elsewhere.
  if (end > mapping->known && fstat(mapping->fd, &status) == 0) mapping->known = mapping->object->size;
}

void drop_mapping(int mount, int slot) {
  struct mapping *mapping = &mappings[mount][slot];
  struct object *object = mapping->object;
  if (object == NULL) return;
  munmap(mapping->bytes, mapping->length);
  close(mapping->fd);
  memset(mapping, 0, sizeof *mapping);
  object->uses--;
  drop_if_unused(object);
}

void drop_all_kept(void) {
  for (int mount = 0; mount < options.mounts; mount++) {
    for (int slot = 0; slot < HANDLES; slot++) close_handle(mount, slot);
    for (int slot = 0; slot < MAPPINGS; slot++) drop_mapping(mount, slot);
  }
}

int find_handle(int mount, const struct object *object, enum type type, bool any, uint64_t *random) {
  int first = (int)random_below(random, HANDLES), other = -1;
  for (int i = 0; i < HANDLES; i++) {
    int slot = (first + i) % HANDLES;
    const struct handle *handle = &handles[mount][slot];
    if (handle->object == NULL || handle->object->type != type) continue;
    if (handle->object == object) return slot;
    other = slot;
  }
  return any ? other : -1;
}

int find_mapping(int mount, const struct object *object, bool any, uint64_t *random) {
  int first = (int)random_below(random, MAPPINGS), other = -1;
  for (int i = 0; i < MAPPINGS; i++) {
    int slot = (first + i) % MAPPINGS;
    if (mappings[mount][slot].object == NULL) continue;
    if (mappings[mount][slot].object == object) return slot;
    other = slot;
  }
  return any ? other : -1;
}
