/* Does switching between real backends strand nothing? Local to a token, to another token and back, under load and over restarts. */
#include "tests/contract/open_softhsm.h"

#include <pthread.h>
#include <stdatomic.h>

#include "backends/backends.h"
#include "kms/kms.h"

struct house {
    struct softhsm hsm;
    struct hpl_token_option tokens[2];
    struct hpl_kms_options options;
    struct hpl_kms *kms;
};

static const char *const bodies[] = {
    "{\"backend_type\":\"local\"}",
    "{\"backend_type\":\"pkcs11\",\"token\":\"main\"}",
    "{\"backend_type\":\"pkcs11\",\"token\":\"other\"}",
};

static void open_kms(struct house *house)
{
    struct hpl_call call = {0};
    house->options = (struct hpl_kms_options){.backends = hpl_backends(), .env = &house->hsm.env, .catalog = house->hsm.env.catalog};
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
}

static void open_house(struct house *house)
{
    softhsm_init(&house->hsm, "hpl test");
    softhsm_add_token("hpl other");
    house->tokens[0] = house->tokens[1] = house->hsm.option;
    house->tokens[1].name = "other";
    house->tokens[1].uri = "pkcs11:token=hpl%20other";
    house->hsm.env.tokens = house->tokens;
    house->hsm.env.num_tokens = 2;
    open_kms(house);
}

static void close_house(struct house *house)
{
    hpl_kms_close(house->kms);
    softhsm_wipe(&house->hsm);
}

typedef enum hpl_status body_fn(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer);

static enum hpl_status send(struct house *house, body_fn *fn, const char *text)
{
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &body, hpl_bytes_str(text), 65536, false));
    enum hpl_status status = fn(house->kms, &call, body, &answer);
    if (status != HPL_OK)
        fprintf(stderr, "\n    %s\n", hpl_detail(&call, status));
    return status;
}

static void start(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_start(house->kms, &call, false, &answer));
}

/* A data key as somebody keeps it: its envelope, and its plaintext to compare. */
struct kept {
    struct hpl_buf envelope;
    struct hpl_secret *secret;
    struct hpl_key_ref ref;
};

static enum hpl_status keep(struct house *house, struct kept *kept)
{
    struct hpl_call call;
    hpl_call_init(&call, 20000);
    enum hpl_status status = hpl_kms_generate(house->kms, &call, HPL_PURPOSE_OBJECT, NULL, NULL, 32, &kept->secret, &kept->envelope, &kept->ref);
    if (status != HPL_OK)
        fprintf(stderr, "\n    generate: %s\n", hpl_detail(&call, status));
    return status;
}

static enum hpl_status check(struct house *house, const struct kept *kept)
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    hpl_call_init(&call, 20000);
    enum hpl_status status = hpl_kms_decrypt(house->kms, &call, HPL_PURPOSE_OBJECT, hpl_buf_bytes(&kept->envelope), NULL, &opened, NULL);
    if (status != HPL_OK)
        fprintf(stderr, "\n    decrypt: %s\n", hpl_detail(&call, status));
    return status == HPL_OK && !hpl_equal_secret(opened->bytes, kept->secret->bytes, 32) ? HPL_INTEGRITY : status;
}

static void let_go(struct kept *kept)
{
    hpl_buf_wipe(&kept->envelope);
    hpl_secret_free(kept->secret);
}

HPL_TEST(every_backend_that_was_active_still_opens_what_it_sealed)
{
    struct house house = {0};
    struct kept kept[HPL_COUNT(bodies)] = {0};
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_configure, bodies[0]));
    start(&house);
    for (size_t i = 0; i < HPL_COUNT(bodies); i++) {
        EXPECT_OK(send(&house, hpl_kms_reconfigure, bodies[i]));
        EXPECT_OK(keep(&house, &kept[i]));
        for (size_t j = 0; j <= i; j++)
            EXPECT_OK(check(&house, &kept[j]));
        for (size_t j = 0; j < i; j++)
            EXPECT(memcmp(kept[i].ref.instance, kept[j].ref.instance, 8) != 0);
    }
    hpl_kms_close(house.kms);
    open_kms(&house); /* the former ones are opened again when a read needs them */
    for (size_t i = 0; i < HPL_COUNT(bodies); i++)
        EXPECT_OK(check(&house, &kept[i]));
    EXPECT_OK(send(&house, hpl_kms_reconfigure, bodies[0]));
    struct kept again = {0};
    EXPECT_OK(keep(&house, &again)); /* back where it began: the same keystore, the same instance, the same default key */
    EXPECT(memcmp(again.ref.instance, kept[0].ref.instance, 8) == 0);
    EXPECT(memcmp(again.ref.uid, kept[0].ref.uid, HPL_KEY_UID_LEN) == 0);
    let_go(&again);
    for (size_t i = 0; i < HPL_COUNT(bodies); i++)
        let_go(&kept[i]);
    close_house(&house);
}

struct worker {
    struct house *house;
    _Atomic bool *is_over;
    int failures, calls;
};

static void *keep_working(void *arg)
{
    struct worker *worker = arg;
    while (!atomic_load(worker->is_over) || worker->calls == 0) {
        struct kept kept = {0};
        worker->failures += keep(worker->house, &kept) != HPL_OK || check(worker->house, &kept) != HPL_OK;
        worker->calls++;
        let_go(&kept);
    }
    return NULL;
}

HPL_TEST(a_token_is_named_in_one_way_after_the_other)
{
    static const char *const named[] = {"{\"uri\":\"pkcs11:token=hpl%20other\"}", "{\"token\":\"main\"}", "{\"token\":\"other\"}", "{\"uri\":\"pkcs11:token=hpl%20test\"}"};
    struct house house = {0};
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_configure, bodies[1]));
    start(&house);
    for (size_t i = 0; i < HPL_COUNT(named); i++)
        EXPECT_OK(send(&house, hpl_kms_reconfigure, named[i]));
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"token\":\"main\",\"uri\":\"pkcs11:token=hpl%20other\"}"), HPL_INVALID_REQUEST);
    close_house(&house);
}

HPL_TEST(switching_between_file_and_tokens_under_load_fails_no_call)
{
    struct house house = {0};
    _Atomic bool is_over = false;
    struct worker workers[3];
    pthread_t threads[HPL_COUNT(workers)];
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_configure, bodies[0]));
    start(&house);
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        workers[i] = (struct worker){&house, &is_over, 0, 0};
        EXPECT_NUM(pthread_create(&threads[i], NULL, keep_working, &workers[i]), 0);
    }
    int refused = 0;
    for (size_t i = 1; i < 8; i++)
        refused += send(&house, hpl_kms_reconfigure, bodies[i % HPL_COUNT(bodies)]) != HPL_OK;
    atomic_store(&is_over, true);
    for (size_t i = 0; i < HPL_COUNT(workers); i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < HPL_COUNT(workers); i++)
        EXPECT_NUM(workers[i].failures, 0);
    EXPECT_NUM(refused, 0);
    close_house(&house);
}

HPL_TEST(a_token_that_cannot_be_opened_leaves_the_old_backend_running)
{
    struct house house = {0};
    struct kept kept = {0};
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_configure, bodies[0]));
    start(&house);
    EXPECT_OK(keep(&house, &kept));
    house.tokens[1].uri = "pkcs11:token=nowhere";
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, bodies[2]), HPL_BACKEND);
    softhsm_write_pin(&house.hsm, "not the PIN\n");
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, bodies[1]), HPL_BACKEND);
    EXPECT_OK(check(&house, &kept));
    let_go(&kept);
    close_house(&house);
}
