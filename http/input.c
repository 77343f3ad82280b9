/* Read buffers: small ones from the heap, full ones from the server's blocks, wiped when given back. The connection's owner. */
#include "http/internal.h"

#include <stdlib.h>

uint8_t *hpl_http_block_take(struct hpl_http_blocks *blocks)
{
    pthread_mutex_lock(&blocks->lock);
    uint8_t *block = blocks->num_free ? blocks->free[--blocks->num_free] : NULL;
    pthread_mutex_unlock(&blocks->lock);
    return block ? block : aligned_alloc(4096, HPL_HTTP_BLOCK);
}

void hpl_http_block_give(struct hpl_http_blocks *blocks, uint8_t *block, size_t used)
{
    hpl_wipe(block, used);
    pthread_mutex_lock(&blocks->lock);
    if (blocks->num_free < HPL_COUNT(blocks->free)) {
        blocks->free[blocks->num_free++] = block;
        block = NULL;
    }
    pthread_mutex_unlock(&blocks->lock);
    free(block);
}

size_t hpl_http_input_len(const struct hpl_http_input *in)
{
    return in->end - in->start;
}

void hpl_http_input_wipe(struct hpl_http_blocks *blocks, struct hpl_http_input *in)
{
    if (in->cap == HPL_HTTP_BLOCK) {
        hpl_http_block_give(blocks, in->data, in->used);
    } else if (in->data) {
        hpl_wipe(in->data, in->used);
        free(in->data);
    }
    *in = (struct hpl_http_input){0};
}

static void move_to_front(struct hpl_http_input *in)
{
    if (in->start == 0)
        return;
    memmove(in->data, in->data + in->start, hpl_http_input_len(in));
    in->end -= in->start;
    in->start = 0;
}

bool hpl_http_input_reserve(struct hpl_http_blocks *blocks, struct hpl_http_input *in, size_t want)
{
    HPL_CHECK(want <= HPL_HTTP_BLOCK);
    if (in->data && in->cap >= want) {
        if (in->cap - in->start < want)
            move_to_front(in);
        return true;
    }
    bool is_block = want > HPL_HTTP_BLOCK / 4;
    struct hpl_http_input larger = {.cap = is_block ? HPL_HTTP_BLOCK : want, .end = hpl_http_input_len(in)};
    larger.data = is_block ? hpl_http_block_take(blocks) : malloc(larger.cap);
    if (!larger.data)
        return false;
    if (larger.end)
        memcpy(larger.data, in->data + in->start, larger.end);
    larger.used = larger.end;
    hpl_http_input_wipe(blocks, in);
    *in = larger;
    return true;
}

ssize_t hpl_http_input_read(struct hpl_http_input *in, struct hpl_link *link, size_t max)
{
    ssize_t n = hpl_link_read(link, in->data + in->end, max);
    if (n > 0)
        in->end += (size_t)n;
    if (in->end > in->used)
        in->used = in->end;
    return n;
}
