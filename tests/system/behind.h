/* For what is preloaded to act behind system calls: `after`, which the including file has, is called behind each of them,
 * before its caller has the result. */

#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

static void after(long result);

#define BEHIND(type, name, parameters, arguments)                      \
    type name parameters                                               \
    {                                                                  \
        static type (*real) parameters;                                \
        type result;                                                   \
        if (!real)                                                     \
            real = (type (*) parameters)dlsym(RTLD_NEXT, #name);       \
        result = real arguments;                                       \
        after((long)result);                                           \
        return result;                                                 \
    }

BEHIND(ssize_t, recv, (int fd, void *data, size_t length, int flags), (fd, data, length, flags))
BEHIND(ssize_t, send, (int fd, const void *data, size_t length, int flags), (fd, data, length, flags))
BEHIND(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
BEHIND(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
BEHIND(int, connect, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length))
BEHIND(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags), (fd, address, length, flags))
BEHIND(int, shutdown, (int fd, int how), (fd, how))
BEHIND(int, close, (int fd), (fd))
