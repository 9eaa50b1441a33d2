/* Opening files that are to be files.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int qn_file_open(int *fd, const char *path, struct qn_err *e)
{
    int rc = QN_OK, opened = -1;
    struct stat info;
    bool is_asked_for = !strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6);
    if (is_asked_for && strncmp(path, "/dev/shm/", 9) != 0) {
        opened = open(path, O_RDONLY | O_CLOEXEC);
        QN_FAIL_IF(opened < 0, e, errno == ENOENT ? QN_NOTFOUND : QN_IO, "%s: %s", path, strerror(errno));
    } else {
        opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        QN_FAIL_IF(opened < 0 && errno == ENXIO, e, QN_FORMAT, "%s is not a file", path); /* a socket */
        QN_FAIL_IF(opened < 0, e, errno == ENOENT ? QN_NOTFOUND : QN_IO, "%s: %s", path, strerror(errno));
        QN_FAIL_IF(fstat(opened, &info), e, QN_IO, "%s: %s", path, strerror(errno));
        QN_FAIL_IF(S_ISDIR(info.st_mode), e, QN_FORMAT, "%s is a folder, not a file", path);
        QN_FAIL_IF(!S_ISREG(info.st_mode), e, QN_FORMAT, "%s is a %s, not a file", path,
                   S_ISFIFO(info.st_mode)   ? "FIFO"
                   : S_ISSOCK(info.st_mode) ? "socket"
                                            : "device");
    }
    *fd = opened;
    opened = -1;
out:
    if (opened >= 0) close(opened);
    return rc;
}

FILE *qn_file_read(const char *path, struct qn_err *e)
{
    int fd;
    if (qn_file_open(&fd, path, e)) return NULL;
    FILE *in = fdopen(fd, "rb");
    if (!in) {
        qn_err_set(e, QN_IO, __FILE__, __LINE__, "%s: %s", path, strerror(errno));
        close(fd);
    }
    return in;
}

int qn_file_create(const char *path, unsigned mode)
{
    for (int attempt = 0; attempt < 8; attempt++) {
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, (mode_t)mode);
        if (fd >= 0 || errno != EEXIST) return fd;
        if (unlink(path) && errno != ENOENT) return -1;
    }
    errno = EEXIST;
    return -1;
}
