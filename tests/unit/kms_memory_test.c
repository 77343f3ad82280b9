/* Is a credential of the backend's nowhere in our memory while the key service runs on it? */
#include "tests/hunt.h"
#include "tests/sanitizer.h"
#include "tests/unit/fake_keystore.h"
#include "tests/unit/kms_house.h"

#define TOKEN_LEN 32u

/* Sends a configuration with the token, from text of our own that is wiped again. */
static void configure(struct house *house, const uint8_t masked[static TOKEN_LEN])
{
    char body[128] = "{\"backend_type\":\"fake\",\"auth\":\"";
    size_t at = strlen(body);
    for (size_t i = 0; i < TOKEN_LEN; i++)
        body[at + i] = (char)(masked[i] ^ HPL_HUNT_MASK);
    EXPECT_NUM(hpl_hunt(masked, TOKEN_LEN), 1); /* the hunter finds what is there to be found */
    memcpy(body + at + TOKEN_LEN, "\"}", 3);
    EXPECT_OK(send(house, hpl_kms_configure, body));
    hpl_wipe(body, sizeof body);
}

HPL_TEST(a_backends_credential_is_nowhere_while_the_service_runs)
{
    static const char *const secret_fields[] = {"auth", NULL};
    static struct hpl_backend guarded;
    static const struct hpl_backend *const list[] = {&guarded, NULL};
    struct house house = {0};
    struct hpl_call call = {0};
    uint8_t masked[TOKEN_LEN];
    if (HAS_SANITIZER)
        return;
    fake_forget();
    guarded = fake_backend;
    guarded.secret_fields = secret_fields;
    open_house(&house);
    hpl_kms_close(house.kms);
    house.options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT(RAND_bytes(masked, sizeof masked) == 1);
    for (size_t i = 0; i < sizeof masked; i++)
        masked[i] = (uint8_t)(('a' + masked[i] % 26) ^ HPL_HUNT_MASK);
    configure(&house, masked);
    EXPECT_NUM(hpl_hunt(masked, sizeof masked), 0);
    EXPECT_OK(start(&house));
    EXPECT_NUM(hpl_hunt(masked, sizeof masked), 0);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"place\":\"b\",\"cache_ttl_seconds\":60}"));
    EXPECT_OK(stop(&house));
    EXPECT_OK(start(&house));
    EXPECT_NUM(hpl_hunt(masked, sizeof masked), 0);
    close_house(&house, false);
    open_house(&house); /* begun again by what was kept */
    hpl_kms_close(house.kms);
    house.options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT_STATUS(create(&house, "k"), HPL_KEY_EXISTS);
    EXPECT_NUM(hpl_hunt(masked, sizeof masked), 0);
    close_house(&house, true);
    fake_forget();
}
