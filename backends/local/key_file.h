/* The bytes of a key file, and AES-256-GCM under a key derived for one use. Pure; any thread. */
#ifndef HPL_BACKENDS_LOCAL_KEY_FILE_H
#define HPL_BACKENDS_LOCAL_KEY_FILE_H

#include "kms/keystore.h"

#define HPL_LOCAL_KEY_LEN 32u
#define HPL_LOCAL_SALT_LEN 32u
#define HPL_LOCAL_TAG_LEN 16u

struct hpl_local_version {
    uint32_t number;
    uint8_t salt[HPL_LOCAL_SALT_LEN];
    uint8_t sealed[HPL_LOCAL_KEY_LEN + HPL_LOCAL_TAG_LEN];
};

struct hpl_key_file {
    uint64_t revision;                  /* of the record; 0: material without a record yet */
    uint8_t uid[HPL_KEY_UID_LEN];
    char key_id[HPL_KEY_ID_MAX + 1];    /* "" while there is no record */
    struct hpl_buf record;
    struct hpl_local_version *versions; /* owned */
    uint16_t num_versions;
};

void hpl_key_file_wipe(struct hpl_key_file *file);
enum hpl_status hpl_key_file_encode(const struct hpl_key_file *file, const struct hpl_secret *root, struct hpl_buf *out) HPL_MUST_USE;
/* HPL_INTEGRITY on anything encode would not have written under this root secret. */
enum hpl_status hpl_key_file_decode(struct hpl_call *call, struct hpl_bytes bytes, const struct hpl_secret *root, struct hpl_key_file *out) HPL_MUST_USE;

/* New material of a version, sealed into the file; a version that is there stays. */
enum hpl_status hpl_key_file_add(struct hpl_call *call, struct hpl_key_file *file, const struct hpl_secret *root, uint32_t number) HPL_MUST_USE;
/* Given material of HPL_LOCAL_KEY_LEN bytes as a version that is not there. */
enum hpl_status hpl_key_file_add_given(struct hpl_call *call, struct hpl_key_file *file, const struct hpl_secret *root, uint32_t number,
                                       const struct hpl_secret *material) HPL_MUST_USE;
/* The material. HPL_KEY_UNAVAILABLE when the version is not there, HPL_INTEGRITY when it does not open. */
enum hpl_status hpl_key_file_material(struct hpl_call *call, const struct hpl_key_file *file, const struct hpl_secret *root, uint32_t number,
                                      struct hpl_secret **out) HPL_MUST_USE;
void hpl_key_file_remove(struct hpl_key_file *file, uint32_t number);

/* AES-256-GCM under HKDF(key, salt, info), nonce zero: a salt serves one message. Sealing writes len + 16 bytes; opening takes len + 16 bytes and writes
 * len. False when the tag is not right. */
bool hpl_local_seal(const struct hpl_secret *key, const uint8_t salt[static HPL_LOCAL_SALT_LEN], struct hpl_bytes info, struct hpl_bytes aad,
                    const uint8_t *in, size_t len, uint8_t *out);
bool hpl_local_open(const struct hpl_secret *key, const uint8_t salt[static HPL_LOCAL_SALT_LEN], struct hpl_bytes info, struct hpl_bytes aad,
                    const uint8_t *in, size_t len, uint8_t *out);

#endif
