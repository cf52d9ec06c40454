/* Copies one small file to another host, without Python at either end: the file goes with the question that `mproxy
 * copy` asks through ssh, and the other end writes it and says so.
 *
 * What is promised of it is what Python's receiver promises (docs/transfer.md): it has its name once it was written to
 * the disk and read from there again. Everything out of the ordinary is for Python: another option, a file that is no
 * file, a directory that is missing, no room. Here that is before ssh was started, or when the other end has answered
 * in another way than that it has written the file: then Python goes on with the same ssh. There it is as if nothing
 * had been asked yet. An mproxy that knows nothing of this sees an ordinary question, and answers that.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "quick.h"

/* Of a file that goes with the question; as long as many others, which need no name until they are whole. */
#define MOST_BYTES 16384

/* As in programs/copy_words.py. */
#define MOST_QUESTION 100000
#define MOST_NOISE 65536
#define MARK "mproxy-copy "
#define WRITTEN MARK "{\"written\": true}\n"

/* What the question begins with if it has a file: then MODE SECONDS NANOSECONDS, and NAME TARGET DATA in hexadecimal. */
#define ASKED "{\"version\": 1, \"file\": \""

/* As in transfer/file_names.py. */
#define PART ".mproxy-part"
#define STATE ".mproxy-state"
#define LONGEST_NAME 255

#define SECRET_BYTES 32
#define NOT_FOUND 127

/* As programs/copy_ssh.py. */
static const char *const BARE[] = {
    "-T", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no",
    NULL};
#define MORE_PATH "$PATH:$HOME/.local/bin:/usr/local/bin"

/* How long ssh may take to end when everything is done. */
#define END_MS 1000

