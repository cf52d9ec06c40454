/* What the parts of quick-start share: words and text that grow. What is allocated is never freed: the process becomes
 * another one. */

#ifndef MPROXY_QUICK_H
#define MPROXY_QUICK_H

#include <stddef.h>
#include <sys/types.h>

struct words {
    char **word;
    int count;
};

struct text {
    char *at;
    size_t used, room;
};

void *allocate(void *old, size_t bytes);
void add_bytes(struct text *text, const char *bytes, size_t count);
void add(struct text *text, const char *bytes);
void add_word(struct words *words, char *word);

/* As shlex.quote. */
void add_quoted(struct text *text, const char *word);

/* As shlex.join. */
char *join(const struct words *words);

/* Whether the first `length` bytes of text, of which there is one, are among those accepted. */
int is_made_of(const char *text, size_t length, const char *accepted);

/* Tell the Python that takes our place of a child and our ends of its input, output and errors, as
 * mproxy.policy.via_start expects it; `errors` is -1 if they are our own. Whether that was possible. */
int tell_begun(pid_t pid, int sock, int errors);

/* `mproxy copy`: does not return if it has copied all there is to copy, a small file. If it returns, Python copies, and
 * finds in the environment what was begun. */
void copy_small(char **word);

/* Its other end: does not return if it has written that file. */
void take_small(void);

/* `mproxy connect`: begins the login, if it is clear that there has to be one. */
void begin_login(char **word);

#endif
