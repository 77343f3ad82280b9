/* Cryptoki as p11-kit declares it, without the macros that its header leaves behind (iv_len would rename members of ours). */
#ifndef HPL_BACKENDS_PKCS11_CRYPTOKI_H
#define HPL_BACKENDS_PKCS11_CRYPTOKI_H

#include <p11-kit/pkcs11.h>

#undef iv_ptr
#undef iv_len
#undef iv_bits
#undef aad_ptr
#undef aad_len
#undef tag_bits

#endif