static const char PLAIN[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_";
static const char IN_HOST[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";

struct file {
    char name[LONGEST_NAME + 1];
    mode_t mode;
    struct timespec time;
    size_t bytes;
    char data[MOST_BYTES + 1];
};

static void add_hex(struct text *text, const char *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        char pair[2] = {digits[(bytes[i] >> 4) & 15], digits[bytes[i] & 15]};
        add_bytes(text, pair, 2);
    }
}

/* ---- here: what is to be copied */

struct copy {
    struct words ssh;
    char *source, *user, *host, *target, *mproxy;
};

static int is_printable(const char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~' || *text == '"' || *text == '\\')
            return 0;
    return 1;
}

static char *copy_of(const char *text, size_t length)
{
    char *copy = allocate(NULL, length + 1);
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

/* The words of --ssh, if they need no shell to be told apart. */
static int split_command(char *text, struct words *words)
{
    words->count = 0;
    for (char *word = text; *word;) {
        size_t length = strcspn(word, " ");
        if (length && !is_made_of(word, length, PLAIN))
            return 0;
        if (length)
            add_word(words, copy_of(word, length));
        word += length + (word[length] == ' ');
    }
    return words->count > 0;
}

static int is_port(const char *text)
{
    size_t length = strlen(text);
    return length <= 5 && strspn(text, "0123456789") == length && atoi(text) >= 1 && atoi(text) <= 65535;
}

/* [USER@]HOST:PATH, without anything that Python would have to look at. */
static int split_place(char *text, struct copy *copy)
{
    char *colon = strchr(text, ':'), *at = NULL, *host = text;
    if (colon == NULL)
        return 0;
    for (char *each = text; each < colon; each++)
        if (*each == '@')
            at = each;
    if (at != NULL) {
        if (*text == '-' || !is_made_of(text, at - text, IN_HOST))
            return 0;
        copy->user = copy_of(text, at - text);
        host = at + 1;
    }
    if (*host == '-' || *host == '.' || colon - host > 253 || !is_made_of(host, colon - host, IN_HOST))
        return 0;
    copy->host = copy_of(host, colon - host);
    copy->target = colon + 1;
    return is_printable(copy->target);
}

/* As programs/copy_options.split_plain; whether there is nothing in it but what is known here. */
static int understand(char **word, struct copy *copy)
{
    char *port = NULL;
    add_word(&copy->ssh, "ssh");
    for (; *word != NULL && **word == '-'; word++) {
        if (!strcmp(*word, "--quiet") || !strcmp(*word, "-r") || !strcmp(*word, "-p"))
            continue;
        if (word[1] == NULL)
            return 0;
        if (!strcmp(*word, "-P") && is_port(word[1]))
            port = *++word;
        else if (!strcmp(*word, "--remote-mproxy") && *word[1] && is_printable(word[1]))
            copy->mproxy = *++word;
        else if (strcmp(*word, "--ssh") || !split_command(*++word, &copy->ssh))
            return 0;
    }
    if (word[0] == NULL || word[1] == NULL || word[2] != NULL || *word[1] == '-' || strchr(*word, ':') != NULL)
        return 0;
    if (port != NULL) {
        char *number = allocate(NULL, 6);
        snprintf(number, 6, "%d", atoi(port));
        add_word(&copy->ssh, "-p");
        add_word(&copy->ssh, number);
    }
    copy->source = *word;
    return split_place(word[1], copy);
}

static int is_name(const char *name)
{
    size_t length = strlen(name);
    if (!length || length > LONGEST_NAME - strlen(STATE) - 1 || !strcmp(name, ".") || !strcmp(name, ".."))
        return 0;
    return *name != '.' || !((length >= strlen(PART) && !strcmp(name + length - strlen(PART), PART)) ||
                             !strcmp(name + length - strlen(STATE), STATE));
}

static int is_same_state(const struct stat *one, const struct stat *other)
{
    return one->st_size == other->st_size && one->st_mtim.tv_sec == other->st_mtim.tv_sec &&
           one->st_mtim.tv_nsec == other->st_mtim.tv_nsec && one->st_ctim.tv_sec == other->st_ctim.tv_sec &&
           one->st_ctim.tv_nsec == other->st_ctim.tv_nsec;
}

/* The bytes of an open file, if it has just as many and nobody writes to it. */
static int read_whole(int fd, const struct stat *before, char *data)
{
    struct stat after;
    return pread(fd, data, MOST_BYTES + 1, 0) == before->st_size && !fstat(fd, &after) && is_same_state(before, &after);
}

static int read_source(const char *path, struct file *file)
{
    const char *slash = strrchr(path, '/');
    struct stat found;
    int done, fd;
    if (!is_name(slash != NULL ? slash + 1 : path))
        return 0;
    if (stat(path, &found) || !S_ISREG(found.st_mode) || found.st_size > MOST_BYTES)
        return 0; /* to open a device may do something */
    fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    done = fd >= 0 && !fstat(fd, &found) && S_ISREG(found.st_mode) && found.st_size <= MOST_BYTES &&
           read_whole(fd, &found, file->data);
    if (fd >= 0)
        close(fd);
    strcpy(file->name, slash != NULL ? slash + 1 : path);
    file->bytes = found.st_size;
    file->mode = found.st_mode & 0777;
    file->time = found.st_mtim;
    return done;
}

/* ---- here: ssh, the question and the answer */

/* As programs/copy_ssh.ssh_command. */
static struct words ssh_words(const struct copy *copy)
{
    struct words words = copy->ssh;
    struct text there = {0}, command = {0};
    for (const char *const *option = BARE; *option; option++)
        add_word(&words, (char *)*option);
    if (copy->user != NULL) {
        add_word(&words, "-l");
        add_word(&words, copy->user);
    }
    add_word(&words, "--");
    add_word(&words, copy->host);
    add(&there, "PATH=\"" MORE_PATH "\"; ");
    if (copy->mproxy == NULL)
        add(&there, "command -v mproxy >/dev/null || exit 127; ");
    add(&there, copy->mproxy != NULL ? copy->mproxy : "mproxy");
    add(&there, " copy --other-end");
    add(&command, "exec sh -c ");
    add_quoted(&command, there.at);
    add_word(&words, command.at);
    return words;
}

/* What Python would ask, and before it, for those who know, the file. */
static void add_question(struct text *text, const struct copy *copy, const struct file *file, const char *secret)
{
    char status[80];
    snprintf(status, sizeof status, "%o %lld %ld ", (unsigned)file->mode, (long long)file->time.tv_sec,
             file->time.tv_nsec);
    add(text, ASKED);
    add(text, status);
    add_hex(text, file->name, strlen(file->name));
    add(text, " ");
    add_hex(text, copy->target, strlen(copy->target));
    add(text, " ");
    add_hex(text, file->data, file->bytes);
    add(text, "\", \"secret\": \"");
    add_hex(text, secret, SECRET_BYTES);
    add(text, "\", \"datagram\": {}, \"target\": \"");
    add(text, copy->target);
    add(text, "\", \"several\": false, \"dry_run\": false, \"options\": {\"force\": true}}\n");
}

static pid_t start_ssh(const struct copy *copy, int *ours)
{
    struct words words = ssh_words(copy);
    int both[2];
    pid_t pid, parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both))
        return -1;
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* whatever ends us, nobody needs it any more */
        if (getppid() == parent && dup2(both[1], 0) == 0 && dup2(both[1], 1) == 1)
            execvp(words.word[0], words.word);
        _exit(NOT_FOUND);
    }
    close(both[1]);
    *ours = both[0];
    return pid;
}

