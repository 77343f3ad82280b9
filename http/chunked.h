/* The chunked coding (RFC 9112 §7.1) as a pure, incremental, strict decoder. aws-chunked has the same grammar with a
 * signature for an extension, so aws_chunked.c stands on this one. */
#ifndef HPL_HTTP_CHUNKED_H
#define HPL_HTTP_CHUNKED_H

#include "base/bytes.h"

#define HPL_HTTP_MAX_TRAILERS 8192u
#define HPL_HTTP_MAX_CHUNK_LINE 512u

enum hpl_chunked_event {
    HPL_CHUNKED_MORE,   /* the input is used up */
    HPL_CHUNKED_CHUNK,  /* a chunk begins: left is its size, hpl_chunked_extension what followed the size */
    HPL_CHUNKED_DATA,   /* *span is data of the present chunk */
    HPL_CHUNKED_END,    /* the present chunk is complete (the last, empty one too) */
    HPL_CHUNKED_DONE    /* the empty line behind the trailers was read; the input after it is not ours */
};

/* Zero-initialised is ready. */
struct hpl_chunked {
    int state;
    uint64_t left;           /* data bytes of the present chunk still to come */
    struct hpl_buf line;     /* the line being read, without its line end */
    size_t extension;        /* where in line the extension begins */
    struct hpl_buf trailers; /* "name:value\n" for each, names as sent, values trimmed */
    bool takes_lf_trailers;  /* a trailer's line may end in LF CR LF too: set where the chunks lie within a body that is framed otherwise */
};

/* Takes bytes off *input until there is something to tell. HPL_INVALID_REQUEST with the reason otherwise. */
enum hpl_status hpl_chunked_next(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input,
                                 enum hpl_chunked_event *event, struct hpl_bytes *span) HPL_MUST_USE;
/* At HPL_CHUNKED_CHUNK: from the ';' on, or empty. */
struct hpl_bytes hpl_chunked_extension(const struct hpl_chunked *chunked);
/* *( ";" token [ "=" ( token | quoted-string ) ] ) */
bool hpl_chunked_extension_is_valid(struct hpl_bytes extension);
/* A trailer's value by name (any case), or a NULL view. Valid until wiped. */
struct hpl_bytes hpl_chunked_trailer(const struct hpl_chunked *chunked, const char *name);
/* How often a trailer of that name (any case) came; an empty name counts them all. */
size_t hpl_chunked_count_trailers(const struct hpl_chunked *chunked, struct hpl_bytes name);
void hpl_chunked_wipe(struct hpl_chunked *chunked);

#endif
