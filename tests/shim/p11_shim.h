/* The knobs of p11_shim.so: SoftHSM behind it, made to behave like other tokens, or badly. */
#ifndef HPL_TESTS_SHIM_P11_SHIM_H
#define HPL_TESTS_SHIM_P11_SHIM_H

enum shim_iv { SHIM_AS_IS, SHIM_APPENDS, SHIM_RETURNS, SHIM_RETURNS_ONE, SHIM_IGNORES, SHIM_NO_GCM };
enum shim_where { SHIM_NOWHERE, SHIM_ENCRYPT_INIT, SHIM_ENCRYPT, SHIM_DECRYPT_INIT, SHIM_DECRYPT, SHIM_FIND, SHIM_OPEN, SHIM_SIGN };

struct shim {
    enum shim_iv iv;
    enum shim_where where;     /* which function fails next */
    unsigned long rv;          /* with what, without asking SoftHSM */
    unsigned times;            /* how often */
    unsigned num_logins, num_finds, num_open, num_initialised;
};

#endif
