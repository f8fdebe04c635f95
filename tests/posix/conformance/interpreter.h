/* What the parts of the interpreter share. Words of a line are parsed in words.c, calls are made in calls_*.c. */
#ifndef INTERPRETER_H
#define INTERPRETER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- words.c */

/* Ends the program with code 2: the script is wrong, not the file system. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A number: decimal, 0octal, or names such as O_RDWR|O_CREAT. */
int64_t number(const char *word);
/*
 * The bytes that a word stands for: \s, \xHH, {text*N}; EMPTY, BAD (a pointer to nowhere); /fd/NAME, the path of a
 * descriptor in /proc. Lives until the next line.
 */
char *text(const char *word, size_t *length);
void forget_texts(void);

/* ---- interpreter.c */

/* Adds to the answer of the line. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The answer of a call: "ok", a number, or the name of its error. The value: whether it worked. */
bool answer(int64_t result);
/* A descriptor by its name in this case; "." is the working directory, and "none" -1. */
int descriptor(const char *name);
void remember(const char *name, int fd);
void forget(const char *name);
const char *case_name(void);

/* ---- calls_*.c: a table each, ended by a null */

struct call {
  const char *name;
  int least, most; /* words after the name */
  void (*make)(char **word, int words);
};

extern const struct call name_calls[];
extern const struct call file_calls[];
extern const struct call state_calls[];

#endif
