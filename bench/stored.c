/* The part that seal and workers work on. */
#include "bench/stored.h"

#include <stdlib.h>
#include <string.h>

enum hpl_status hpl_bench_stored_init(struct hpl_call *call, struct hpl_bench_stored *stored, size_t most)
{
    static const uint8_t salt[HPL_PART_SALT_LEN] = "salt", instance[16] = "instance";
    const struct hpl_part_id id = {hpl_bytes_str("bucket"), hpl_bytes_str("object"), instance, 1};
    struct hpl_secret *HPL_SECRET_AUTO key = hpl_secret_random(32);
    size_t room = ((size_t)hpl_sealed_len(most) + 4095) / 4096 * 4096;
    *stored = (struct hpl_bench_stored){.plain = aligned_alloc(4096, room), .sealed = aligned_alloc(4096, room), .out = aligned_alloc(4096, room)};
    if (!key || !stored->plain || !stored->sealed || !stored->out)
        return hpl_fail(call, HPL_NO_MEMORY, "not enough memory for a part of %zu bytes; choose smaller --sizes", most);
    memset(stored->plain, 0x5a, room);
    memset(stored->out, 0, room);
    return hpl_part_key_new(call, &stored->key, key, salt, &id);
}

void hpl_bench_stored_set(struct hpl_bench_stored *stored, size_t len)
{
    stored->len = len;
    stored->sealed_len = hpl_packages_seal(stored->key, 0, true, stored->plain, len, stored->sealed);
}

void hpl_bench_stored_wipe(struct hpl_bench_stored *stored)
{
    hpl_part_key_free(stored->key);
    free(stored->plain);
    free(stored->sealed);
    free(stored->out);
}
