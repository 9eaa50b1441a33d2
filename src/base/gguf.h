/* One GGUF file: a mapped file, its metadata and its tensor table.
 *
 * Layout (versions 2 and 3, little-endian): "GGUF", u32 version, u64 tensors, u64 entries; entries of string
 * key, u32 type, value; tensors of string name, u32 dims, u64 dim[], u32 type, u64 offset; then the data,
 * aligned to general.alignment. A string is u64 length and bytes. dim[0] is the contiguous one. Every number
 * is checked before it is used; keys and names are unique. What keys and names mean is not known here. Owned
 * by the opener; immutable; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_GGUF_H
#define QN_GGUF_H

#include "base/err.h"

#define QN_GGUF_MAX_ENTRIES 65536
#define QN_GGUF_MAX_TENSORS 1000000
#define QN_GGUF_MAX_NAME    256 /* bytes of a key or a tensor name */
#define QN_GGUF_MAX_DIM     4

struct qn_gguf;

enum qn_gguf_kind { /* of a value, by its number in the file */
                    QN_GGUF_U8,
                    QN_GGUF_I8,
                    QN_GGUF_U16,
                    QN_GGUF_I16,
                    QN_GGUF_U32,
                    QN_GGUF_I32,
                    QN_GGUF_F32,
                    QN_GGUF_BOOL,
                    QN_GGUF_STRING,
                    QN_GGUF_ARRAY,
                    QN_GGUF_U64,
                    QN_GGUF_I64,
                    QN_GGUF_F64,
                    QN_GGUF_N_KIND
};

/* A scalar (n 1), a string (n bytes), or the elements of an array. Points into the file, unaligned. */
struct qn_gguf_value {
    const char *key;
    enum qn_gguf_kind kind, element; /* element: of an array; else the same as kind */
    uint64_t n;
    const unsigned char *data;
    size_t n_byte;
};

/* Block types by their number in the file. Types that are not in the table cannot be sized. */
struct qn_gguf_type {
    const char *name;    /* "Q4_K"; NULL: no such number is known */
    int n_value, n_byte; /* of a block; 0: known by name only */
};

struct qn_gguf_tensor {
    const char *name;
    uint32_t type;
    int n_dim;
    int64_t dim[QN_GGUF_MAX_DIM]; /* as in the file; 1 beyond n_dim */
    const unsigned char *data;
    size_t n_byte; /* 0: the type cannot be sized */
};

/* Errors: QN_NOTFOUND, QN_IO, QN_FORMAT (names file and place), QN_UNSUPPORTED (version, byte order),
 * QN_TOOBIG. */
int qn_gguf_open(struct qn_gguf **out, const char *path, struct qn_err *e);
/* Over bytes the caller keeps alive. `name` is used in errors. */
int qn_gguf_parse(struct qn_gguf **out, const void *data, size_t n_byte, const char *name, struct qn_err *e);
void qn_gguf_close(struct qn_gguf *g); /* NULL is allowed */

const char *qn_gguf_path(const struct qn_gguf *g);
int qn_gguf_n_value(const struct qn_gguf *g);
const struct qn_gguf_value *qn_gguf_value(const struct qn_gguf *g, int i);          /* in file order */
const struct qn_gguf_value *qn_gguf_find(const struct qn_gguf *g, const char *key); /* or NULL */
int qn_gguf_n_tensor(const struct qn_gguf *g);
const struct qn_gguf_tensor *qn_gguf_tensor(const struct qn_gguf *g, int i);
size_t qn_gguf_file_bytes(const struct qn_gguf *g);
const void *qn_gguf_header(const struct qn_gguf *g, size_t *n_byte); /* everything before the data */
void qn_gguf_advise(const struct qn_gguf *g, int advice);            /* madvise over the file */

struct qn_gguf_type qn_gguf_type(uint32_t type);

/* Element i as a number; false when it is none (or the value is NULL). Integers of any width are integers. */
bool qn_gguf_int(const struct qn_gguf_value *v, uint64_t i, int64_t *out);
bool qn_gguf_num(const struct qn_gguf_value *v, uint64_t i, double *out);
bool qn_gguf_is_string(const struct qn_gguf_value *v);

/* The strings of an array, one after the other: false at the end. Start with {v, 0, 0}. */
struct qn_gguf_strings {
    const struct qn_gguf_value *v;
    uint64_t i;
    size_t at;
};
bool qn_gguf_next_string(struct qn_gguf_strings *s, const char **text, size_t *n);

/* A model: one file, or the files of a split set, of which the first has the metadata. */
struct qn_gguf_set {
    struct qn_gguf **files; /* [n] */
    int n;
};
/* path: a file, or the first (any) of a set: all of it is opened. Errors: as above; a missing part is named.
 */
int qn_gguf_set_open(struct qn_gguf_set *out, const char *path, struct qn_err *e);
void qn_gguf_set_close(struct qn_gguf_set *s);
const struct qn_gguf_tensor *qn_gguf_set_find(const struct qn_gguf_set *s,
                                              const char *name); /* or NULL; slow */

/* The file of a split set a path names: <prefix>-00001-of-00003.gguf. False when the name is not of that
 * form. */
bool qn_gguf_split_name(const char *path, int *no, int *count);
/* The path of file `no` (from 1) of the same set; the caller frees it. */
char *qn_gguf_split_path(const char *path, int no);

#endif