static int send_all(int sock, const char *data, size_t count)
{
    while (count) {
        ssize_t sent = send(sock, data, count, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return 0;
        data += sent;
        count -= sent;
    }
    return 1;
}

/* What has come from the other end until its answer is there, or nothing more will come. */
static struct text hear(int sock)
{
    struct text heard = {0};
    char room[4096];
    add(&heard, "");
    for (;;) {
        ssize_t got = recv(sock, room, sizeof room, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return heard;
        add_bytes(&heard, room, got);
        const char *answer = memmem(heard.at, heard.used, MARK, strlen(MARK));
        if (answer == NULL ? heard.used > MOST_NOISE : memchr(answer, '\n', heard.at + heard.used - answer) != NULL)
            return heard;
        if (heard.used > MOST_QUESTION)
            return heard;
    }
}

static int says_written(const struct text *heard)
{
    const char *answer = memmem(heard->at, heard->used, MARK, strlen(MARK));
    return answer != NULL && (size_t)(heard->at + heard->used - answer) >= strlen(WRITTEN) &&
           !memcmp(answer, WRITTEN, strlen(WRITTEN));
}

static void wait_for_end(pid_t pid, int sock)
{
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    shutdown(sock, SHUT_WR);
    if (end.fd < 0 || poll(&end, 1, END_MS) != 1)
        kill(pid, SIGTERM);
}

/* Bytes to be read from a descriptor that outlives exec. */
static int keep(const char *data, size_t count)
{
    int fd = memfd_create("mproxy-copy", 0);
    if (fd >= 0 && (write(fd, data, count) != (ssize_t)count || lseek(fd, 0, SEEK_SET) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Have Python go on with what was begun; whether it can. */
static int leave_to_python(pid_t pid, int sock, const char *secret, const struct text *heard)
{
    struct text known = {0};
    char value[16];
    int fd;
    add_bytes(&known, secret, SECRET_BYTES);
    add_bytes(&known, heard->at, heard->used);
    fd = keep(known.at, known.used);
    snprintf(value, sizeof value, "%d", fd);
    return fd >= 0 && tell_begun(pid, sock, -1) && !setenv("MPROXY_COPY_KNOWN", value, 1);
}

void copy_small(char **word)
{
    struct copy copy = {0};
    struct text question = {0}, heard;
    struct file *file = allocate(NULL, sizeof *file);
    char secret[SECRET_BYTES];
    int sock;
    pid_t pid;
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            return; /* else it would be one of the socket's, and not outlive exec */
    if (!understand(word, &copy) || !read_source(copy.source, file) ||
        getrandom(secret, sizeof secret, 0) != sizeof secret)
        return;
    add_question(&question, &copy, file, secret);
    if (question.used > MOST_QUESTION)
        return;
    pid = start_ssh(&copy, &sock);
    if (pid < 0)
        return;
    send_all(sock, question.at, question.used); /* if it has ended already, Python finds out why */
    heard = hear(sock);
    if (says_written(&heard)) {
        wait_for_end(pid, sock);
        _exit(0);
    }
    if (!leave_to_python(pid, sock, secret, &heard)) {
        kill(pid, SIGTERM);
        _exit(70);
    }
}

/* ---- there */

static int digit(char letter)
{
    return letter >= '0' && letter <= '9' ? letter - '0' : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* Bytes in hexadecimal up to `end`, which follows them: how many; -1: too many, or something else. */
static long take_hex(const char **at, char *room, size_t most, char end)
{
    size_t count = 0;
    while (**at != end) {
        int high = digit((*at)[0]), low = high < 0 ? -1 : digit((*at)[1]);
        if (low < 0 || count == most)
            return -1;
        room[count++] = (char)(high << 4 | low);
        *at += 2;
    }
    *at += 1;
    return (long)count;
}

static int take_text(const char **at, char *room, size_t most)
{
    long count = take_hex(at, room, most, ' ');
    if (count < 0 || memchr(room, 0, count) != NULL)
        return 0;
    room[count] = 0;
    return 1;
}

/* The file of a question; whether it has one. `target` has room for as many bytes as the question has. */
static int read_question(const char *question, struct file *file, char *target)
{
    unsigned mode;
    long long second;
    long nanosecond;
    int length = 0;
    const char *at = question + strlen(ASKED);
    if (strncmp(question, ASKED, strlen(ASKED)) ||
        sscanf(at, "%3o %20lld %9ld%n", &mode, &second, &nanosecond, &length) != 3 || at[length] != ' ')
        return 0;
    at += length + 1;
    file->mode = mode & 0777;
    file->time.tv_sec = second;
    file->time.tv_nsec = nanosecond;
    if (nanosecond < 0 || !take_text(&at, file->name, LONGEST_NAME) || !take_text(&at, target, MOST_QUESTION))
        return 0;
    long count = take_hex(&at, file->data, MOST_BYTES, '"');
    file->bytes = count < 0 ? 0 : count;
    return count >= 0;
}

/* As programs/copy_places.find_landing: a descriptor of the directory, and the file's name there. */
static int find_landing(char *target, struct file *file)
{
    char *slash = strrchr(target, '/'), *name = slash != NULL ? slash + 1 : target;
    struct stat found;
    if (*target == '~')
        return -1;
    if (*target && *name && !(stat(target, &found) == 0 && S_ISDIR(found.st_mode))) {
        if (strlen(name) > LONGEST_NAME)
            return -1;
        strcpy(file->name, name);
        *name = 0;
    }
    if (!is_name(file->name))
        return -1;
    return open(*target ? target : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Whether something of an earlier attempt is there. */
static int has_part(int directory, const char *name)
{
    static const char *const ends[] = {PART, STATE};
    char other[2 * LONGEST_NAME];
    struct stat found;
    for (int i = 0; i < 2; i++) {
        snprintf(other, sizeof other, ".%s%s", name, ends[i]);
        if (!fstatat(directory, other, &found, AT_SYMLINK_NOFOLLOW) || errno != ENOENT)
            return 1;
    }
    return 0;
}

static int dress(int fd, const struct file *file, mode_t mask)
{
    struct timespec times[2] = {file->time, file->time};
    return !fchmod(fd, file->mode & ~mask) && !futimens(fd, times);
}

/* Whether that file is there already, byte for byte. */
static int is_there(int directory, const struct file *file, mode_t mask)
{
    struct stat held;
    static char there[MOST_BYTES + 1];
    int same, fd = openat(directory, file->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    same = !fstat(fd, &held) && S_ISREG(held.st_mode) && held.st_size == (off_t)file->bytes &&
           read_whole(fd, &held, there) && !memcmp(there, file->data, file->bytes);
    if (same)
        dress(fd, file, mask); /* which may be another user's */
    close(fd);
    return same;
}

/* Give an open file a name in the directory. */
static int name_it(int fd, int directory, const char *name)
{
    char own[32];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    return !linkat(AT_FDCWD, own, directory, name, AT_SYMLINK_FOLLOW);
}

/* The same in place of another file. */
static int replace(int fd, int directory, const char *name)
{
    struct text fresh = {0};
    struct stat found;
    char random[12];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return 0;
    add(&fresh, ".");
    add_hex(&fresh, random, sizeof random);
    add(&fresh, PART);
    if (!name_it(fd, directory, fresh.at))
        return 0;
    if (fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) ? errno == ENOENT : S_ISREG(found.st_mode))
        if (!renameat(directory, fresh.at, directory, name))
            return 1;
    unlinkat(directory, fresh.at, 0);
    return 0;
}

/* Write the file to the disk, read it again, and give it its name. Whatever goes wrong, nothing is left of it. */
static int write_new(int directory, const struct file *file, mode_t mask, int is_taken)
{
    struct stat before;
    static char there[MOST_BYTES + 1];
    int done, fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return 0;
    done = pwrite(fd, file->data, file->bytes, 0) == (ssize_t)file->bytes && !fdatasync(fd) &&
           dress(fd, file, mask) && !fstat(fd, &before) && before.st_size == (off_t)file->bytes &&
           read_whole(fd, &before, there) && !memcmp(there, file->data, file->bytes) &&
           (is_taken ? replace : name_it)(fd, directory, file->name);
    close(fd);
    return done;
}

static int receive(char *target, struct file *file)
{
    struct stat found;
    mode_t mask = umask(0);
    int is_taken, done, directory = find_landing(target, file);
    umask(mask);
    if (directory < 0)
        return 0;
    is_taken = !fstatat(directory, file->name, &found, AT_SYMLINK_NOFOLLOW);
    if (has_part(directory, file->name) || (is_taken ? !S_ISREG(found.st_mode) : errno != ENOENT))
        done = 0;
    else
        done = (is_taken && is_there(directory, file, mask)) || write_new(directory, file, mask, is_taken);
    close(directory);
    return done;
}

void take_small(void)
{
    char *question = allocate(NULL, MOST_QUESTION + 1), *target = allocate(NULL, MOST_QUESTION + 1), value[16];
    struct file *file = allocate(NULL, sizeof *file);
    size_t used = 0;
    int fd;
    while (used == 0 || question[used - 1] != '\n') {
        ssize_t got = read(0, question + used, MOST_QUESTION - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break; /* its end, or too long: Python says so */
        used += got;
    }
    question[used] = 0;
    if (read_question(question, file, target) && receive(target, file))
        _exit(write(1, WRITTEN, strlen(WRITTEN)) != (ssize_t)strlen(WRITTEN));
    fd = keep(question, used);
    snprintf(value, sizeof value, "%d", fd);
    if (fd < 0 || setenv("MPROXY_COPY_ASKED", value, 1))
        _exit(70);
}
