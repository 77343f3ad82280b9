/* A stream through memory in large chunks: one thread reads ahead, the caller's turns chunks over, one writes behind. */
#ifndef HPL_CLI_STREAM_H
#define HPL_CLI_STREAM_H

#include "base/status.h"

#define HPL_STREAM_AHEAD_MAX 64u

/* Turns one chunk over. in_len is chunk_len, or for the last one anything below chunk_len + ahead_len. Runs on the caller's thread. */
typedef enum hpl_status hpl_stream_fn(struct hpl_call *call, void *arg, const uint8_t *in, size_t in_len, bool is_last, uint8_t *out, size_t *out_len);

struct hpl_stream {
    int in, out;                     /* files or pipes, where they stand */
    const char *in_name, *out_name;  /* for messages */
    size_t chunk_len;
    size_t ahead_len;                /* bytes of the next chunk that must be there before a chunk is known not to be the last; 1 to 64 */
    size_t out_max;                  /* the most that a chunk turns into */
    hpl_stream_fn *turn;
    void *arg;
    const char *doing;               /* the progress line's first word; NULL: no such line */
    uint64_t total_len;              /* bytes to be read, for the progress line; 0: not known */
};

/* Until the end of in, or the first failure. What was turned before a failure is written; nothing of the failing chunk is. Buffers are locked where
 * the system lets them, and wiped. */
enum hpl_status hpl_stream_run(struct hpl_call *call, const struct hpl_stream *stream) HPL_MUST_USE;

#endif
