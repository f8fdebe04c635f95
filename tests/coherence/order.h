/* Whether a history can be explained by one order of its operations (order.c). */
#ifndef ORDER_H
#define ORDER_H

#include "race.h"

/* A write or a read of a register whose writes all write something else. */
struct access {
  uint64_t start, end, value;
  bool is_write;
  const struct record *record;
};

/*
 * Atomic: there is one order of all accesses, within their times, in which each read gives what the last write before it
 * wrote. Of writes that end NEVER nobody knows whether they took effect. Tells violations as `kind`.
 */
void check_atomic(const char *kind, const char *object, struct access *accesses, size_t count);

/*
 * Nothing old: a read never gives what had been overwritten, by a write that had returned, before the read began; and
 * nothing that was written only after it.
 */
void check_fresh(const char *kind, const char *object, struct access *accesses, size_t count);

struct state {
  uint64_t a, b;
};

/* Whether an operation with this result is possible in a state, and the state after it. */
typedef bool (*apply_function)(const struct record *record, struct state *state);

/* An operation that never changes the state, whatever state it is. */
typedef bool (*is_look_function)(const struct record *record);

/* There is one order of all operations, within their times, that `apply` allows from the first to the last. */
void check_search(const char *kind, const char *object, const struct record **records, size_t count,
                  struct state initial, apply_function apply, is_look_function is_look);

#endif
