/* Starts `mproxy ssh`, `mproxy connect` and `mproxy copy`, for which everybody waits who calls ssh or copies a file:
 * without Python where there is nothing to be found out, and by Python otherwise.
 *
 *     quick-start PYTHON MPROXY ssh|connect|copy WORDS...
 *
 * `ssh` becomes ssh, with the command line that mproxy.programs.ssh composes; a test compares the two. `connect` hands
 * its standard input, output and error to a `mproxy connect` of the same words whose ssh has ended and whose session
 * waits for the next one (mproxy.programs.standby), or begins to log in (quick_login.c). `copy` copies a small file
 * (quick_copy.c). Whatever else there is, and whatever goes wrong before anything was done, is for PYTHON -IS MPROXY;
 * where PYTHON is a hyphen, for MPROXY itself.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "quick.h"

/* The same as in programs/ssh.py. */
#define VALUE_OPTIONS "BbcDEeFIiJLlmOoPpQRSWw"
#define SHARED "46BbcFIiJmo"

static const char *const NOT_SHARED[] = {
    "controlmaster", "controlpath", "controlpersist", "dynamicforward", "exitonforwardfailure", "forkafter",
    "localcommand", "localforward", "permitlocalcommand", "remotecommand", "remoteforward", "requesttty",
    "sessiontype", "stdinnull", "tunnel", NULL};

/* As programs/next_ssh.py and programs/standby.py. */
#define PROTOCOL "1"
#define READY '+'

/* How long to wait for the answer of one that waits: it has nothing else to do. */
#define PATIENCE_MS 300

/* ---- ssh */

/* The name of what -o sets, in small letters. */
static char *option_name(const char *value)
{
    char *name = allocate(NULL, strlen(value) + 1);
    size_t length;
    value += strspn(value, " \t\n\r\f\v=");
    length = strcspn(value, " \t\n\r\f\v=");
    for (size_t i = 0; i < length; i++)
        name[i] = value[i] >= 'A' && value[i] <= 'Z' ? value[i] - 'A' + 'a' : value[i];
    name[length] = 0;
    return name;
}

static void sort_option(char letter, char *value, struct words *kept, struct words *shared)
{
    char *option = allocate(NULL, 3);
    const char *name = letter == 'o' && value != NULL ? option_name(value) : "";
    int is_shared = strchr(SHARED, letter) != NULL;
    int is_way = letter == 'J' || !strcmp(name, "proxycommand") || !strcmp(name, "proxyjump");
    option[0] = '-';
    option[1] = letter;
    option[2] = 0;
    for (const char *const *other = NOT_SHARED; *other; other++)
        if (!strncmp(name, *other, strlen(*other)))
            is_shared = 0;
    if (is_shared) {
        add_word(shared, option);
        if (value != NULL)
            add_word(shared, value);
    }
    if (!is_way) {
        add_word(kept, option);
        if (value != NULL)
            add_word(kept, value);
    }
}

static void sort_words(char **word, struct words *kept, struct words *shared)
{
    int has_host = 0;
    while (*word) {
        if (**word != '-' || !(*word)[1] || !strcmp(*word, "--")) {
            int is_end = !strcmp(*word, "--");
            if (has_host)
                break;
            add_word(kept, *word++);
            if (is_end)
                break;
            has_host = 1;
            continue;
        }
        for (char *letters = *word++ + 1; *letters;) {
            char letter = *letters++;
            char *value = NULL;
            if (strchr(VALUE_OPTIONS, letter)) {
                value = *letters ? letters : *word ? *word++ : NULL;
                letters = "";
            }
            sort_option(letter, value, kept, shared);
        }
    }
    while (*word)
        add_word(kept, *word++);
}

/* Returns if this is not for us, or ssh cannot be run. */
static void become_ssh(char *mproxy, char **word)
{
    struct words kept = {0}, shared = {0}, connect = {0}, command = {0};
    struct text proxy = {0};
    char *joined;
    const char *base = strrchr(mproxy, '/');
    if (*word == NULL || base == NULL || *mproxy != '/' || strcmp(base, "/mproxy"))
        return;
    if (word[1] == NULL && (!strcmp(*word, "-h") || !strncmp(*word, "--help", 6)))
        return;
    add_word(&shared, "ssh");
    sort_words(word, &kept, &shared);
    add_word(&connect, mproxy);
    add_word(&connect, "connect");
    if (shared.count > 1) {
        add_word(&connect, "--ssh");
        add_word(&connect, join(&shared));
    }
    joined = join(&connect);
    add(&proxy, "ProxyCommand=");
    for (const char *at = joined; *at; at++) {
        add_bytes(&proxy, at, 1);
        if (*at == '%') /* ssh replaces what follows one */
            add(&proxy, "%");
    }
    add(&proxy, " %r@%h:%p %n");
    add_word(&command, "ssh");
    add_word(&command, "-o");
    add_word(&command, proxy.at);
    for (int i = 0; i < kept.count; i++)
        add_word(&command, kept.word[i]);
    execvp("ssh", command.word);
}

/* ---- connect */

static uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

static void mix(const char *word)
{
    do {
        hash ^= (unsigned char)*word;
        hash *= 0x100000001b3;
    } while (*word++);
}

