/* What stands around the packages of a sealed file: a header that says how its data key is had and proves it the right one, and a trailer that
 * proves the end. One file is one part of unknown length. design: docs/formats.md, "Sealed files". Any thread. */
#ifndef HPL_ENGINE_SEAL_FILE_HEADER_H
#define HPL_ENGINE_SEAL_FILE_HEADER_H

#include "engine/seal/package.h"

#define HPL_FILE_START_LEN 7u /* magic, key source, the envelope's length: what tells how long the header is */
#define HPL_FILE_MAC_LEN 32u
#define HPL_FILE_TRAILER_LEN 32u
#define HPL_FILE_ENVELOPE_MAX 4096u
#define HPL_FILE_HEADER_MAX (HPL_FILE_START_LEN + HPL_FILE_ENVELOPE_MAX + 16u + HPL_PART_SALT_LEN + HPL_COMMITMENT_LEN + HPL_FILE_MAC_LEN)

enum hpl_file_key_source { HPL_FILE_KEY_FILE = 1, HPL_FILE_KEY_ENVELOPE = 2 };

struct hpl_file_header {
    enum hpl_file_key_source source;
    struct hpl_bytes envelope; /* a view; empty exactly for HPL_FILE_KEY_FILE */
    uint8_t instance[16];
    uint8_t salt[HPL_PART_SALT_LEN];
    uint8_t commitment[HPL_COMMITMENT_LEN];
    uint8_t mac[HPL_FILE_MAC_LEN];
};

/* What the data key gives one file. Both ends are the caller's to wipe. */
struct hpl_file_keys {
    struct hpl_part_key *part;
    struct hpl_secret *mac;
};
void hpl_file_keys_wipe(struct hpl_file_keys *keys);

/* The whole header's length from its first bytes; 0 when they do not start a sealed file. */
size_t hpl_file_header_len(const uint8_t start[static HPL_FILE_START_LEN]);

/* Strict: HPL_INTEGRITY on anything but one whole header that hpl_file_header_new could have written. The envelope is a view into bytes. */
enum hpl_status hpl_file_header_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_file_header *out) HPL_MUST_USE;

/* Fills a header for a new file with fresh random instance and salt, and appends it to out. header has source and envelope set. The context, in
 * the canonical form of docs/formats.md, is not written down; it goes into the part key. HPL_INVALID_ARGUMENT when the data key is not 32 bytes. */
enum hpl_status hpl_file_header_new(struct hpl_call *call, struct hpl_file_header *header, const struct hpl_secret *data_key,
                                    struct hpl_bytes context, struct hpl_buf *out, struct hpl_file_keys *keys) HPL_MUST_USE;

/* The keys of a file whose header, decoded from bytes, is right under this data key and context; HPL_INTEGRITY, one text for all, otherwise. */
enum hpl_status hpl_file_header_verify(struct hpl_call *call, const struct hpl_file_header *header, struct hpl_bytes bytes,
                                       const struct hpl_secret *data_key, struct hpl_bytes context, struct hpl_file_keys *keys) HPL_MUST_USE;

/* What follows the last package of a file of len bytes of plaintext: proves its end, and that an empty file is one. */
void hpl_file_trailer(uint8_t out[static HPL_FILE_TRAILER_LEN], const struct hpl_file_keys *keys, const struct hpl_file_header *header, uint64_t len);

#endif
