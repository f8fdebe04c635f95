/*
 * `checker look`: one operation at a time, through a mount drawn by lot, and at once looks at what it changed (mostly)
 * through other mounts. Each must show what the model says, exactly. Some of the looks are done before the operation as
 * well, so that there is something old that could be shown.
 *
 * Without --count the first wrong look ends the program: it tells the operations before, and when the look turns right.
 * With --count it goes on; now and then it waits until every mount must have noticed everything, and looks at all: what
 * is wrong then is told as "lasting", and the tree is begun anew.
 */
#include "look_operations.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HISTORY 20
#define LOOKS_MAX 3
#define SETTLE_OPERATIONS 250
/* A wrong look is repeated that long to see when it turns right. */
#define REPEAT_MS 5000
#define LASTING_TOLD_MAX 10

static uint64_t random_state;
static char history[HISTORY][320];
static uint32_t logged;
static struct operation current;

struct count {
  long total, wrong, lasting;
};
static struct count looks[LOOK_KINDS], operations[OPERATION_KINDS];
/* Paths that directories and files once had. */
static char former[16][REL_BYTES];
static bool needs_new_tree, is_settling;
static int trees;

/* ---- telling */

static void tell_and_exit(void) {
  fprintf(stderr, "seed %llu, operation %u; the operations up to it:\n", (unsigned long long)options.seed,
          current.number);
  for (uint32_t i = logged > HISTORY ? logged - HISTORY : 0; i < logged; i++)
    fprintf(stderr, "  %s\n", history[i % HISTORY]);
  exit(1);
}

static void note(void) {
  describe_operation(history[logged % HISTORY], sizeof history[0], &current);
  logged++;
}

void wrong_answer(const struct operation *operation, const char *what, int error, int right) {
  operations[operation->kind].wrong++;
  // What was done although it could not be has changed something that the model does not know.
  if (error == 0 && right != 0) needs_new_tree = true;
  if (options.count) return;
  fprintf(stderr, "STALE operation: %s by mount %d: %s, right is %s\n", what, operation->mount + 1, errno_name(error),
          errno_name(right));
  tell_and_exit();
}

/* Tells a wrong look, and when it turns right. */
static void tell_wrong_look(const struct look *look, const struct seen *seen, const struct seen *right) {
  char what[256], difference[1600];
  struct seen again = {0}, same = {0};
  uint64_t start = now_ns();
  describe_look(what, sizeof what, look);
  describe_difference(difference, sizeof difference, look, seen, right, current.number);
  fprintf(stderr, "STALE %s: %s\n", what, difference);
  for (;;) {
    double ms = (double)(now_ns() - start) / 1e6;
    do_look(look, &again, &random_state);
    expect_look(look, &same);
    if (is_same(&again, &same)) {
      fprintf(stderr, "it is right after %.0f ms\n", ms);
      break;
    }
    if (ms > REPEAT_MS) {
      fprintf(stderr, "it is still wrong after %.0f ms\n", ms);
      break;
    }
    sleep_ms(5);
  }
  tell_and_exit();
}

static void tell_lasting(const struct look *look, const struct seen *seen, const struct seen *right) {
  static int told;
  char what[256], difference[1600];
  if (told++ >= LASTING_TOLD_MAX) return;
  describe_look(what, sizeof what, look);
  describe_difference(difference, sizeof difference, look, seen, right, current.number);
  fprintf(stderr, "LASTING, at operation %u: %s: %s\n", current.number, what, difference);
}

/* ---- looks */

static bool check(const struct look *look) {
  static struct seen seen, right;
  if (!expect_look(look, &right)) return true;
  do_look(look, &seen, &random_state);
  looks[look->kind].total++;
  if (is_same(&seen, &right)) return true;
  looks[look->kind].wrong++;
  if (!options.count) tell_wrong_look(look, &seen, &right);
  if (is_settling) tell_lasting(look, &seen, &right);
  return false;
}