/* Of the socket of one that waits with these words, in this network, with these files. */
static void find_name(char **word, char *name, size_t room)
{
    static const char *const variables[] = {"HOME", "XDG_STATE_HOME", "STATE_DIRECTORY", NULL};
    struct stat network;
    char number[24];
    mix(PROTOCOL);
    snprintf(number, sizeof number, "%llu",
             stat("/proc/self/ns/net", &network) ? 0ULL : (unsigned long long)network.st_ino);
    mix(number);
    for (const char *const *variable = variables; *variable; variable++)
        mix(getenv(*variable) ? getenv(*variable) : "");
    for (; *word; word++)
        mix(*word);
    snprintf(name, room, "standby-%016llx", (unsigned long long)hash);
}

/* A connection to the socket in that directory, which nobody but us can enter; -1: there is none. */
static int reach(const char *directory, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat found;
    struct ucred peer;
    socklen_t length = sizeof peer;
    int sock, place = open(directory, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0)
        return -1;
    if (fstat(place, &found) || found.st_uid != geteuid() || (found.st_mode & 077)) {
        close(place);
        return -1;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", place, name);
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock >= 0 && (connect(sock, (struct sockaddr *)&address, sizeof address) ||
                      getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &length) || peer.uid != geteuid())) {
        close(sock);
        sock = -1;
    }
    close(place);
    return sock;
}

static int find_standby(const char *name)
{
    char path[4096];
    const char *session = getenv("XDG_RUNTIME_DIR");
    int sock = -1;
    if (session != NULL && *session == '/' && strlen(session) < sizeof path - 16) {
        snprintf(path, sizeof path, "%s/mproxy", session);
        sock = reach(path, name);
    }
    if (sock < 0) {
        snprintf(path, sizeof path, geteuid() ? "/run/user/%u/mproxy" : "/run/mproxy", (unsigned)geteuid());
        sock = reach(path, name);
    }
    if (sock < 0) {
        snprintf(path, sizeof path, "/tmp/mproxy-%u", (unsigned)geteuid());
        sock = reach(path, name);
    }
    return sock;
}

static int is_piped(int fd)
{
    struct stat found;
    return !fstat(fd, &found) && (S_ISFIFO(found.st_mode) || S_ISSOCK(found.st_mode));
}

/* Pass descriptors 0, 1 and 2 on. */
static int hand_over(int sock)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(3 * sizeof(int))];
    } control;
    int fds[3] = {0, 1, 2};
    char byte = READY;
    struct iovec bytes = {&byte, 1};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(&control.head), fds, sizeof fds);
    return sendmsg(sock, &message, MSG_NOSIGNAL) == 1;
}

/* Returns if nobody waits who could take it. */
static void use_standby(char **word)
{
    char name[64], byte = 0;
    pid_t parent = getppid();
    struct pollfd answer = {.events = POLLIN};
    if (getenv("MPROXY_BOOTSTRAP") != NULL || *word == NULL || !is_piped(0) || !is_piped(1) ||
        fcntl(2, F_GETFD) < 0)
        return;
    find_name(word, name, sizeof name);
    answer.fd = find_standby(name);
    if (answer.fd < 0)
        return;
    /* Until it has said that it is ready, nothing is lost by going another way; from then on it is the only one. */
    if (poll(&answer, 1, PATIENCE_MS) != 1 || recv(answer.fd, &byte, 1, 0) != 1 || byte != READY ||
        !hand_over(answer.fd)) {
        close(answer.fd);
        return;
    }
    close(0);
    close(1);
    /* ssh ends us when it ends. If it is killed, the kernel does. */
    prctl(PR_SET_PDEATHSIG, SIGHUP);
    if (getppid() == parent)
        while (recv(answer.fd, &byte, 1, 0) < 0 && errno == EINTR) {
        }
    _exit(0);
}

int main(int count, char **word)
{
    struct words python = {0};
    sigset_t none, blocked;
    if (count < 4)
        return 70;
    unsetenv("MPROXY_BEGUN");
    sigemptyset(&none);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (fcntl(0, F_GETFL) < 0) {
        /* What is opened here would take its place. Python says what is wrong. */
    } else if (!strcmp(word[3], "ssh"))
        become_ssh(word[2], word + 4);
    else if (!strcmp(word[3], "connect")) {
        use_standby(word + 4);
        begin_login(word + 4);
    }
    else if (!strcmp(word[3], "copy") && count == 5 && !strcmp(word[4], "--other-end"))
        take_small();
    else if (!strcmp(word[3], "copy"))
        copy_small(word + 4);
    if (!strcmp(word[1], "-")) {
        execv(word[2], word + 2);
        fprintf(stderr, "mproxy: cannot run %s: %s\n", word[2], strerror(errno));
        return 127;
    }
    add_word(&python, word[1]);
    add_word(&python, "-IS");
    for (int i = 2; i < count; i++)
        add_word(&python, word[i]);
    /* While Python starts, it would answer Ctrl-C with a traceback; programs/start.py unblocks it. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    execv(word[1], python.word);
    fprintf(stderr, "mproxy: cannot run %s: %s\n", word[1], strerror(errno));
    return 127;
}
