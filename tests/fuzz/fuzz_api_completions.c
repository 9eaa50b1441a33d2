/* Fuzz target: any bytes as the body of /v1/completions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_body b;
    struct qn_stream_prompt *prompts;
    int n_prompt;
    if (fuzz_body_open(&b, data, size))
        fuzz_body_close(&b, qn_api_read_completion(&b.ask, &b.x, b.json, &prompts, &n_prompt, &b.e), false);
    return 0;
}
