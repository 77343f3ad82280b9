/* Is a data key nowhere in our memory once Vault wrapped or unwrapped it, and our token once the keystore is closed? */
#include "tests/contract/open_openbao.h"
#include "tests/hunt.h"
#include "tests/sanitizer.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/codec.h"

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

/* The raw bytes and their base64, each masked. */
struct prey {
    uint8_t raw[32], base64[40];
};

static void note(struct prey *prey, const struct hpl_secret *secret)
{
    unsigned char text[48];
    EVP_EncodeBlock(text, secret->bytes, 30); /* thirty bytes: no padding, the same whatever follows */
    for (size_t i = 0; i < sizeof prey->raw; i++)
        prey->raw[i] = secret->bytes[i] ^ HPL_HUNT_MASK;
    for (size_t i = 0; i < sizeof prey->base64; i++)
        prey->base64[i] = text[i] ^ HPL_HUNT_MASK;
    hpl_wipe(text, sizeof text);
}

HPL_TEST(a_data_key_is_nowhere_after_it_was_wrapped_and_unwrapped)
{
    struct hpl_keystore *keystore = HAS_SANITIZER ? NULL : open_openbao();
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call = {0};
    struct hpl_wrapped wrapped;
    struct prey prey;
    if (!keystore)
        return;
    struct hpl_secret *secret = hpl_secret_random(32), *opened = NULL;
    note(&prey, secret);
    hpl_uuid_new(uid);
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
    EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
    uint8_t *open_ground = malloc(secret->len);
    EXPECT(open_ground != NULL);
    memcpy(open_ground, secret->bytes, secret->len);
    EXPECT(hpl_hunt(prey.raw, sizeof prey.raw) >= 1); /* the hunter finds what is there to be found */
    hpl_wipe(open_ground, secret->len);
    free(open_ground);
    hpl_secret_free(secret);
    EXPECT_NUM(hpl_hunt(prey.raw, sizeof prey.raw), 0);
    EXPECT_NUM(hpl_hunt(prey.base64, sizeof prey.base64), 0);
    EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &wrapped, &opened));
    EXPECT(hpl_hunt_is(opened->bytes, prey.raw, sizeof prey.raw));
    hpl_secret_free(opened);
    EXPECT_NUM(hpl_hunt(prey.raw, sizeof prey.raw), 0);
    EXPECT_NUM(hpl_hunt(prey.base64, sizeof prey.base64), 0);
    keystore->ops->close(keystore);
}
