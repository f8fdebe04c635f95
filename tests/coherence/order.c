/*
 * Checks of histories. Times are those of one clock; operations whose times only touch count as concurrent.
 *
 * check_atomic is the algorithm of Gibbons and Korach ("Testing shared memories", 1997) for writes of unique values, in
 * O(n log n): the accesses of one value form a zone from the first end to the last start among them; zones where the
 * first is before the last must not overlap, and none of the others may lie within one of them.
 * check_search keeps all configurations (state, operations under way that have taken effect) that are possible, and
 * goes through starts and ends in their order (Lowe, "Testing for linearizability", 2017: just-in-time linearization).
 * A look that fits takes effect at once in each configuration: that can't be wrong, and leaves only changes to be tried.
 */
#include "order.h"

#include <stdlib.h>
#include <string.h>

/* ---- unique values */

static int compare_values(const void *left, const void *right) {
  const struct access *a = left, *b = right;
  if (a->value != b->value) return a->value < b->value ? -1 : 1;
  return b->is_write - a->is_write; // the write first
}

static void tell_unknown(const char *kind, const char *object, const struct access *read) {
  char text[200], value[100];
  describe_record(text, sizeof text, read->record);
  describe_stamp(value, sizeof value, read->value);
  wrong(kind, "%s: %s gave %s, which was not written there since the set-up", object, text, value);
}

static void tell_future(const char *kind, const char *object, const struct access *read, const struct access *write) {
  char a[200], b[200];
  describe_record(a, sizeof a, read->record);
  describe_record(b, sizeof b, write->record);
  wrong(kind, "%s: %s gave what was written only later: %s", object, a, b);
}

struct zone {
  uint64_t low, high;
  /* Which accesses make its ends. */
  const struct access *first_end, *last_start, *write;
};

static int compare_zones(const void *left, const void *right) {
  const struct zone *a = left, *b = right;
  return a->low < b->low ? -1 : a->low > b->low;
}

static void describe_zone(char *text, size_t bytes, const struct zone *zone) {
  char a[200], b[200], c[200];
  describe_record(a, sizeof a, zone->write->record);
  describe_record(b, sizeof b, zone->first_end->record);
  describe_record(c, sizeof c, zone->last_start->record);
  snprintf(text, bytes, "    written: %s\n    known to hold after: %s\n    seen still: %s", a, b, c);
}

static void tell_zones(const char *kind, const char *object, const struct zone *a, const struct zone *b) {
  char first[700], second[700];
  describe_zone(first, sizeof first, a);
  describe_zone(second, sizeof second, b);
  wrong(kind, "%s: no order explains two values:\n%s\n  and\n%s", object, first, second);
}

/* The zone of the accesses of one value. False when there is none: nobody saw what an unknown write did. */
static bool make_zone(struct zone *zone, const struct access *accesses, size_t count) {
  *zone = (struct zone){.low = NEVER, .high = 0, .write = accesses};
  if (count == 1 && accesses->end == NEVER) return false;
  for (const struct access *access = accesses; access < accesses + count; access++) {
    if (access->end < zone->low) {
      zone->low = access->end;
      zone->first_end = access;
    }
    if (access->start >= zone->high) {
      zone->high = access->start;
      zone->last_start = access;
    }
  }
  return true;
}

/* Calls `visit` for each value that was written, with its accesses, the write first. */
#define FOR_EACH_VALUE(from, to, accesses, count)                                                      \
  for (size_t from = 0, to = 0; from < (count) && ((to = end_of_value(accesses, count, from)), true); from = to)

static size_t end_of_value(const struct access *accesses, size_t count, size_t from) {
  size_t to = from + 1;
  while (to < count && accesses[to].value == accesses[from].value) to++;
  return to;
}

void check_atomic(const char *kind, const char *object, struct access *accesses, size_t count) {
  if (count == 0) return;
  struct zone *zones = allocate((count + 1) * sizeof *zones), *others = allocate((count + 1) * sizeof *others);
  size_t forward = 0, backward = 0;
  qsort(accesses, count, sizeof *accesses, compare_values);
  FOR_EACH_VALUE(from, to, accesses, count) {
    if (!accesses[from].is_write) {
      tell_unknown(kind, object, &accesses[from]);
      continue;
    }
    for (size_t i = from + 1; i < to; i++)
      if (accesses[i].end < accesses[from].start) tell_future(kind, object, &accesses[i], &accesses[from]);
    struct zone zone;
    if (!make_zone(&zone, accesses + from, to - from)) continue;
    if (zone.low < zone.high) zones[forward++] = zone;
    else others[backward++] = zone;
  }
  qsort(zones, forward, sizeof *zones, compare_zones);
  bool is_overlapping = false;
  for (size_t i = 0; i + 1 < forward; i++) {
    if (zones[i + 1].low >= zones[i].high) continue;
    tell_zones(kind, object, &zones[i], &zones[i + 1]);
    is_overlapping = true;
  }
  for (size_t i = 0; i < backward && !is_overlapping; i++) {
    const struct zone *zone = &others[i]; // from its `high`, the last start, to its `low`, the first end
    size_t low = 0, high = forward;
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (zones[middle].low < zone->high) low = middle + 1;
      else high = middle;
    }
    if (low > 0 && zone->low < zones[low - 1].high) tell_zones(kind, object, zone, &zones[low - 1]);
  }
  free(zones);
  free(others);
}

