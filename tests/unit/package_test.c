/* Packages of a part: what was sealed opens, and nothing else does. */
#include "tests/test.h"

#include <stdlib.h>

#include "engine/seal/batch.h"
#include "engine/seal/derive.h"
#include "engine/seal/package.h"

#define SEALED (HPL_PACKAGE_LEN + HPL_PACKAGE_OVERHEAD)

static const uint8_t instance[16] = {1, 2, 3}, other_instance[16] = {1, 2, 4};
static const uint8_t salt[HPL_PART_SALT_LEN] = {9, 8, 7}, other_salt[HPL_PART_SALT_LEN] = {9, 8, 6};

static struct hpl_part_id id_of(const char *bucket, const char *key, uint32_t number)
{
    return (struct hpl_part_id){hpl_bytes_str(bucket), hpl_bytes_str(key), instance, number};
}

static struct hpl_secret *data_key(uint8_t first)
{
    uint8_t bytes[32] = {first, 0x55};
    struct hpl_secret *key = hpl_secret_from(bytes, sizeof bytes);
    EXPECT(key != NULL);
    return key;
}

static struct hpl_part_key *part_key_of(uint8_t first, const uint8_t *with_salt, struct hpl_part_id id)
{
    struct hpl_secret *HPL_SECRET_AUTO key = data_key(first);
    struct hpl_part_key *out = NULL;
    EXPECT_OK(hpl_part_key_new(NULL, &out, key, with_salt, &id));
    return out;
}

static struct hpl_part_key *part_key(void)
{
    return part_key_of(1, salt, id_of("bucket", "key", 1));
}

/* A sealed part on the heap, exactly as large as it is, so that a sanitizer sees a read past its end. */
struct sealed {
    struct hpl_part_key *key;
    uint8_t *plain, *stored, *opened;
    size_t plain_len, stored_len;
};

static struct sealed seal(size_t len)
{
    struct sealed s = {.key = part_key(), .plain = malloc(len + 1), .plain_len = len};
    s.stored_len = (size_t)hpl_sealed_len(len);
    s.stored = malloc(s.stored_len + 1);
    s.opened = calloc(1, len + SEALED);
    EXPECT(s.plain && s.stored && s.opened);
    for (size_t i = 0; i < len; i++)
        s.plain[i] = (uint8_t)(i * 7 + i / HPL_PACKAGE_LEN + 1) | 1;
    if (len)
        EXPECT_NUM(hpl_packages_seal(s.key, 0, true, s.plain, len, s.stored), s.stored_len);
    return s;
}

static void done(struct sealed *s)
{
    hpl_part_key_free(s->key);
    free(s->plain);
    free(s->stored);
    free(s->opened);
}

static enum hpl_status open_whole(struct sealed *s)
{
    size_t len = 0;
    enum hpl_status status = hpl_packages_open(NULL, s->key, s->plain_len, 0, s->stored, s->stored_len, s->opened, &len);
    EXPECT(status != HPL_OK || len == s->plain_len);
    return status;
}

/* Opening is refused and leaves nothing of the plaintext (of which no byte is zero) behind. */
static void expect_refused(struct sealed *s)
{
    memset(s->opened, 0, s->plain_len);
    EXPECT_STATUS(open_whole(s), HPL_INTEGRITY);
    for (size_t i = 0; i < s->plain_len; i++)
        if (s->opened[i])
            EXPECT(!"plaintext was left behind");
}

static void swap(uint8_t *a, uint8_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

HPL_TEST(parts_of_every_awkward_size_come_back)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 65535, 65536, 65537, 131071, 131072, 131073, 1000003};
    for (size_t i = 0; i < HPL_COUNT(sizes); i++) {
        struct sealed s = seal(sizes[i]);
        EXPECT_OK(open_whole(&s));
        EXPECT_BYTES(s.opened, s.plain, s.plain_len);
        done(&s);
    }
}

HPL_TEST(an_empty_part_has_no_bytes_and_takes_none)
{
    struct sealed s = seal(0);
    EXPECT_NUM(s.stored_len, 0);
    EXPECT_NUM(hpl_num_packages(0), 0);
    EXPECT_OK(open_whole(&s));
    memset(s.stored, 0, 1);
    s.stored_len = 1;
    EXPECT_STATUS(open_whole(&s), HPL_INTEGRITY);
    done(&s);
}

HPL_TEST(sizes_on_disk_are_those_of_the_format)
{
    EXPECT_NUM(hpl_sealed_len(1), 33);
    EXPECT_NUM(hpl_sealed_len(65536), 65568);
    EXPECT_NUM(hpl_sealed_len(65537), 65568 + 33);
    EXPECT_NUM(hpl_num_packages(UINT64_C(65536) * UINT32_MAX), UINT32_MAX);
}

