#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *allocate(size_t bytes) {
  void *memory = malloc(bytes == 0 ? 1 : bytes);
  if (memory == NULL) {
    fprintf(stderr, "out of memory\n");
    abort();
  }
  return memory;
}

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint8_t content(const struct file *file, uint16_t version, size_t at) {
  if (version == 0) return 0;
  uint64_t word = mix(((uint64_t)file->id << 40) ^ ((uint64_t)version << 24) ^ (at >> 3));
  return (uint8_t)(word >> (8 * (at & 7)));
}

void fill(const struct file *file, uint16_t version, size_t start, size_t end, uint8_t *bytes) {
  for (size_t at = start; at < end; at++) bytes[at - start] = content(file, version, at);
}

void file_make(struct file *file, uint32_t id, off_t base) {
  uint16_t *version = file->version;
  commit(file);
  if (version == NULL) version = allocate(WINDOW_BYTES * sizeof *version);
  memset(version, 0, WINDOW_BYTES * sizeof *version);
  unsigned epoch = file->epoch + 1;
  bool is_unsure = file->is_unsure;
  memset(file, 0, sizeof *file);
  file->version = version;
  file->id = id;
  file->base = base;
  file->epoch = epoch;
  file->is_unsure = is_unsure;
}

void file_free(struct file *file) {
  commit(file);
  free(file->version);
  memset(file, 0, sizeof *file);
}

static void begin_change(struct file *file, size_t start, size_t end, uint16_t version) {
  struct change change = {.start = start, .end = end, .version = version, .size_before = file->size};
  file->recent[file->changes++ % RECENT] = change;
  change.former = allocate((end - start) * sizeof *change.former);
  memcpy(change.former, file->version + start, (end - start) * sizeof *change.former);
  file->pending = realloc(file->pending, (file->pendings + 1) * sizeof *file->pending);
  if (file->pending == NULL) abort();
  file->pending[file->pendings++] = change;
  for (size_t at = start; at < end; at++) file->version[at] = version;
}

uint16_t change_write(struct file *file, size_t start, size_t end) {
  uint16_t version = ++file->last_version;
  begin_change(file, start, end, version);
  if (end > file->size) file->size = end;
  return version;
}

void change_truncate(struct file *file, size_t size) {
  if (size < file->size) begin_change(file, size, file->size, 0);
  else begin_change(file, size, size, 0);
  file->size = size;
}

void commit(struct file *file) {
  for (int i = 0; i < file->pendings; i++) free(file->pending[i].former);
  free(file->pending);
  file->pending = NULL;
  file->pendings = 0;
}

bool may_have_size(const struct file *file, size_t size) {
  if (size == file->size) return true;
  for (int i = 0; i < file->pendings; i++) {
    if (file->pending[i].size_before == size) return true;
    /* Of a write that lies across two blocks, or is sent in parts, one part may be there: any size in between. */
    size_t before = file->pending[i].size_before;
    size_t after = i + 1 < file->pendings ? file->pending[i + 1].size_before : file->size;
    if (size > before && size < after) return true;
  }
  return false;
}

ssize_t settle(struct file *file, const uint8_t *bytes, size_t size) {
  for (size_t at = 0; at < size; at++) {
    if (content(file, file->version[at], at) == bytes[at]) continue;
    bool found = false;
    for (int i = file->pendings - 1; i >= 0 && !found; i--) {
      const struct change *change = &file->pending[i];
      if (at < change->start || at >= change->end) continue;
      uint16_t former = change->former[at - change->start];
      if (content(file, former, at) != bytes[at]) continue;
      file->version[at] = former;
      found = true;
    }
    if (!found) return (ssize_t)at;
  }
  memset(file->version + size, 0, (WINDOW_BYTES - size) * sizeof *file->version);
  file->size = size;
  file->epoch++;
  commit(file);
  return -1;
}

struct snapshot snapshot_take(const struct file *file, size_t start, size_t end) {
  struct snapshot snapshot = {.start = start, .end = end, .changes = file->changes, .epoch = file->epoch};
  snapshot.version = allocate((end - start) * sizeof *snapshot.version);
  memcpy(snapshot.version, file->version + start, (end - start) * sizeof *snapshot.version);
  snapshot.pending = allocate(file->pendings * sizeof *snapshot.pending);
  for (int i = 0; i < file->pendings; i++) {
    const struct change *change = &file->pending[i];
    size_t from = change->start > start ? change->start : start;
    size_t to = change->end < end ? change->end : end;
    if (from >= to) continue;
    struct change *copy = &snapshot.pending[snapshot.pendings++];
    *copy = *change;
    copy->start = from;
    copy->end = to;
    copy->former = allocate((to - from) * sizeof *copy->former);
    memcpy(copy->former, change->former + (from - change->start), (to - from) * sizeof *copy->former);
  }
  return snapshot;
}

static bool is_allowed(const struct snapshot *snapshot, const struct file *file, size_t at, uint8_t byte) {
  if (content(file, snapshot->version[at - snapshot->start], at) == byte) return true;
  for (int i = 0; i < snapshot->pendings; i++) {
    const struct change *change = &snapshot->pending[i];
    if (at < change->start || at >= change->end) continue;
    if (content(file, change->former[at - change->start], at) == byte) return true;
  }
  for (unsigned i = snapshot->changes; i != file->changes; i++) {
    const struct change *change = &file->recent[i % RECENT];
    if (at >= change->start && at < change->end && content(file, change->version, at) == byte) return true;
  }
  return false;
}

ssize_t snapshot_check(const struct snapshot *snapshot, const struct file *file, const uint8_t *bytes, size_t count) {
  if (file->epoch != snapshot->epoch || file->changes - snapshot->changes > RECENT) return -1;
  for (size_t at = snapshot->start; at < snapshot->start + count; at++) {
    if (!is_allowed(snapshot, file, at, bytes[at - snapshot->start])) return (ssize_t)at;
  }
  return -1;
}

void snapshot_free(struct snapshot *snapshot) {
  for (int i = 0; i < snapshot->pendings; i++) free(snapshot->pending[i].former);
  free(snapshot->pending);
  free(snapshot->version);
}