static const int look_weights[LOOK_KINDS] = {
  [LOOK_STAT] = 14, [LOOK_FORMER] = 3, [LOOK_FSTAT] = 8, [LOOK_READ] = 8, [LOOK_READ_HANDLE] = 10, [LOOK_READ_ALL] = 6,
  [LOOK_READ_MAPPING] = 10, [LOOK_READDIR] = 8, [LOOK_READDIR_HANDLE] = 4, [LOOK_OPEN] = 8, [LOOK_ACCESS] = 5,
  [LOOK_READLINK] = 3, [LOOK_GETXATTR] = 5, [LOOK_LISTXATTR] = 4,
};

static bool is_wanted(enum look_kind kind) {
  switch (kind) {
    case LOOK_READ:
    case LOOK_READ_ALL: return options.by_name;
    case LOOK_FSTAT:
    case LOOK_READ_HANDLE:
    case LOOK_READDIR_HANDLE: return options.by_handle;
    case LOOK_READ_MAPPING: return options.by_mapping;
    case LOOK_GETXATTR:
    case LOOK_LISTXATTR: return has_xattrs;
    default: return true;
  }
}

static void draw_path(char path[REL_BYTES], const struct operation *operation, bool directory) {
  struct object *found[DIRECTORIES];
  int count = list_directories(found);
  uint64_t which = random_below(&random_state, 10);
  snprintf(path, REL_BYTES, "%s", operation->path);
  bool is_second = operation->kind == RENAME || operation->kind == LINK;
  if (is_second && which < 5) snprintf(path, REL_BYTES, "%s", operation->path2);
  if (which >= 8) path_to(path, found[random_below(&random_state, (uint64_t)count)], (int)random_below(&random_state, NAMES));
  // The directory that has the name, mostly.
  if (!directory || which == 0) return;
  char *slash = strrchr(path, '/');
  if (slash == NULL) path[0] = '\0';
  else *slash = '\0';
}

/* Draws a look by another mount than the operation's. False when a handle is wanted and there is none. */
static bool draw_look(struct look *look, const struct operation *operation) {
  int sum = 0, left, kind = 0;
  for (int i = 0; i < LOOK_KINDS; i++) sum += is_wanted((enum look_kind)i) ? look_weights[i] : 0;
  left = (int)random_below(&random_state, (uint64_t)sum);
  for (;; kind++)
    if (is_wanted((enum look_kind)kind) && (left -= look_weights[kind]) < 0) break;
  *look = (struct look){.kind = (enum look_kind)kind, .slot = -1};
  look->mount = (operation->mount + 1 + (int)random_below(&random_state, (uint64_t)options.mounts - 1)) % options.mounts;
  look->offset = one_in(&random_state, 3) ? operation->offset : (int64_t)random_below(&random_state, 40000);
  look->length = one_in(&random_state, 3) ? PAGE : 1 + random_below(&random_state, 20000);
  look->xattr = operation->kind == SETXATTR || operation->kind == REMOVEXATTR ? operation->xattr
                                                                               : (int)random_below(&random_state, XATTRS);
  bool is_read = kind == LOOK_READ || kind == LOOK_READ_HANDLE || kind == LOOK_READ_MAPPING;
  // What was written is where the operation wrote.
  const struct object *object = object_of(operation);
  if (is_read && operation->kind == APPEND_TO && object != NULL && object->type == REGULAR)
    look->offset = object->size > 50 ? object->size - 50 : 0;
  if (is_read && options.inject != NULL) {
    look->offset = 0;
    look->length = PAGE;
  }
  if (kind == LOOK_FORMER) snprintf(look->path, REL_BYTES, "%s", former[random_below(&random_state, 16)]);
  else draw_path(look->path, operation, kind == LOOK_READDIR);
  if (kind == LOOK_READ_MAPPING) {
    look->slot = find_mapping(look->mount, object, true, &random_state);
    if (look->slot < 0) return false;
    look->object = mappings[look->mount][look->slot].object->id;
  } else if (kind == LOOK_FSTAT || kind == LOOK_READ_HANDLE || kind == LOOK_READDIR_HANDLE) {
    const struct object *wanted = kind == LOOK_READDIR_HANDLE ? operation->dir : object;
    look->slot = find_handle(look->mount, wanted, kind == LOOK_READDIR_HANDLE ? DIRECTORY : REGULAR, true, &random_state);
    if (look->slot < 0) return false;
    look->object = handles[look->mount][look->slot].object->id;
  }
  return true;
}

