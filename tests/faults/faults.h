/* What the programs of this folder share: cases, and the token they run on. */
#ifndef HPL_TESTS_FAULTS_FAULTS_H
#define HPL_TESTS_FAULTS_FAULTS_H

#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"

#include "backends/pkcs11/cryptoki.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"

void faults_remove_dirs(void); /* of hpl_test_dir */

/* --- cases.c ---------------------------------------------------------------------------------------------------------------------- */

enum family { CALLER, SESSION, HANDLE, LOGIN, DEVICE, LOAD, PIN, CONFIG };

struct code {
    const char *name;
    CK_RV rv;
    enum family family;
};

enum stage {
    WORK,      /* while requests are served */
    RECONNECT, /* while a token that died is connected again */
    OPEN       /* while a keystore is opened */
};

/* How long a fault lasts. */
enum when { FIRST, THIRD, EVERY_SEVENTH, FOR_A_WHILE, NUM_WHENS, FOR_LONG = NUM_WHENS, HANGS };

struct one_case {
    enum shim_where where;
    const struct code *code;
    enum stage stage;
    enum when when;
    bool is_after;
};

size_t faults_num_cases(void); /* of all; the last ones take half a minute each */
size_t faults_num_short(void);
struct one_case faults_case(size_t index);
void faults_name(const struct one_case *one, char name[static 128]);
/* Whether a caller may see this status of a request while the fault lasts. */
bool faults_may_see(const struct one_case *one, bool is_unwrap, enum hpl_status status);

/* --- one_case.c ---------------------------------------------------------------------------------------------------------------------- */

struct bench {
    struct softhsm hsm;
    struct shim *shim;
    struct hpl_keystore *keystore;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    struct hpl_secret *secret; /* what is in good */
    bool is_worker;
    unsigned num_records;
    uint32_t version; /* of the key that is made and destroyed */
};

/* is_worker: the token in a process of its own. */
void faults_bench_init(struct bench *bench, bool is_worker);
void faults_bench_wipe(struct bench *bench);
/* How a sentence starts that is about time alone: on a loaded machine it may be the machine's. */
#define LATE "late: "

/* Empty when everything held, else a sentence. ready_ms: how long it took to be READY after the fault; num_hit: faults injected. */
void faults_run(struct bench *bench, const struct one_case *one, char why[static 256], unsigned *ready_ms, unsigned *num_hit);

#endif
