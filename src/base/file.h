/* Opening files that are to be files. A FIFO, a socket or a device under a name where a file is expected
 * would block the open or never end; here it is an error with the name. Any thread. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef QN_FILE_H
#define QN_FILE_H

#include "base/err.h"

/* Opens a regular file for reading; links are followed. QN_NOTFOUND, QN_FORMAT (not a file), QN_IO. What a
 * user names under /dev/ or /proc/ (/dev/stdin, the shell's <(command)) is taken as it is. */
int qn_file_open(int *fd, const char *path, struct qn_err *e);
/* The same as a stream; NULL with e set. */
FILE *qn_file_read(const char *path, struct qn_err *e);
/* A new file, mode and all, in place of whatever had the name; -1 with errno. Never opens what is there. */
int qn_file_create(const char *path, unsigned mode);

#endif
