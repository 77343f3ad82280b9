/* A key service of a test's own, with catalog and root secret in a folder that goes with the test. */
#ifndef HPL_TESTS_UNIT_KMS_HOUSE_H
#define HPL_TESTS_UNIT_KMS_HOUSE_H

#include <stdio.h>

#include "backends/backends.h"
#include "kms/kms.h"
#include "tests/test.h"

struct house {
    const char *dir;
    char path[128];
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
    struct hpl_backend_env env;
    struct hpl_kms_options options;
    struct hpl_kms *kms;
};

static inline void open_house(struct house *house)
{
    struct hpl_call call = {0};
    if (!house->dir) {
        house->dir = hpl_test_dir();
        house->root = hpl_secret_random(32);
        snprintf(house->path, sizeof house->path, "%s/catalog.db", house->dir);
    }
    EXPECT_OK(hpl_catalog_open(&call, &house->catalog, house->path, house->root));
    house->env = (struct hpl_backend_env){.state_dir = house->dir, .root = house->root, .catalog = house->catalog};
    house->options = (struct hpl_kms_options){.backends = hpl_backends(), .env = &house->env, .catalog = house->catalog};
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
}

static inline void close_house(struct house *house, bool is_last)
{
    hpl_kms_close(house->kms);
    hpl_catalog_close(house->catalog);
    if (is_last)
        hpl_secret_free(house->root);
}

typedef enum hpl_status body_fn(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer);

static inline enum hpl_status send(struct house *house, body_fn *fn, const char *text)
{
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &body, hpl_bytes_str(text), 65536, false));
    return fn(house->kms, &call, body, &answer);
}

static inline enum hpl_status start(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    return hpl_kms_start(house->kms, &call, false, &answer);
}

static inline enum hpl_status stop(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    return hpl_kms_stop(house->kms, &call, &answer);
}

static inline enum hpl_status create(struct house *house, const char *key_id)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    const struct hpl_key_create wanted = {.key_id = key_id};
    return hpl_kms_create_key(house->kms, &call, &wanted, &metadata);
}

#endif
