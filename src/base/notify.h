/* Telling the service manager how things stand (systemd's Type=notify): a datagram to $NOTIFY_SOCKET, nothing
 * where that is not set. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_NOTIFY_H
#define QN_NOTIFY_H

#include "base/base.h"

/* "READY=1", "STOPPING=1", "STATUS=..." */
void qn_notify(const char *state);

#endif
