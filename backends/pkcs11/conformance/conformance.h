/* The prober behind `hardplate hsm conformance`: what one token does, asked on throw-away keys, as a report that its owner can send. The caller's
 * thread, and up to eight more while it measures. Never changes a PIN, never initialises, never logs out, never touches an object that it did not make. */
#ifndef HPL_BACKENDS_PKCS11_CONFORMANCE_H
#define HPL_BACKENDS_PKCS11_CONFORMANCE_H

#include "base/json.h"
#include "kms/keystore.h"

struct hpl_p11_conformance {
    struct hpl_token_option token;   /* uri, module, pin_source, init_reserved */
    const char *state_dir;           /* remembers a refused PIN, so that it is never sent twice */
    unsigned seconds;                /* of load, all its steps together; 0: none */
    bool may_make_token_objects;     /* one key that lies in the token for a moment, "hpl/probe" */
    void (*progress)(const char *step); /* NULL: quiet */
};

/* Asks the token everything. HPL_OK whatever the answers are: they are in *report, which the caller owns; a failure means that it could not be asked
 * (module, URI, PIN). The report: {"report": {...}, "sha256": of the compact, sorted text of "report"}. */
enum hpl_status hpl_p11_conformance_run(struct hpl_call *call, const struct hpl_p11_conformance *asked, json_t **report) HPL_MUST_USE;

/* The same for people. */
void hpl_p11_conformance_page(struct hpl_buf *out, const json_t *report);

/* The program: options as `hardplate hsm conformance` takes them; argv[0] is not looked at. Gives the exit status. */
int hpl_p11_conformance_main(int argc, char **argv);

#endif