static int compare_starts(const void *left, const void *right) {
  const struct access *a = left, *b = right;
  return a->start < b->start ? -1 : a->start > b->start;
}

void check_fresh(const char *kind, const char *object, struct access *accesses, size_t count) {
  if (count == 0) return;
  // Writes by their starts, and which of those from there on ended first.
  struct access *writes = allocate((count + 1) * sizeof *writes);
  const struct access **first_end = allocate((count + 1) * sizeof *first_end);
  size_t written = 0;
  for (size_t i = 0; i < count; i++)
    if (accesses[i].is_write) writes[written++] = accesses[i];
  qsort(writes, written, sizeof *writes, compare_starts);
  for (size_t i = written; i-- > 0;)
    first_end[i] = i + 1 < written && first_end[i + 1]->end < writes[i].end ? first_end[i + 1] : &writes[i];
  qsort(accesses, count, sizeof *accesses, compare_values);
  FOR_EACH_VALUE(from, to, accesses, count) {
    const struct access *write = &accesses[from];
    if (!write->is_write) {
      tell_unknown(kind, object, write);
      continue;
    }
    size_t low = 0, high = written;
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (writes[middle].start > write->end) high = middle;
      else low = middle + 1;
    }
    const struct access *next = low < written ? first_end[low] : NULL;
    for (size_t i = from + 1; i < to; i++) {
      const struct access *read = &accesses[i];
      if (read->end < write->start) tell_future(kind, object, read, write);
      if (next == NULL || next->end >= read->start) continue;
      char a[200], b[200], c[200];
      describe_record(a, sizeof a, read->record);
      describe_record(b, sizeof b, write->record);
      describe_record(c, sizeof c, next->record);
      wrong(kind, "%s: %s gave something old, by %.3f ms at least:\n    written: %s\n    overwritten: %s", object, a,
            (double)(read->start - next->end) / 1e6, b, c);
    }
  }
  free(writes);
  free(first_end);
}

/* ---- state machines */

#define SLOTS 64
/* Operations before the one that can't be explained, for the report. */
#define BEFORE 10
#define CONFIGURATIONS_MAX 200000

struct configuration {
  struct state state;
  /* Slots of operations under way that have taken effect. */
  uint64_t done;
};

/* A set of configurations, in the order of their arrival. */
struct set {
  struct configuration *items;
  size_t count, capacity;
  uint32_t *table;
  size_t table_size;
};

static void clear_set(struct set *set) {
  set->count = 0;
  if (set->table != NULL) memset(set->table, 0, set->table_size * sizeof *set->table);
}

static uint64_t hash_of(const struct configuration *item) {
  return mix(item->state.a * 3 + mix(item->state.b * 5 + mix(item->done)));
}

static void insert_index(struct set *set, size_t index) {
  size_t at = hash_of(&set->items[index]) & (set->table_size - 1);
  while (set->table[at] != 0) at = (at + 1) & (set->table_size - 1);
  set->table[at] = (uint32_t)index + 1;
}

static void add(struct set *set, struct configuration item) {
  if (2 * (set->count + 1) > set->table_size) {
    set->table_size = set->table_size == 0 ? 64 : set->table_size * 4;
    free(set->table);
    set->table = allocate(set->table_size * sizeof *set->table);
    for (size_t i = 0; i < set->count; i++) insert_index(set, i);
  }
  for (size_t at = hash_of(&item) & (set->table_size - 1); set->table[at] != 0; at = (at + 1) & (set->table_size - 1)) {
    const struct configuration *other = &set->items[set->table[at] - 1];
    if (other->done == item.done && other->state.a == item.state.a && other->state.b == item.state.b) return;
  }
  if (set->count == set->capacity) {
    set->capacity = set->capacity == 0 ? 64 : set->capacity * 2;
    set->items = grow(set->items, set->capacity * sizeof *set->items);
  }
  set->items[set->count] = item;
  insert_index(set, set->count++);
}

static void free_set(struct set *set) {
  free(set->items);
  free(set->table);
}

struct event {
  uint64_t time;
  bool is_end;
  const struct record *record;
};

