/* Begins the login of a `mproxy connect` to a host of which nothing is known: ssh logs in while Python is started.
 *
 * What it runs is what mproxy.programs.connect would run (`bootstrap`), a test compares the two; Python finds it in the
 * environment. Where anything is known of the host, or the command line is an unusual one, that is for Python to judge.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "quick.h"

/* As programs/connect.py. */
#define BARE "-T -a -x -o ClearAllForwardings=yes -o ControlMaster=no -o ControlPath=none -o RemoteCommand=none " \
             "-o PermitLocalCommand=no -o LogLevel=ERROR"
#define THERE "PATH=\"$PATH:$HOME/.local/bin:/usr/local/bin\"; command -v sproxy >/dev/null || exit 127; " \
              "exec sproxy --attach --start"

static const char IN_USER[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
static const char IN_HOST[] = "abcdefghijklmnopqrstuvwxyz0123456789.-"; /* capitals are for Python to make small */
static const char DIGITS[] = "0123456789";

struct place {
    const char *ssh, *name;
    char *user, *port;
    char *words; /* USER@HOST:PORT */
};

static char *part(const char *text, size_t length)
{
    struct text copy = {0};
    add_bytes(&copy, text, length);
    return copy.at;
}

/* Whether every number in it is written as programs write it: others stand for other addresses. */
static int is_usual_host(const char *host, size_t length)
{
    if (!is_made_of(host, length, IN_HOST) || *host == '-' || *host == '.' || length > 253)
        return 0;
    for (size_t i = 0; i + 1 < length; i++)
        if (host[i] == '0' && (i == 0 || host[i - 1] == '.') && host[i + 1] != '.')
            return 0;
    return 1;
}

/* [--ssh COMMAND] USER@HOST:PORT NAME, as ssh_config and `mproxy ssh` have it. */
static int split(char **word, struct place *place)
{
    char *at, *colon;
    place->ssh = "ssh";
    if (*word != NULL && !strcmp(*word, "--ssh") && word[1] != NULL) {
        place->ssh = word[1];
        word += 2;
    }
    if (word[0] == NULL || word[1] == NULL || word[2] != NULL)
        return 0;
    place->words = word[0];
    place->name = word[1];
    at = strchr(*word, '@');
    colon = at != NULL ? strchr(at, ':') : NULL;
    if (colon == NULL || **word == '-' || !is_made_of(*word, at - *word, IN_USER) ||
        !is_usual_host(at + 1, colon - at - 1) || !is_made_of(place->name, strlen(place->name), IN_USER) ||
        *place->name == '-' || !is_made_of(colon + 1, strlen(colon + 1), DIGITS) || colon[1] == '0' ||
        strlen(colon + 1) > 5 || atoi(colon + 1) > 65535)
        return 0;
    place->user = part(*word, at - *word);
    place->port = colon + 1;
    return 1;
}

/* As mproxy.policy.host_record and ground.config.default_state_dir: whether there is no record of the host. */
static int is_unknown(const char *place)
{
    const char *state = getenv("STATE_DIRECTORY"), *home = getenv("XDG_STATE_HOME");
    struct text path = {0};
    if (state != NULL && *state) {
        add_bytes(&path, state, strcspn(state, ":"));
    } else if (home != NULL && *home == '/') {
        add(&path, home);
        add(&path, "/mproxy");
    } else if (geteuid() == 0) {
        add(&path, "/var/lib/mproxy");
    } else if ((home = getenv("HOME")) != NULL && *home == '/') {
        add(&path, home);
        add(&path, "/.local/state/mproxy");
    } else {
        return 1;
    }
    add(&path, "/hosts/");
    add(&path, place);
    return faccessat(AT_FDCWD, path.at, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
}

static int owns_terminal(void)
{
    int owns, terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0)
        return 0;
    owns = tcgetpgrp(terminal) == getpgrp();
    close(terminal);
    return owns;
}

/* The shell's command; NULL: --ssh has to be taken apart. */
static char *command_of(const struct place *place)
{
    static const char plain[] = " ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_";
    struct text text = {0}, there = {0};
    const char *ssh = place->ssh;
    if (!is_made_of(ssh, strlen(ssh), plain) || *ssh == ' ' || strstr(ssh, "  ") != NULL ||
        ssh[strlen(ssh) - 1] == ' ')
        return NULL;
    add(&text, "export MPROXY_BOOTSTRAP=1; exec ");
    add(&text, ssh);
    add(&text, " " BARE " -p ");
    add(&text, place->port);
    add(&text, " -l ");
    add(&text, place->user);
    add(&text, " -- ");
    add(&text, place->name);
    add(&text, " ");
    add(&there, "exec sh -c ");
    add_quoted(&there, THERE);
    add_quoted(&text, there.at);
    return text.at;
}

/* As mproxy.ground.left_ignored. */
static int is_left_ignored(int number)
{
    struct sigaction found;
    return (number == SIGHUP || number == SIGINT || number == SIGQUIT) && !sigaction(number, NULL, &found) &&
           found.sa_handler == SIG_IGN;
}

/* As mproxy.policy.via_start.ViaChild. */
static pid_t start(const char *command, int has_terminal, int sock, int errors)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    for (int number = 1; number < NSIG; number++)
        if (!is_left_ignored(number))
            signal(number, SIG_DFL);
    if (!has_terminal)
        setsid();
    if (dup2(sock, 0) == 0 && dup2(sock, 1) == 1 && (has_terminal || dup2(errors, 2) == 2))
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

int tell_begun(pid_t pid, int sock, int errors)
{
    char value[64];
    snprintf(value, sizeof value, "%ld %d %d", (long)pid, sock, errors);
    return !fcntl(sock, F_SETFD, 0) && (errors < 0 || !fcntl(errors, F_SETFD, 0)) &&
           !setenv("MPROXY_BEGUN", value, 1);
}

void begin_login(char **word)
{
    struct place place = {0};
    int both[2], errors[2], has_terminal = owns_terminal();
    char *command;
    pid_t pid;
    if (getenv("MPROXY_BOOTSTRAP") != NULL || !split(word, &place) || !is_unknown(place.words))
        return;
    command = command_of(&place);
    if (command == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both))
        return;
    if (pipe2(errors, O_CLOEXEC)) {
        close(both[0]);
        close(both[1]);
        return;
    }
    pid = start(command, has_terminal, both[1], errors[1]);
    close(both[1]);
    close(errors[1]);
    if (pid < 0 || !tell_begun(pid, both[0], has_terminal ? -1 : errors[0])) {
        close(both[0]); /* without its input it ends */
        close(errors[0]);
    }
}
