/* The serve command, apart from what executes the steps: `quern serve` gives it a checkpoint, the test server
 * a scripted runner. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SERVE_H
#define QN_SERVE_H

#include "engine/engine.h"

/* fake: engine options of a runner that needs no model, or NULL: MODEL is a checkpoint folder. With fake,
 * MODEL only has the tokenizer and the template. Returns the exit code. */
int qn_serve(int argc, char **argv, const struct qn_engine_options *fake);

#endif
