/* Fuzz target: any bytes as the body of /v1/messages.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_body b;
    if (fuzz_body_open(&b, data, size))
        fuzz_body_close(&b, qn_api_read_messages(&b.ask, &b.x, b.json, false, &b.e), true);
    return 0;
}