/* ---- everything */

static long look_at_everything(void) {
  struct object *found[DIRECTORIES];
  int count = list_directories(found);
  static const enum look_kind kinds[] = {LOOK_STAT, LOOK_READ_ALL, LOOK_READLINK, LOOK_LISTXATTR, LOOK_READDIR};
  long wrong = 0;
  for (int mount = 0; mount < options.mounts; mount++) {
    wrong += !check(&(struct look){.kind = LOOK_READDIR, .mount = mount, .slot = -1});
    for (int d = 0; d < count; d++) {
      for (int name = 0; name < NAMES; name++) {
        for (int kind = 0; kind < 5; kind++) {
          if (!is_wanted(kinds[kind])) continue;
          struct look look = {.kind = kinds[kind], .mount = mount, .slot = -1};
          path_to(look.path, found[d], name);
          wrong += !check(&look);
        }
      }
    }
    for (int slot = 0; slot < HANDLES; slot++) {
      const struct object *object = handles[mount][slot].object;
      if (object == NULL) continue;
      struct look look = {.kind = LOOK_FSTAT, .mount = mount, .slot = slot, .object = object->id, .length = FILE_BYTES_MAX};
      wrong += !check(&look);
      look.kind = object->type == DIRECTORY ? LOOK_READDIR_HANDLE : LOOK_READ_HANDLE;
      wrong += !check(&look);
    }
  }
  return wrong;
}

/* Waits until every mount must have noticed everything, and counts what is wrong then apart. */
static void settle(void) {
  struct count before[LOOK_KINDS];
  sleep_ms(options.settle_ms);
  memcpy(before, looks, sizeof looks);
  is_settling = true;
  if (look_at_everything() > 0) needs_new_tree = true;
  is_settling = false;
  for (int i = 0; i < LOOK_KINDS; i++) {
    looks[i].lasting += looks[i].wrong - before[i].wrong;
    looks[i].total = before[i].total;
    looks[i].wrong = before[i].wrong;
  }
}

/* ---- the run */

static void begin_tree(void) {
  drop_all_kept();
  if (top != NULL) {
    free_model();
    remove_tree(base_path[0]);
  }
  trees++;
  for (int i = 0; i < options.mounts; i++)
    snprintf(base_path[i], PATH_BYTES, "%.300s/look-%llu-%d-%d", options.mount[i], (unsigned long long)options.seed,
             getpid(), trees);
  top = new_object(DIRECTORY, 0755);
  if (mkdir(base_path[0], 0755) != 0) give_up("%s", base_path[0]);
  probe_looks(base_path[0]);
  struct stat status;
  if (stat(base_path[0], &status) != 0) give_up("%s", base_path[0]);
  top->ino = status.st_ino;
  memset(former, 0, sizeof former);
  needs_new_tree = false;
}

static void run_operation(void) {
  struct look planned[LOOKS_MAX];
  int count = 0, wanted = 1 + (int)random_below(&random_state, LOOKS_MAX);
  draw_operation(&current, &random_state);
  note();
  // Handles that the operation opens are there only after it, so these are drawn again then.
  uint64_t before = random_state;
  bool is_before = one_in(&random_state, 2);
  for (int i = 0; i < wanted; i++) count += draw_look(&planned[count], &current);
  for (int i = 0; is_before && i < count; i++) check(&planned[i]);
  if (current.kind == RENAME || current.kind == UNLINK || current.kind == RMDIR)
    snprintf(former[random_below(&random_state, 16)], REL_BYTES, "%s", current.path);
  do_operation(&current);
  operations[current.kind].total++;
  if (current.keep >= 0 || count == 0) {
    random_state = before + 1;
    // The handle that was opened is of no use to others.
    for (count = 0; count < wanted && random_below(&random_state, 8) > 0;) count += draw_look(&planned[count], &current);
  }
  for (int i = 0; i < count && !needs_new_tree; i++) check(&planned[i]);
}

