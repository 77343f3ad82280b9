/* The knobs of p11_shim.so: SoftHSM behind it, made to behave like other tokens, or badly. In one process they are the symbol
 * hpl_shim. Another process (a test of the daemon, or of hardplate-tokend) shares them through a file of sizeof(struct shim) bytes:
 * HPL_SHIM_STATE names it, or it lies beside SoftHSM's configuration as "$SOFTHSM2_CONF.shim". Faults are decided under a lock of
 * the module's; write `where` last and by shim_set when calls are running. */
#ifndef HPL_TESTS_SHIM_P11_SHIM_H
#define HPL_TESTS_SHIM_P11_SHIM_H

/* Every function that the backend and p11-kit call: X(its knob, its name). */
#define SHIM_FUNCTIONS(X)                                                                                                              \
    X(INITIALIZE, C_Initialize) X(FINALIZE, C_Finalize) X(GET_INFO, C_GetInfo) X(GET_SLOT_LIST, C_GetSlotList)                         \
    X(GET_SLOT_INFO, C_GetSlotInfo) X(GET_TOKEN_INFO, C_GetTokenInfo) X(GET_MECHANISM_LIST, C_GetMechanismList)                        \
    X(GET_MECHANISM_INFO, C_GetMechanismInfo) X(OPEN, C_OpenSession) X(CLOSE, C_CloseSession) X(CLOSE_ALL, C_CloseAllSessions)         \
    X(GET_SESSION_INFO, C_GetSessionInfo) X(LOGIN, C_Login) X(LOGOUT, C_Logout) X(FIND, C_FindObjectsInit) X(FIND_NEXT, C_FindObjects) \
    X(FIND_FINAL, C_FindObjectsFinal) X(GET_ATTRIBUTES, C_GetAttributeValue) X(GENERATE, C_GenerateKey)                                \
    X(GENERATE_PAIR, C_GenerateKeyPair) X(CREATE, C_CreateObject) X(DESTROY, C_DestroyObject) X(ENCRYPT_INIT, C_EncryptInit)           \
    X(ENCRYPT, C_Encrypt) X(DECRYPT_INIT, C_DecryptInit) X(DECRYPT, C_Decrypt) X(SIGN_INIT, C_SignInit) X(SIGN, C_Sign)                \
    X(RANDOM, C_GenerateRandom)

#define SHIM_KNOB(knob, name) SHIM_##knob,
enum shim_where { SHIM_NOWHERE, SHIM_FUNCTIONS(SHIM_KNOB) SHIM_NUM_FUNCTIONS };
#undef SHIM_KNOB

/* Who makes the IV of CKM_AES_GCM, and who lies about it. */
enum shim_iv {
    SHIM_AS_IS,           /* the caller's, as SoftHSM does */
    SHIM_APPENDS,         /* the token's, 16 bytes behind the tag */
    SHIM_RETURNS,         /* the token's, written into pIv; takes zeroes only */
    SHIM_RETURNS_ONE,     /* the same one each time */
    SHIM_IGNORES,         /* says CKR_OK and uses a constant */
    SHIM_NO_GCM,          /* listed, and refused when used */
    SHIM_APPENDS_12,      /* the token's, 12 bytes behind the tag */
    SHIM_RETURNS_ZERO,    /* says it made one, and leaves zeroes, which it used */
    SHIM_RETURNS_GARBAGE, /* writes one into pIv and uses another */
    SHIM_APPENDS_GARBAGE, /* the same, behind the tag */
    SHIM_HIDES_GCM,       /* works, and is missing from the list of mechanisms */
    SHIM_NO_CONTEXT,      /* leaves the AAD out on both ways */
    SHIM_NO_TAG,          /* decrypts whatever the tag is */
    SHIM_OPENS_CUT        /* says CKR_OK to no more than a tag, and gives nothing */
};

#define SHIM_ALWAYS 0xffffffffu
#define SHIM_CRASH 0xdeadul /* as rv: the process dies of SIGSEGV */

struct shim {
    enum shim_iv iv;

    /* One fault. */
    enum shim_where where;       /* which function fails */
    unsigned long rv;            /* with what; CKR_OK: only delay_ms */
    unsigned long then_rv;       /* with what from the second time on; CKR_OK: the same */
    unsigned times;              /* how often, SHIM_ALWAYS: until cleared */
    unsigned skip, every;        /* the first so many calls pass; then every so many'th fails (0 and 1: each) */
    unsigned is_after;           /* SoftHSM does it first and the answer is lost; else SoftHSM never hears of it */
    unsigned delay_ms;           /* sleeps as long before it fails; clearing `where` ends the sleep */
    unsigned long long until_ns; /* of CLOCK_MONOTONIC; 0: no end */

    /* Ways of a token. */
    unsigned is_dead;            /* CKR_DEVICE_ERROR everywhere until the next C_Initialize that works */
    unsigned has_lost_anchor;    /* until the next C_Initialize the session that was opened first is invalid and nobody is logged in */
    unsigned loses_sessions;     /* at the next call in a session: all that are open now, but the one opened first, are invalid; then 0 again */
    unsigned has_no_session_objects, has_other_serial;
    unsigned session_limit;      /* 0: none; more are CKR_SESSION_COUNT */
    unsigned long token_flags;   /* added to C_GetTokenInfo's */
    unsigned mixes_keys;         /* encrypts and decrypts with another AES key than the handle's; the canary's is left alone */
    unsigned latency_us;         /* before every encryption, decryption and signature */
    unsigned long told_len;      /* what C_Decrypt says it gave; 0: the truth */
    unsigned num_more_slots;     /* C_GetSlotList says that it gave so many more */
    unsigned told_sessions;      /* ulMaxRwSessionCount; 0: what SoftHSM says */
    unsigned finds_no_end;       /* C_FindObjects, when asked for many, always has more */

    /* What was seen. */
    unsigned num_calls[SHIM_NUM_FUNCTIONS];
    unsigned num_injected, num_logins, num_finds, num_open, num_most_open, num_initialised, num_finalized;
    unsigned num_stale_sessions, num_stale_objects; /* handles of an earlier C_Initialize */
    unsigned num_tainted;        /* operations in a session that an injected error left busy */
    unsigned num_foreign;        /* calls of a forked child */
};

#define shim_get(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define shim_set(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

#endif
