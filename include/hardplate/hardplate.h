/* libhardplate: data keys wrapped by master keys that stay in a token or a sealed key folder, for use inside another program.
 * Functions return 0, or a positive code whose text hardplate_error gives. A handle may be used by any number of threads at once;
 * calls may block on the key backend. The state folder is the daemon's own kind and has one user at a time. The library has no thread of its own: data keys
 * that a key's caching choice lets it keep are wiped by the next call after their time, or by hardplate_close; rotation by itself and scheduled deletions are
 * carried out by a daemon alone, when it next has this state folder or the same keystore. */
#ifndef HARDPLATE_H
#define HARDPLATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hardplate hardplate;

/* state_dir is made (0700) when it is not there; root is the 32-byte root secret, copied into locked memory; wipe yours after.
 * kms_json is a configure body as the admin API takes it ({"backend_type":"local",…}). tokens_json is NULL or
 * [{"name","uri","module","pin_source"}], the tokens that kms_json may name. On failure *out is NULL and error (may be NULL) holds one
 * sentence, cut to error_size with its NUL. hardplate_close ends the handle; NULL is fine. */
int hardplate_open(hardplate **out, const char *state_dir, const uint8_t root[32], const char *kms_json, const char *tokens_json,
                   char *error, size_t error_size);
void hardplate_close(hardplate *handle);

/* 1 when the memory that holds keys is locked. */
int hardplate_memory_is_locked(void);

/* A name and value of an encryption context: UTF-8, NUL-ended. */
struct hardplate_pair {
    const char *name, *value;
};

/* A new data key of key_len 16 or 32 bytes under key_id (NULL: the default key), in the clear and wrapped. *blob_len holds blob's size
 * before and the blob's length after; 2,048 bytes always suffice. Nothing is written on failure. Wipe key after use. */
int hardplate_generate_data_key(hardplate *handle, const char *key_id, const struct hardplate_pair *context, size_t num_pairs,
                                uint8_t *key, size_t key_len, uint8_t *blob, size_t *blob_len, char *error, size_t error_size);

/* Unwraps what generate gave, under the same context. *key_len holds key's size before and the key's length after. */
int hardplate_decrypt_data_key(hardplate *handle, const uint8_t *blob, size_t blob_len, const struct hardplate_pair *context,
                               size_t num_pairs, uint8_t *key, size_t *key_len, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
