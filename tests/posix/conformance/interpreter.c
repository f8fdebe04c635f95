/*
 * Makes system calls as a script on stdin says, and answers each line with one of its own: what the call returned or
 * the name of its error, and what else it tells. `conformance.test.ts` builds it, gives the same script to one in a
 * directory on the mount and to one on ext4, and compares the answers.
 *
 *     interpreter DIRECTORY
 *
 * A line is [PROCESS:]WHO CALL WORD..., with one of these before it:
 *     ~   may block: after a while it is interrupted, and answers EINTR
 *     &   is begun in another process, and "await PROCESS" has its answer ("pending PROCESS": has it one yet?)
 *
 * WHO is a user that "user NAME UID GID GROUP,GROUP" has told. PROCESS is one that "process NAME" has started; without it
 * the interpreter makes the call itself. "case N" begins a case, in a directory N of its own that anyone may write, with a
 * umask of 0, and "end N" closes what the case has open, and ends processes; "sleep MS" lets time pass.
 *
 * Exit code 0: the script came to its end. 2: there is something wrong with the script.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "interpreter.h"

#define LINE_MAX_BYTES 16384
#define WORDS_MAX 24
#define GROUPS_MAX 8
#define USERS_MAX 16
#define PROCESSES_MAX 8
#define DESCRIPTORS_MAX 4096
#define BLOCKED_MS 150
#define LIMIT_MS 20000

static char said[LINE_MAX_BYTES];
static size_t said_bytes;
static int base;
static char current_case[32] = "";

void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int count = vsnprintf(said + said_bytes, sizeof said - said_bytes, format, arguments);
  va_end(arguments);
  said_bytes += (size_t)count;
  if (said_bytes >= sizeof said) said_bytes = sizeof said - 1;
}

bool answer(int64_t result) {
  if (result < 0) {
    const char *name = strerrorname_np(errno);
    say("%s", name == NULL ? "unknown error" : name);
  } else if (result == 0) {
    say("ok");
  } else {
    say("%lld", (long long)result);
  }
  return result >= 0;
}

const char *case_name(void) { return current_case; }

/* ---- descriptors, each of a case */

static struct { char owner[32], name[32]; int fd; } descriptors[DESCRIPTORS_MAX];
static int descriptors_used;

static int find_descriptor(const char *name) {
  for (int i = 0; i < descriptors_used; i++)
    if (strcmp(descriptors[i].name, name) == 0 && strcmp(descriptors[i].owner, current_case) == 0) return i;
  return -1;
}

int descriptor(const char *name) {
  if (strcmp(name, ".") == 0) return AT_FDCWD;
  if (strcmp(name, "none") == 0) return -1;
  int found = find_descriptor(name);
  if (found < 0) wrong("no descriptor %s was opened", name);
  return descriptors[found].fd;
}

void remember(const char *name, int fd) {
  int at = find_descriptor(name);
  if (at < 0) {
    if (descriptors_used == DESCRIPTORS_MAX) wrong("too many descriptors");
    at = descriptors_used++;
    snprintf(descriptors[at].name, sizeof descriptors[at].name, "%s", name);
    snprintf(descriptors[at].owner, sizeof descriptors[at].owner, "%s", current_case);
  } else if (descriptors[at].fd >= 0) {
    close(descriptors[at].fd);
  }
  descriptors[at].fd = fd;
}

/* It is closed already, and stays known as one that is not open. */
void forget(const char *name) { descriptors[find_descriptor(name)].fd = -1; }

static void close_descriptors(const char *owner) {
  for (int i = descriptors_used - 1; i >= 0; i--) {
    if (strcmp(descriptors[i].owner, owner) != 0) continue;
    if (descriptors[i].fd >= 0) close(descriptors[i].fd);
    descriptors[i] = descriptors[--descriptors_used];
  }
}

/* ---- users */

static struct user { char name[32]; uid_t uid; gid_t gid; gid_t groups[GROUPS_MAX]; size_t group_count; } users[USERS_MAX];
static int users_used;
static const struct user *now;

