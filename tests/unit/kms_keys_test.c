/* Does a key do only what its record lets it: who may use it and for what, when it rotates, what it says of itself? */
#include "tests/unit/kms_house.h"

static void open_running(struct house *house)
{
    open_house(house);
    EXPECT_OK(send(house, hpl_kms_configure, "{\"backend_type\":\"local\",\"default_key_id\":\"d\"}"));
    EXPECT_OK(start(house));
}

/* --- policy ---------------------------------------------------------------------------------------------------------------- */

static enum hpl_status put_policy(struct house *house, const char *key_id, const char *text)
{
    json_t *HPL_JSON_AUTO policy = json_loads(text, JSON_DECODE_ANY, NULL);
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {.principal = "nobody", .role = "admin"};
    EXPECT(policy != NULL);
    return hpl_kms_set_policy(house->kms, &call, key_id, policy, &metadata);
}

static const struct hpl_context_pair of_a[] = {{{(const uint8_t *)"tenant", 6}, {(const uint8_t *)"a", 1}}};
static const struct hpl_context_pair of_b[] = {{{(const uint8_t *)"tenant", 6}, {(const uint8_t *)"b", 1}}};
static const struct hpl_context tenant_a = {of_a, 1}, tenant_b = {of_b, 1};

static enum hpl_status generate_as(struct house *house, const char *principal, const char *role, enum hpl_purpose purpose, const struct hpl_context *context,
                                   struct hpl_buf *envelope)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {.principal = principal, .role = role};
    return hpl_kms_generate(house->kms, &call, purpose, "k", context, 32, &secret, envelope, NULL);
}

static enum hpl_status decrypt_as(struct house *house, const char *principal, const char *role, const struct hpl_context *context, const struct hpl_buf *envelope)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {.principal = principal, .role = role};
    return hpl_kms_decrypt(house->kms, &call, HPL_PURPOSE_API, hpl_buf_bytes(envelope), context, &secret, NULL);
}

HPL_TEST(a_policy_lets_in_whom_a_grant_fits_as_a_whole_and_nobody_else)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, "anyone", "objects", HPL_PURPOSE_API, NULL, &envelope)); /* none yet: the account's rules alone */
    hpl_buf_wipe(&envelope);
    EXPECT_OK(put_policy(&house, "k",
                         "{\"grants\":[{\"principals\":[\"app\"],\"operations\":[\"GenerateDataKey\",\"Decrypt\"],\"purposes\":[\"api\"],"
                         "\"context\":{\"tenant\":\"a\"}},{\"principals\":[\"role:objects\"],\"operations\":[\"GenerateDataKey\"],\"purposes\":[\"object\"]}]}"));
    EXPECT_OK(generate_as(&house, "app", "admin", HPL_PURPOSE_API, &tenant_a, &envelope));
    EXPECT_OK(decrypt_as(&house, "app", "admin", &tenant_a, &envelope));
    EXPECT_STATUS(decrypt_as(&house, "ops", "admin", &tenant_a, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "app", "admin", HPL_PURPOSE_API, &tenant_b, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "app", "admin", HPL_PURPOSE_API, NULL, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "app", "admin", HPL_PURPOSE_OBJECT, &tenant_a, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "ap", "admin", HPL_PURPOSE_API, &tenant_a, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "role:objects", "admin", HPL_PURPOSE_API, &tenant_a, &envelope), HPL_ACCESS_DENIED);
    struct hpl_buf other = {0};
    EXPECT_OK(generate_as(&house, "user", "objects", HPL_PURPOSE_OBJECT, NULL, &other));
    hpl_buf_wipe(&other);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, &tenant_a, &envelope)); /* the daemon's own work */
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(a_policy_without_grants_shuts_everybody_out_until_it_is_taken_away)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO policy = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, "ops", "admin", HPL_PURPOSE_API, NULL, &envelope));
    EXPECT_OK(put_policy(&house, "k", "{\"grants\":[]}"));
    close_house(&house, false);
    open_house(&house);
    EXPECT_STATUS(decrypt_as(&house, "ops", "admin", NULL, &envelope), HPL_ACCESS_DENIED);
    EXPECT_OK(hpl_kms_policy(house.kms, &call, "k", &policy));
    EXPECT(json_is_array(json_object_get(policy, "grants")));
    EXPECT_OK(put_policy(&house, "k", "null"));
    EXPECT_OK(decrypt_as(&house, "ops", "admin", NULL, &envelope));
    EXPECT_STATUS(put_policy(&house, "nobody's", "null"), HPL_NO_SUCH_KEY);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(what_is_not_a_policy_is_refused_whole)
{
    static const char *const wrong[] = {
        "[]", "5", "{}", "{\"grants\":{}}", "{\"grants\":[5]}", "{\"grants\":[{}]}", "{\"grants\":[],\"grant\":[]}",
        "{\"grants\":[{\"principals\":[],\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":\"*\",\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"role:root\"],\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"\"],\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"decrypt\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[5]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"*\"],\"purposes\":[\"configuration\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"*\"],\"contxt\":{\"tenant\":\"a\"}}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"*\"],\"context\":{\"tenant\":5}}]}",
    };
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    for (size_t i = 0; i < HPL_COUNT(wrong); i++)
        EXPECT_STATUS(put_policy(&house, "k", wrong[i]), HPL_INVALID_REQUEST);
    EXPECT_OK(generate_as(&house, "anyone", "objects", HPL_PURPOSE_API, NULL, &envelope));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}