static int compare_events(const void *left, const void *right) {
  const struct event *a = left, *b = right;
  if (a->time != b->time) return a->time < b->time ? -1 : 1;
  return a->is_end - b->is_end; // starts first: what touches is concurrent
}

struct search {
  const struct record *slots[SLOTS];
  const struct record *before[BEFORE];
  size_t before_count;
  struct set configurations, next, visited;
  apply_function apply;
  is_look_function is_look;
};

/* Lets all looks take effect that fit the state. */
static struct configuration with_looks(const struct search *search, struct configuration from) {
  for (int slot = 0; slot < SLOTS; slot++) {
    const struct record *record = search->slots[slot];
    if (record == NULL || (from.done >> slot & 1) != 0 || !search->is_look(record)) continue;
    struct state state = from.state;
    if (search->apply(record, &state)) from.done |= 1ull << slot;
  }
  return from;
}

/* Leaves the configurations in which the operation of `slot` has taken effect. False: there are too many to tell. */
static bool require(struct search *search, int slot) {
  const uint64_t bit = 1ull << slot;
  clear_set(&search->next);
  clear_set(&search->visited);
  for (size_t i = 0; i < search->configurations.count; i++)
    add(&search->visited, with_looks(search, search->configurations.items[i]));
  for (size_t i = 0; i < search->visited.count; i++) {
    struct configuration from = search->visited.items[i];
    if (from.done & bit) {
      from.done &= ~bit;
      add(&search->next, from);
      continue;
    }
    for (int other = 0; other < SLOTS; other++) {
      const struct record *record = search->slots[other];
      if (record == NULL || (from.done >> other & 1) != 0 || search->is_look(record)) continue;
      struct configuration to = from;
      if (!search->apply(record, &to.state)) continue;
      to.done |= 1ull << other;
      add(&search->visited, with_looks(search, to));
    }
    if (search->visited.count > CONFIGURATIONS_MAX) return false;
  }
  return true;
}

static void tell_search(const char *kind, const char *object, const struct search *search, int slot) {
  char text[8000], line[220];
  size_t used = 0;
  describe_record(line, sizeof line, search->slots[slot]);
  used = (size_t)snprintf(text, sizeof text, "%s\n    states before it:", line);
  for (size_t i = 0; i < search->configurations.count && i < 6; i++)
    used += (size_t)snprintf(text + used, sizeof text - used, " (%llu, %llu)",
                             (unsigned long long)search->configurations.items[i].state.a,
                             (unsigned long long)search->configurations.items[i].state.b);
  for (int other = 0; other < SLOTS && used < sizeof text - 300; other++) {
    if (search->slots[other] == NULL || other == slot) continue;
    describe_record(line, sizeof line, search->slots[other]);
    used += (size_t)snprintf(text + used, sizeof text - used, "\n    meanwhile: %s", line);
  }
  size_t first = search->before_count > BEFORE ? search->before_count - BEFORE : 0;
  for (size_t i = first; i < search->before_count && used < sizeof text - 300; i++) {
    describe_record(line, sizeof line, search->before[i % BEFORE]);
    used += (size_t)snprintf(text + used, sizeof text - used, "\n    before: %s", line);
  }
  wrong(kind, "%s: no order explains %s", object, text);
}

void check_search(const char *kind, const char *object, const struct record **records, size_t count,
                  struct state initial, apply_function apply, is_look_function is_look) {
  struct event *events = allocate((2 * count + 1) * sizeof *events);
  struct search search = {.apply = apply, .is_look = is_look};
  size_t event_count = 0;
  for (size_t i = 0; i < count; i++) {
    events[event_count++] = (struct event){records[i]->start, false, records[i]};
    if (records[i]->end != NEVER) events[event_count++] = (struct event){records[i]->end, true, records[i]};
  }
  qsort(events, event_count, sizeof *events, compare_events);
  add(&search.configurations, (struct configuration){.state = initial});
  for (size_t i = 0; i < event_count; i++) {
    int slot = 0;
    const struct record *wanted = events[i].is_end ? events[i].record : NULL;
    while (slot < SLOTS && search.slots[slot] != wanted) slot++;
    if (slot == SLOTS || (events[i].is_end && !require(&search, slot))) {
      unchecked += (long)(event_count - i);
      break;
    }
    if (!events[i].is_end) {
      search.slots[slot] = events[i].record;
      continue;
    }
    if (search.next.count == 0) {
      tell_search(kind, object, &search, slot);
      break;
    }
    search.slots[slot] = NULL;
    search.before[search.before_count++ % BEFORE] = events[i].record;
    struct set swapped = search.configurations;
    search.configurations = search.next;
    search.next = swapped;
  }
  free_set(&search.configurations);
  free_set(&search.next);
  free_set(&search.visited);
  free(events);
}