static void add_user(char **word, int words) {
  if (words < 3 || users_used == USERS_MAX) wrong("user NAME UID GID GROUP,GROUP");
  struct user *user = &users[users_used++];
  snprintf(user->name, sizeof user->name, "%s", word[0]);
  user->uid = (uid_t)number(word[1]);
  user->gid = (gid_t)number(word[2]);
  char *rest = NULL;
  for (char *group = words > 3 ? strtok_r(word[3], ",", &rest) : NULL; group != NULL; group = strtok_r(NULL, ",", &rest))
    user->groups[user->group_count++] = (gid_t)number(group);
}

/* The saved user id stays root's, so that there is a way back; real and effective one are what calls look at. */
static void become(const char *name) {
  if (now != NULL && strcmp(now->name, name) == 0) return;
  const struct user *user = NULL;
  for (int i = 0; i < users_used; i++)
    if (strcmp(users[i].name, name) == 0) user = &users[i];
  if (user == NULL) wrong("no user %s", name);
  if (now != NULL && now->uid != 0 && (setresuid((uid_t)-1, 0, (uid_t)-1) != 0 || setresuid(0, 0, 0) != 0)) wrong("setresuid");
  if (setgroups(user->group_count, user->groups) != 0) wrong("setgroups");
  if (setresgid(user->gid, user->gid, user->gid) != 0) wrong("setresgid");
  if (setresuid(user->uid, user->uid, 0) != 0) wrong("setresuid");
  now = user;
}

/* ---- one line */

static void on_alarm(int signal) { (void)signal; }

/* A mapping's page that is not there. */
static sigjmp_buf after_bus_error;
static void on_bus_error(int signal) { siglongjmp(after_bus_error, signal); }

