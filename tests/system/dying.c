/* A process that is killed behind a system call, before it can note what the call has done: preloaded into a worker.
 *
 * Another process takes its place: it has the same table of descriptors (CLONE_FILES), a copy of the memory, and goes on
 * in the function that `die_behind` was given. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int left;             /* calls until death; 0: none */
static void (*next)(void);   /* what the other process does; it does not return */

void die_behind(int calls, void (*then)(void))
{
    left = calls;
    next = then;
}

static void after(long result)
{
    int error = errno;
    pid_t self = getpid();
    if (left == 0 || (result < 0 && (error == EAGAIN || error == EINPROGRESS)) || --left > 0) {
        errno = error;
        return;
    }
    if (syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) != 0) {
        kill(self, SIGKILL);
        for (;;)
            pause();
    }
    while (getppid() == self)
        sched_yield();
    next();
    _exit(1);
}

#define BEHIND(type, name, parameters, arguments)                      \
    type name parameters                                               \
    {                                                                  \
        static type (*real) parameters;                                \
        type result;                                                   \
        if (!real)                                                     \
            real = (type (*) parameters)dlsym(RTLD_NEXT, #name);       \
        result = real arguments;                                       \
        after(result);                                                 \
        return result;                                                 \
    }

BEHIND(ssize_t, recv, (int fd, void *data, size_t length, int flags), (fd, data, length, flags))
BEHIND(ssize_t, send, (int fd, const void *data, size_t length, int flags), (fd, data, length, flags))
BEHIND(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
BEHIND(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
BEHIND(int, connect, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length))
BEHIND(int, shutdown, (int fd, int how), (fd, how))
BEHIND(int, close, (int fd), (fd))
BEHIND(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags), (fd, address, length, flags))
