/* What an hpl_aead_key is, for the files of engine/ that run its message in pieces; everyone else sees engine/aead.h. */
#ifndef HPL_ENGINE_AEAD_KEY_H
#define HPL_ENGINE_AEAD_KEY_H

#include "engine/gcm/gcm.h"

/* The expanded key is the secret's content: 64-byte aligned there. */
struct hpl_aead_key {
    struct hpl_gcm_key gcm;
    struct hpl_secret *home;
};

#endif
