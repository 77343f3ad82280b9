/* Finds and loads peers; each must first pass the same known answer (SP 800-38D test case 16 of the GCM submission). */
#include "bench/peers.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint8_t known_key[32] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08,
                                      0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
static const uint8_t known_nonce[12] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
static const uint8_t known_aad[20] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
static const uint8_t known_text[60] = {
    0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7, 0xa9, 0x53,
    0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53,
    0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
static const uint8_t known_tag[16] = {0x76, 0xfc, 0x6e, 0xce, 0x0f, 0x4e, 0x17, 0x68, 0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};

static bool answers_rightly(const struct hpl_peer *peer)
{
    uint8_t sealed[76], opened[76], tag[16];
    struct hpl_peer_message message = {known_nonce, known_aad, known_text, sizeof known_aad, sizeof known_text, sealed, tag};
    void *key = peer->key_new(known_key);
    bool is_right = key && peer->seal(key, &message) && memcmp(tag, known_tag, sizeof tag) == 0;
    message.in = sealed;
    message.out = opened;
    is_right = is_right && peer->open(key, &message) && memcmp(opened, known_text, sizeof known_text) == 0;
    tag[15] ^= 1;
    is_right = is_right && !peer->open(key, &message);
    if (key)
        peer->key_free(key);
    return is_right;
}

static const struct hpl_peer *load(const char *path)
{
    const struct hpl_peer *(*get)(void);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    *(void **)&get = object ? dlsym(object, "hpl_peer") : NULL;
    const struct hpl_peer *peer = get ? get() : NULL;
    if (!get)
        fprintf(stderr, "hardplate-bench: peer left out: %s\n", dlerror());
    else if (!peer || peer->version != HPL_PEER_VERSION || !answers_rightly(peer)) {
        fprintf(stderr, "hardplate-bench: peer left out: %s fails its known answer, or is of another version\n", path);
        return NULL;
    }
    return peer;
}

static size_t load_built(const struct hpl_peer **peers)
{
    char pattern[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", pattern, sizeof pattern - 16);
    glob_t found;
    size_t count = 0;
    if (len < 0)
        return 0;
    pattern[len] = '\0';
    strcpy(strrchr(pattern, '/') + 1, "peer-*.so");
    if (glob(pattern, 0, NULL, &found) != 0)
        return 0;
    for (size_t i = 0; i < found.gl_pathc && count < HPL_BENCH_MAX_PEERS; i++)
        count += (peers[count] = load(found.gl_pathv[i])) != NULL;
    globfree(&found);
    return count;
}

size_t hpl_bench_load_peers(const struct hpl_peer *peers[HPL_BENCH_MAX_PEERS])
{
    const char *named = getenv("HPL_BENCH_PEERS");
    char *paths = strdup(named ? named : ""), *rest = NULL;
    size_t count = load_built(peers);
    for (char *path = paths ? strtok_r(paths, ":", &rest) : NULL; path && count < HPL_BENCH_MAX_PEERS; path = strtok_r(NULL, ":", &rest))
        count += (peers[count] = load(path)) != NULL;
    free(paths);
    return count;
}
