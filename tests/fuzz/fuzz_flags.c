/* Fuzz target: any bytes as a command line that was written for another server, an argument a line. What
 * comes out is read by the option parser: it names only options of ours. SPDX-License-Identifier: Apache-2.0
 */
#include "base/mem.h"
#include "cli/wish.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096) return 0;
    char *text = xstrndup((const char *)data, size), *argv[66] = {"serve"}, *save = NULL;
    int argc = 1;
    for (char *word = strtok_r(text, "\n", &save); word && argc < 64; word = strtok_r(NULL, "\n", &save))
        if (strncmp(word, "--help", 6) && word[0] && !(word[0] == '-' && word[1] == 'h')) argv[argc++] = word;
    struct qn_arena *arena = qn_arena_create(16 << 20);
    struct qn_err e = {0};
    struct qn_wish w;
    int depth;
    qn_wish_init(&w);
    int rc = qn_wish_read(&w, argc, argv, arena, &e);
    if (rc)
        QN_CHECK(rc == QN_CANCELED || (e.code == rc && e.text[0]));
    else {
        QN_CHECK(w.model);
        qn_wish_depth(w.mtp, &depth, NULL);
        qn_wish_generation(&w, arena, &e);
    }
    qn_arena_free(arena);
    free(text);
    return 0;
}