static void set_alarm(int ms) {
  struct itimerval timer = {{0, 0}, {ms / 1000, ms % 1000 * 1000}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

static bool make_call(const struct call *call, char **word, int words) {
  for (; call->name != NULL; call++) {
    if (strcmp(call->name, word[0]) != 0) continue;
    if (words - 1 < call->least || words - 1 > call->most) wrong("%s: %d words", word[0], words - 1);
    errno = 0;
    if (sigsetjmp(after_bus_error, 1) == 0) call->make(word + 1, words - 1);
    else say("SIGBUS");
    return true;
  }
  return false;
}

static void begin_case(const char *name) {
  become("root");
  snprintf(current_case, sizeof current_case, "%s", name);
  umask(0);
  if (fchdir(base) != 0 || (mkdir(name, 0777) != 0 && errno != EEXIST) || chdir(name) != 0)
    wrong("case %s: %s", name, strerror(errno));
}

static void run_line(char **word, int words, bool may_block) {
  if (strcmp(word[0], "user") == 0) return add_user(word + 1, words - 1);
  if (strcmp(word[0], "sleep") == 0) {
    int64_t ms = number(word[1]);
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    return;
  }
  if (strcmp(word[0], "case") == 0) return begin_case(word[1]);
  if (words < 2) wrong("%s: who does what?", word[0]);
  become(word[0]);
  if (may_block) set_alarm(BLOCKED_MS);
  bool is_known = make_call(name_calls, word + 1, words - 1) || make_call(file_calls, word + 1, words - 1) ||
                  make_call(state_calls, word + 1, words - 1);
  if (may_block) set_alarm(0);
  if (!is_known) wrong("no call %s", word[1]);
  forget_texts();
}

static int split(char *line, char **word) {
  int words = 0;
  char *rest = NULL;
  for (char *at = strtok_r(line, " ", &rest); at != NULL; at = strtok_r(NULL, " ", &rest)) {
    if (words == WORDS_MAX) wrong("too many words");
    word[words++] = at;
  }
  return words;
}

/* ---- other processes: they have our users, and get lines through a socket */

static struct process { char name[32]; int socket; pid_t pid; } processes[PROCESSES_MAX];
static int processes_used;

static void serve(int socket) {
  char line[LINE_MAX_BYTES];
  for (;;) {
    ssize_t count = recv(socket, line, sizeof line - 1, 0);
    if (count <= 0) _exit(0);
    line[count] = 0;
    bool may_block = line[0] == '~';
    char *word[WORDS_MAX];
    said_bytes = 0;
    said[0] = 0;
    run_line(word, split(line + may_block, word), may_block);
    if (send(socket, said, said_bytes + 1, 0) < 0) _exit(0);
  }
}

static void add_process(const char *name) {
  if (processes_used == PROCESSES_MAX) wrong("too many processes");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) wrong("socketpair");
  become("root");
  fflush(stdout);
  pid_t pid = fork();
  if (pid < 0) wrong("fork");
  if (pid == 0) {
    close(pair[0]);
    serve(pair[1]);
  }
  close(pair[1]);
  struct process *process = &processes[processes_used++];
  snprintf(process->name, sizeof process->name, "%.31s", name);
  process->socket = pair[0];
  process->pid = pid;
}

/* What they have open is closed, and their locks are gone. */
static void end_processes(void) {
  if (processes_used > 0) become("root");
  while (processes_used > 0) {
    struct process *process = &processes[--processes_used];
    kill(process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
    close(process->socket);
  }
}

static struct process *find_process(const char *name, size_t length) {
  for (int i = 0; i < processes_used; i++)
    if (strlen(processes[i].name) == length && strncmp(processes[i].name, name, length) == 0) return &processes[i];
  wrong("no process %.*s", (int)length, name);
}

static void send_line(struct process *process, const char *line) {
  if (send(process->socket, line, strlen(line), 0) < 0) wrong("process %s is gone", process->name);
}

static void receive_answer(struct process *process) {
  struct pollfd waits = {process->socket, POLLIN, 0};
  if (poll(&waits, 1, LIMIT_MS) != 1) return say("no answer");
  char line[LINE_MAX_BYTES];
  ssize_t count = recv(process->socket, line, sizeof line, 0);
  if (count <= 0) wrong("process %s is gone", process->name);
  say("%s", line);
}

/* ---- the script */

/* True if the line was about another process. */
static bool run_elsewhere(char *line) {
  if (strncmp(line, "process ", 8) == 0) {
    add_process(line + 8);
    return true;
  }
  if (strncmp(line, "end ", 4) == 0) {
    end_processes();
    close_descriptors(line + 4);
    return true;
  }
  if (strncmp(line, "await ", 6) == 0) {
    receive_answer(find_process(line + 6, strlen(line + 6)));
    return true;
  }
  if (strncmp(line, "pending ", 8) == 0) {
    struct pollfd waits = {find_process(line + 8, strlen(line + 8))->socket, POLLIN, 0};
    say("%s", poll(&waits, 1, BLOCKED_MS) == 0 ? "pending" : "answered");
    return true;
  }
  bool is_begun = line[0] == '&', may_block = line[0] == '~';
  char *start = line + (is_begun || may_block);
  size_t who = strcspn(start, " "), colon = strcspn(start, ":");
  if (colon >= who) return false;
  struct process *process = find_process(start, colon);
  char *rest = start + colon + 1;
  if (may_block) *--rest = '~'; /* in place of the colon */
  send_line(process, rest);
  if (is_begun) say("begun");
  else receive_answer(process);
  return true;
}

/* One line, whatever names it has. */
static void print_answer(void) {
  for (const char *at = said; *at != 0; at++) {
    if (*at < ' ' || *at > '~') printf("\\x%02x", (unsigned char)*at);
    else putchar(*at);
  }
  putchar('\n');
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "who") == 0) {
    /* "install" and "exec": the ids that a program on the file system runs under. */
    printf("uid %d/%d gid %d/%d", (int)getuid(), (int)geteuid(), (int)getgid(), (int)getegid());
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "wait") == 0) {
    /* "run": until "stop". */
    char byte;
    return read(0, &byte, 1) < 0;
  }
  if (argc != 2) wrong("usage: interpreter DIRECTORY < SCRIPT");
  base = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (base < 0) wrong("%s: %s", argv[1], strerror(errno));
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  signal(SIGBUS, on_bus_error);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  char line[LINE_MAX_BYTES];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = 0;
    said_bytes = 0;
    said[0] = 0;
    if (!run_elsewhere(line)) {
      bool may_block = line[0] == '~';
      char *word[WORDS_MAX];
      run_line(word, split(line + may_block, word), may_block);
    }
    print_answer();
  }
  return 0;
}