static void print_json(double seconds, long sum[4]) {
  printf("{\"mode\":\"look\",\"seed\":%llu,\"operations\":%ld,\"looks\":%ld,\"stale\":%ld,\"lasting\":%ld,"
         "\"seconds\":%.2f,\"mappings_refused\":%ld,\"kinds\":{",
         (unsigned long long)options.seed, sum[0], sum[1], sum[2], sum[3], seconds, mappings_refused);
  for (int i = 0; i < LOOK_KINDS; i++)
    printf("%s\"%s\":[%ld,%ld,%ld]", i == 0 ? "" : ",", look_names[i], looks[i].total, looks[i].wrong,
           looks[i].lasting);
  for (int i = 0; i < OPERATION_KINDS; i++)
    printf(",\"operation %s\":[%ld,%ld,0]", operation_names[i], operations[i].total, operations[i].wrong);
  printf("}}\n");
}

/* Totals; true when nothing was wrong. */
static bool print_result(double seconds) {
  long sum[4] = {0}; // operations, looks, wrong, lasting
  for (int i = 0; i < OPERATION_KINDS; i++) {
    sum[0] += operations[i].total;
    sum[2] += operations[i].wrong;
  }
  for (int i = 0; i < LOOK_KINDS; i++) {
    sum[1] += looks[i].total;
    sum[2] += looks[i].wrong;
    sum[3] += looks[i].lasting;
  }
  if (options.count) {
    printf("%-24s %10s %10s %10s\n", "kind", "number", "stale", "lasting");
    for (int i = 0; i < LOOK_KINDS; i++)
      printf("%-24s %10ld %10ld %10ld\n", look_names[i], looks[i].total, looks[i].wrong, looks[i].lasting);
    for (int i = 0; i < OPERATION_KINDS; i++)
      if (operations[i].wrong > 0)
        printf("answers of %-13s %10ld %10ld\n", operation_names[i], operations[i].total, operations[i].wrong);
  }
  bool is_clean = sum[2] + sum[3] == 0;
  printf("%s: %ld operations, %ld looks, %ld stale, %ld lasting in %.1f s (%.0f operations/s, %.0f looks/s)%s\n",
         is_clean ? "ok" : "WRONG", sum[0], sum[1], sum[2], sum[3], seconds, (double)sum[0] / seconds,
         (double)sum[1] / seconds, mappings_refused > 0 ? "; some mappings were refused" : "");
  if (mappings_refused > 0) printf("mappings refused (ENODEV): %ld\n", mappings_refused);
  if (options.json) print_json(seconds, sum);
  return is_clean;
}

static void check_inject(void) {
  if (options.inject == NULL || strcmp(options.inject, "operation") == 0) return;
  for (int i = 0; i < LOOK_KINDS; i++)
    if (strcmp(options.inject, look_names[i]) == 0) return;
  fprintf(stderr, "--inject takes one of: operation");
  for (int i = 0; i < LOOK_KINDS; i++) fprintf(stderr, " %s", look_names[i]);
  fprintf(stderr, "\n");
  exit(2);
}

int look(void) {
  check_inject();
  begin_tree();
  uint64_t start = now_ns(), waited = 0;
  for (current.number = 1; current.number <= options.operations; current.number++) {
    random_state = mix(options.seed * 0xd1342543de82ef95ull + current.number);
    run_operation();
    if (options.count && current.number % SETTLE_OPERATIONS == 0) {
      uint64_t from = now_ns();
      settle();
      waited += now_ns() - from;
    }
    if (needs_new_tree) begin_tree();
  }
  double seconds = (double)(now_ns() - start - waited) / 1e9;
  if (options.count) settle();
  else look_at_everything();
  drop_all_kept();
  remove_tree(base_path[0]);
  return print_result(seconds) ? 0 : 1;
}
