/* Fuzz target: any bytes as the body of /v1/messages/count_tokens, answered whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_handle(qn_api_count_tokens, data, size);
    return 0;
}