HPL_TEST(a_header_is_written_as_dare_says)
{
    struct sealed s = seal(HPL_PACKAGE_LEN + 300);
    static const uint8_t full[4] = {0x20, 0, 0xff, 0xff}, last[4] = {0x20, 0, 43, 1};
    EXPECT_BYTES(s.stored, full, 4);
    EXPECT_BYTES(s.stored + SEALED, last, 4);
    EXPECT_NUM(s.stored[4] & 0x80, 0);
    EXPECT_NUM(s.stored[SEALED + 4], s.stored[4] | 0x80);
    EXPECT_BYTES(s.stored + 5, s.stored + SEALED + 5, 11);
    done(&s);
}

HPL_TEST(a_run_of_packages_is_that_slice_of_the_part)
{
    struct sealed s = seal(5 * HPL_PACKAGE_LEN + 77);
    for (uint32_t first = 0; first < 6; first++)
        for (uint32_t end = first + 1; end <= 6; end++) {
            size_t from = (size_t)first * HPL_PACKAGE_LEN, to = end == 6 ? s.plain_len : (size_t)end * HPL_PACKAGE_LEN, len = 0;
            size_t in_len = to - from + (end - first) * HPL_PACKAGE_OVERHEAD;
            EXPECT_OK(hpl_packages_open(NULL, s.key, s.plain_len, first, s.stored + (size_t)first * SEALED, in_len, s.opened, &len));
            EXPECT_NUM(len, to - from);
            EXPECT_BYTES(s.opened, s.plain + from, len);
        }
    done(&s);
}

HPL_TEST(sealing_in_runs_gives_the_same_bytes)
{
    struct sealed s = seal(3 * HPL_PACKAGE_LEN + 5);
    uint8_t *again = malloc(s.stored_len);
    size_t n = hpl_packages_seal(s.key, 0, false, s.plain, 2 * HPL_PACKAGE_LEN, again);
    n += hpl_packages_seal(s.key, 2, true, s.plain + 2 * HPL_PACKAGE_LEN, HPL_PACKAGE_LEN + 5, again + n);
    EXPECT_NUM(n, s.stored_len);
    EXPECT_BYTES(again, s.stored, n);
    free(again);
    done(&s);
}

HPL_TEST(a_flipped_bit_anywhere_is_refused)
{
    struct sealed s = seal(70);
    for (size_t bit = 0; bit < s.stored_len * 8; bit++) {
        s.stored[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_refused(&s);
        s.stored[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    EXPECT_OK(open_whole(&s));
    done(&s);
}

HPL_TEST(a_flipped_bit_in_any_header_or_tag_of_a_long_part_is_refused)
{
    struct sealed s = seal(2 * HPL_PACKAGE_LEN + 9);
    for (size_t package = 0; package < 3; package++) {
        size_t at = package * SEALED, end = package == 2 ? s.stored_len : at + SEALED;
        for (size_t i = 0; i < 32; i++) {
            size_t where = i < 16 ? at + i : end - 32 + i;
            s.stored[where] ^= 0x80 >> i % 8;
            expect_refused(&s);
            s.stored[where] ^= 0x80 >> i % 8;
        }
    }
    EXPECT_OK(open_whole(&s));
    done(&s);
}

HPL_TEST(a_short_part_truncated_at_every_byte_is_refused)
{
    struct sealed s = seal(200);
    for (size_t len = 0; len < hpl_sealed_len(200); len++) {
        s.stored_len = len;
        expect_refused(&s);
    }
    done(&s);
}

HPL_TEST(a_long_part_cut_at_or_near_a_package_is_refused_as_a_shorter_part)
{
    struct sealed s = seal(2 * HPL_PACKAGE_LEN + 40);
    static const size_t plain[] = {HPL_PACKAGE_LEN, 2 * HPL_PACKAGE_LEN, 2 * HPL_PACKAGE_LEN + 39, HPL_PACKAGE_LEN - 1};
    for (size_t i = 0; i < HPL_COUNT(plain); i++) {
        s.plain_len = plain[i];
        s.stored_len = (size_t)hpl_sealed_len(plain[i]);
        expect_refused(&s);
    }
    done(&s);
}

HPL_TEST(bytes_behind_the_last_package_are_refused)
{
    struct sealed s = seal(HPL_PACKAGE_LEN);
    s.stored = realloc(s.stored, s.stored_len * 2);
    memcpy(s.stored + s.stored_len, s.stored, s.stored_len);
    for (size_t more = 1; more <= SEALED; more += more < 40 ? 1 : 9973) {
        s.stored_len = SEALED + more;
        expect_refused(&s);
    }
    done(&s);
}

/* The attack that DARE alone does not see: the header's nonce is not authenticated, and what GCM gets is that nonce xor the number;
 * so package j read at place i verifies once its header's nonce is xored with i ^ j. */
static void move_by_xor(uint8_t *header, uint32_t from, uint32_t to)
{
    for (unsigned i = 0; i < 4; i++)
        header[12 + i] ^= (uint8_t)((from ^ to) >> (8 * i));
}

/* What a reader that believes headers would say of the package at place number: the attack must be real to be worth refusing. */
static enum hpl_status believe(const uint8_t *package, uint32_t number, uint8_t *out)
{
    struct hpl_secret *HPL_SECRET_AUTO key = data_key(1);
    struct hpl_part_secrets secrets;
    struct hpl_part_id id = id_of("bucket", "key", 1);
    struct hpl_aead_key *aead = NULL;
    uint8_t nonce[12];
    EXPECT_OK(hpl_part_derive(NULL, &secrets, key, salt, &id));
    EXPECT_OK(hpl_aead_key_new(NULL, &aead, secrets.package_key, sizeof secrets.package_key));
    memcpy(nonce, package + 4, sizeof nonce);
    for (unsigned i = 0; i < 4; i++)
        nonce[8 + i] ^= (uint8_t)(number >> (8 * i));
    enum hpl_status status = hpl_aead_open(aead, nonce, hpl_bytes(package, 4), package + 16, HPL_PACKAGE_LEN, out,
                                           package + 16 + HPL_PACKAGE_LEN);
    hpl_aead_key_free(aead);
    return status;
}

HPL_TEST(packages_moved_by_xor_of_their_nonces_are_refused)
{
    struct sealed s = seal(8 * HPL_PACKAGE_LEN + 10);
    for (uint32_t mask = 1; mask < 8; mask++) {
        for (int undo = 0; undo < 2; undo++) {
            for (uint32_t i = 0; i < 8; i++)
                if (i < (i ^ mask))
                    swap(s.stored + (size_t)i * SEALED, s.stored + (size_t)(i ^ mask) * SEALED, SEALED);
            for (uint32_t i = 0; i < 8; i++)
                move_by_xor(s.stored + (size_t)i * SEALED, i ^ mask, i);
            for (uint32_t i = 0; i < 8; i++)
                EXPECT_OK(believe(s.stored + (size_t)i * SEALED, i, s.opened));
            if (!undo)
                expect_refused(&s);
        }
        EXPECT_OK(open_whole(&s));
    }
    done(&s);
}

HPL_TEST(a_whole_stream_shifted_by_one_nonce_is_refused)
{
    struct sealed s = seal(2 * HPL_PACKAGE_LEN);
    move_by_xor(s.stored, 0, 1);
    move_by_xor(s.stored + SEALED, 0, 1);
    swap(s.stored, s.stored + SEALED, SEALED);
    expect_refused(&s);
    s.stored[4] ^= 0x80;
    s.stored[SEALED + 4] ^= 0x80;
    expect_refused(&s);
    done(&s);
}

HPL_TEST(swapped_doubled_and_dropped_packages_are_refused)
{
    struct sealed s = seal(4 * HPL_PACKAGE_LEN);
    swap(s.stored, s.stored + SEALED, SEALED);
    expect_refused(&s);
    swap(s.stored, s.stored + SEALED, SEALED);
    EXPECT_OK(open_whole(&s));
    uint8_t *kept = malloc(s.stored_len);
    memcpy(kept, s.stored, s.stored_len);
    memcpy(s.stored + SEALED, s.stored, SEALED);
    expect_refused(&s);
    memcpy(s.stored + SEALED, kept + 2 * SEALED, 2 * SEALED);
    expect_refused(&s);
    s.stored_len -= SEALED;
    expect_refused(&s);
    s.plain_len -= HPL_PACKAGE_LEN;
    expect_refused(&s);
    free(kept);
    done(&s);
}

HPL_TEST(the_final_bit_belongs_to_the_last_package_alone)
{
    struct sealed s = seal(3 * HPL_PACKAGE_LEN);
    for (size_t i = 0; i < 3; i++) {
        s.stored[i * SEALED + 4] ^= 0x80;
        expect_refused(&s);
        s.stored[i * SEALED + 4] ^= 0x80;
    }
    uint8_t *again = malloc(s.stored_len); /* an honest writer's stream that ends too early, or never */
    hpl_packages_seal(s.key, 0, false, s.plain, s.plain_len, again);
    memcpy(s.stored, again, s.stored_len);
    expect_refused(&s);
    hpl_packages_seal(s.key, 0, true, s.plain, 2 * HPL_PACKAGE_LEN, s.stored);
    hpl_packages_seal(s.key, 2, true, s.plain + 2 * HPL_PACKAGE_LEN, HPL_PACKAGE_LEN, s.stored + 2 * SEALED);
    expect_refused(&s);
    free(again);
    done(&s);
}

HPL_TEST(packages_are_refused_at_another_number)
{
    struct sealed s = seal(4 * HPL_PACKAGE_LEN + 1);
    size_t len = 7;
    for (uint32_t first = 0; first < 7; first++)
        if (first != 2) {
            EXPECT_STATUS(hpl_packages_open(NULL, s.key, s.plain_len, first, s.stored + 2 * SEALED, SEALED, s.opened, &len), HPL_INTEGRITY);
            EXPECT_NUM(len, 0);
        }
    EXPECT_STATUS(hpl_packages_open(NULL, s.key, s.plain_len, UINT32_MAX, s.stored, SEALED, s.opened, &len), HPL_INTEGRITY);
    EXPECT_STATUS(hpl_packages_open(NULL, s.key, UINT64_MAX, 0, s.stored, SEALED, s.opened, &len), HPL_INTEGRITY);
    EXPECT_STATUS(hpl_packages_open(NULL, s.key, s.plain_len, 0, s.stored, 0, s.opened, &len), HPL_INTEGRITY);
    done(&s);
}

HPL_TEST(another_part_bucket_key_instance_salt_or_data_key_does_not_open_it)
{
    struct hpl_part_id elsewhere = id_of("bucket", "key", 1);
    elsewhere.instance = other_instance;
    struct hpl_part_key *others[] = {
        part_key_of(1, salt, id_of("bucket", "key", 2)), part_key_of(1, salt, id_of("bucket", "kez", 1)),
        part_key_of(1, salt, id_of("bucketk", "ey", 1)), part_key_of(1, salt, elsewhere),
        part_key_of(1, other_salt, id_of("bucket", "key", 1)), part_key_of(2, salt, id_of("bucket", "key", 1)),
    };
    struct sealed s = seal(HPL_PACKAGE_LEN + 3);
    struct hpl_part_key *right = s.key;
    for (size_t i = 0; i < HPL_COUNT(others); i++) {
        EXPECT(memcmp(hpl_part_key_commitment(right), hpl_part_key_commitment(others[i]), HPL_COMMITMENT_LEN) != 0);
        s.key = others[i];
        expect_refused(&s);
        hpl_part_key_free(others[i]);
    }
    s.key = right;
    done(&s);
}

HPL_TEST(parts_of_one_object_cannot_be_exchanged)
{
    struct hpl_part_key *two = part_key_of(1, other_salt, id_of("bucket", "key", 2));
    struct sealed s = seal(100);
    hpl_packages_seal(two, 0, true, s.plain, s.plain_len, s.stored);
    expect_refused(&s);
    hpl_part_key_free(two);
    done(&s);
}

HPL_TEST(the_same_part_key_comes_from_the_same_inputs)
{
    struct hpl_part_key *a = part_key(), *b = part_key();
    EXPECT_BYTES(hpl_part_key_commitment(a), hpl_part_key_commitment(b), HPL_COMMITMENT_LEN);
    hpl_part_key_free(a);
    hpl_part_key_free(b);
}

HPL_TEST(the_stream_nonce_has_its_top_bit_clear)
{
    struct hpl_secret *HPL_SECRET_AUTO key = data_key(1);
    unsigned num_seconds = 0;
    for (uint32_t number = 1; number <= 64; number++) {
        struct hpl_part_secrets secrets;
        struct hpl_part_id id = id_of("b", "k", number);
        EXPECT_OK(hpl_part_derive(NULL, &secrets, key, salt, &id));
        EXPECT_NUM(secrets.nonce[0] & 0x80, 0);
        num_seconds += secrets.nonce[0] >> 6;
    }
    EXPECT(num_seconds > 10 && num_seconds < 54);
}

HPL_TEST(a_key_of_another_length_or_part_zero_is_refused)
{
    struct hpl_secret *HPL_SECRET_AUTO shorter = hpl_secret_new(16);
    struct hpl_secret *HPL_SECRET_AUTO key = data_key(1);
    struct hpl_part_key *out = NULL;
    struct hpl_part_id id = id_of("b", "k", 1), zero = id_of("b", "k", 0);
    EXPECT_STATUS(hpl_part_key_new(NULL, &out, shorter, salt, &id), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(hpl_part_key_new(NULL, &out, key, salt, &zero), HPL_INVALID_ARGUMENT);
    EXPECT(out == NULL);
}

HPL_TEST(part_keys_give_their_secret_memory_back)
{
    hpl_part_key_free(part_key());
    size_t before = hpl_secret_in_use();
    struct hpl_part_key *key = part_key();
    EXPECT(hpl_secret_in_use() > before);
    hpl_part_key_free(key);
    hpl_part_key_free(NULL);
    EXPECT_NUM(hpl_secret_in_use(), before);
}

HPL_TEST(spread_over_workers_the_bytes_are_the_same)
{
    struct hpl_work *work = NULL;
    EXPECT_OK(hpl_work_start(NULL, &work, 3));
    static const size_t sizes[] = {1, 7 * HPL_PACKAGE_LEN, 8 * HPL_PACKAGE_LEN, 8 * HPL_PACKAGE_LEN + 1, 31 * HPL_PACKAGE_LEN - 1};
    for (size_t i = 0; i < HPL_COUNT(sizes); i++) {
        struct sealed s = seal(sizes[i]);
        uint8_t *stored = malloc(s.stored_len);
        size_t len = 0;
        EXPECT_NUM(hpl_packages_seal_all(work, s.key, 0, true, s.plain, s.plain_len, stored), s.stored_len);
        EXPECT_BYTES(stored, s.stored, s.stored_len);
        EXPECT_OK(hpl_packages_open_all(NULL, work, s.key, s.plain_len, 0, stored, s.stored_len, s.opened, &len));
        EXPECT_NUM(len, s.plain_len);
        EXPECT_BYTES(s.opened, s.plain, len);
        EXPECT_OK(hpl_packages_open_all(NULL, NULL, s.key, s.plain_len, 0, stored, s.stored_len, s.opened, &len));
        free(stored);
        done(&s);
    }
    hpl_work_stop(work);
}

HPL_TEST(spread_over_workers_a_run_inside_the_part_opens)
{
    struct hpl_work *work = NULL;
    EXPECT_OK(hpl_work_start(NULL, &work, 2));
    struct sealed s = seal(20 * HPL_PACKAGE_LEN + 5);
    size_t len = 0;
    EXPECT_OK(hpl_packages_open_all(NULL, work, s.key, s.plain_len, 3, s.stored + 3 * SEALED, 13 * SEALED, s.opened, &len));
    EXPECT_NUM(len, 13 * HPL_PACKAGE_LEN);
    EXPECT_BYTES(s.opened, s.plain + 3 * HPL_PACKAGE_LEN, len);
    uint8_t *again = malloc(13 * SEALED);
    EXPECT_NUM(hpl_packages_seal_all(work, s.key, 3, false, s.plain + 3 * HPL_PACKAGE_LEN, len, again), 13 * SEALED);
    EXPECT_BYTES(again, s.stored + 3 * SEALED, 13 * SEALED);
    free(again);
    done(&s);
    hpl_work_stop(work);
}

HPL_TEST(spread_over_workers_one_bad_package_spoils_the_whole_run)
{
    struct hpl_work *work = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_work_start(NULL, &work, 2));
    struct sealed s = seal(16 * HPL_PACKAGE_LEN + 5);
    for (size_t bad = 0; bad < 17; bad += 4) {
        size_t len = 1;
        s.stored[bad * SEALED + 20] ^= 1;
        memset(s.opened, 0, s.plain_len);
        EXPECT_STATUS(hpl_packages_open_all(&call, work, s.key, s.plain_len, 0, s.stored, s.stored_len, s.opened, &len), HPL_INTEGRITY);
        EXPECT_NUM(len, 0);
        for (size_t i = 0; i < s.plain_len; i++)
            if (s.opened[i])
                EXPECT(!"plaintext was left behind");
        s.stored[bad * SEALED + 20] ^= 1;
    }
    EXPECT(call.detail[0] != '\0');
    for (size_t cut = 1; cut < 37; cut++) {
        size_t len = 1;
        memset(s.opened, 0, s.plain_len);
        EXPECT_STATUS(hpl_packages_open_all(NULL, work, s.key, s.plain_len, 0, s.stored, s.stored_len - cut, s.opened, &len), HPL_INTEGRITY);
        EXPECT(s.opened[0] == 0 && s.opened[16 * HPL_PACKAGE_LEN - 1] == 0);
    }
    done(&s);
    hpl_work_stop(work);
}
