/* The canary: a key of ours in the token whose answer we know. It tells a dead token from a hostile ciphertext where the error codes
 * do not (SoftHSM says CKR_GENERAL_ERROR for both), and a known token from another in its place. Any thread. */
#include "backends/pkcs11/internal.h"

#include "base/clock.h"
#include "base/hash.h"

#define FRESH_NS 200000000u
#define AGAIN_NS 100000000
#define TIMEOUT_MS 3000u

static const uint8_t song[32] = "hardplate's canary sings: alive.";
static const uint8_t song_aad[HPL_WRAP_AAD_LEN] = "hardplate canary context, 32 b.";

static void init_fixed(struct hpl_p11_key *key, const char *label)
{
    uint8_t digest[HPL_SHA256_LEN];
    hpl_sha256(digest, label, strlen(label));
    hpl_p11_key_init(key, digest, label);
}

void hpl_p11_canary_init(struct hpl_p11_direct *direct)
{
    init_fixed(&direct->meta_mac, "hpl/meta-mac");
    direct->meta_mac.is_mac = true;
    pthread_mutex_init(&direct->canary_lock, NULL);
}

/* --- asking it ------------------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_p11_canary_op(struct hpl_p11_op *op, void *unused)
{
    struct hpl_p11_direct *direct = op->direct;
    struct hpl_secret *HPL_SECRET_AUTO heard = NULL;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    (void)unused;
    if (!direct->canary_answer.ct_len)
        return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "token '%s' has no canary yet", direct->token.facts.label);
    HPL_TRY(hpl_p11_handles(op, &direct->canary, direct->tier->kinds, NULL, handles));
    enum hpl_status status = hpl_p11_unwrap(op, &direct->canary, handles, song_aad, &direct->canary_answer, &heard);
    if (status == HPL_INVALID_CIPHERTEXT || op->class == HPL_P11_AMBIGUOUS) { /* the answer is right, so it is the token; no caller's ciphertext is to be blamed */
        op->class = HPL_P11_DEVICE;
        return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "the canary of token '%s' does not open its answer", direct->token.facts.label);
    }
    HPL_TRY(status);
    if (heard->len != sizeof song || memcmp(heard->bytes, song, sizeof song) != 0)
        return hpl_fail(op->call, HPL_INTEGRITY, "the canary of token '%s' sings another song", direct->token.facts.label);
    return HPL_OK;
}

/* The pool's sessions may all be busy with what is slow, or lost, and neither says that the token is dead. One that gives no more lends one of those. */
static enum hpl_status open_own(struct hpl_p11_op *op, bool *is_own)
{
    const struct hpl_p11_token *token = &op->direct->token;
    CK_SESSION_HANDLE session;
    *is_own = token->fn->C_OpenSession(token->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK;
    if (!*is_own)
        return hpl_p11_checkout(op);
    op->fn = token->fn;
    op->handle = session;
    return HPL_OK;
}

/* One attempt, without connecting: this runs while a connection is in doubt. False too when the generation is another by now. */
static bool ask(struct hpl_p11_direct *direct, uint64_t generation)
{
    struct hpl_call call;
    hpl_call_init(&call, TIMEOUT_MS);
    struct hpl_p11_op op = {.direct = direct, .call = &call, .epoch = atomic_load(&direct->epoch)};
    if (hpl_p11_module_enter(direct->module, &call, &op.generation) != HPL_OK)
        return false;
    enum hpl_status status = HPL_KEY_UNAVAILABLE;
    bool is_own = false;
    if (op.generation == generation && atomic_load(&direct->generation) == generation)
        status = open_own(&op, &is_own);
    if (status == HPL_OK)
        status = hpl_p11_canary_op(&op, NULL);
    if (op.class == HPL_P11_HANDLE)
        atomic_compare_exchange_strong(&direct->epoch, &op.epoch, op.epoch + 1);
    if (is_own)
        op.fn->C_CloseSession(op.handle);
    else
        hpl_p11_checkin(&op);
    hpl_p11_module_leave(direct->module);
    return status == HPL_OK;
}

/* A moment's trouble is not the token's death. */
static bool ask_again(struct hpl_p11_direct *direct, uint64_t generation)
{
    const struct timespec pause = {.tv_nsec = AGAIN_NS};
    nanosleep(&pause, NULL);
    return ask(direct, generation);
}

static bool is_past(struct hpl_p11_direct *direct, uint64_t generation)
{
    return atomic_load(&direct->generation) != generation || hpl_p11_module_generation(direct->module) != generation;
}

/* Hostile ciphertexts cost at most five canaries a second, whatever their number. */
enum hpl_status hpl_p11_canary_verdict(struct hpl_p11_direct *direct, struct hpl_call *call, uint64_t generation)
{
    HPL_TRY(hpl_p11_lock(call, &direct->canary_lock, "its canary"));
    if (is_past(direct, generation)) {
        pthread_mutex_unlock(&direct->canary_lock);
        return HPL_KEY_UNAVAILABLE;
    }
    if (direct->canary_generation != generation || hpl_clock_mono_ns() - direct->canary_at_ns >= FRESH_NS) {
        direct->canary_was_well = ask(direct, generation) || ask_again(direct, generation);
        direct->canary_generation = generation;
        direct->canary_at_ns = hpl_clock_mono_ns();
    }
    bool is_well = direct->canary_was_well;
    pthread_mutex_unlock(&direct->canary_lock);
    return is_well ? HPL_OK : HPL_KEY_UNAVAILABLE;
}

/* --- meeting a token ------------------------------------------------------------------------------------------------------------- */

/* A known token holds the keys it held, and they are the same. */
static enum hpl_status hold(struct hpl_p11_op *op, const struct hpl_p11_pinned *pinned)
{
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    op->direct->canary_answer = pinned->canary;
    HPL_TRY(hpl_p11_canary_op(op, NULL));
    return hpl_p11_handles(op, &op->direct->meta_mac, 1u << HPL_P11_MAC, NULL, handles);
}

static enum hpl_status teach(struct hpl_p11_op *op, struct hpl_p11_pinned *pinned)
{
    struct hpl_p11_direct *direct = op->direct;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    HPL_TRY(hpl_p11_handles(op, &direct->canary, direct->tier->kinds, NULL, handles));
    HPL_TRY(hpl_p11_wrap(op, &direct->canary, handles, song_aad, hpl_bytes(song, sizeof song), &direct->canary_answer));
    HPL_TRY(hpl_p11_canary_op(op, NULL));
    pinned->mechanism = direct->tier->mechanism;
    pinned->iv_mode = direct->iv_mode;
    pinned->opens |= 1u << direct->tier->mechanism;
    pinned->canary = direct->canary_answer;
    return HPL_OK;
}

/* A known one that now works in another way, which was accepted: the same token by its MAC key, and a canary of the new kind. */
static enum hpl_status hold_changed(struct hpl_p11_op *op, struct hpl_p11_pinned *pinned)
{
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    HPL_TRY(hpl_p11_handles(op, &op->direct->meta_mac, 1u << HPL_P11_MAC, NULL, handles));
    HPL_TRY(hpl_p11_create(op, &op->direct->canary));
    return teach(op, pinned);
}

/* An unknown one gets our two keys unless another catalog gave them already. */
static enum hpl_status take_in(struct hpl_p11_op *op, struct hpl_p11_pinned *pinned)
{
    *pinned = (struct hpl_p11_pinned){0};
    HPL_TRY(hpl_p11_create(op, &op->direct->canary));
    HPL_TRY(hpl_p11_create(op, &op->direct->meta_mac));
    return teach(op, pinned);
}

enum hpl_status hpl_p11_settle_op(struct hpl_p11_op *op, void *arg)
{
    struct hpl_p11_settle *settle = arg;
    struct hpl_p11_direct *direct = op->direct;
    bool has_canary = settle->pinned->canary.ct_len > 0;
    if (!direct->canary.label[0])
        init_fixed(&direct->canary, direct->tier->canary);
    HPL_TRY(!settle->is_known ? take_in(op, settle->pinned) : has_canary ? hold(op, settle->pinned) : hold_changed(op, settle->pinned));
    direct->base.facts.opens |= settle->pinned->opens;
    direct->is_settled = true;
    return HPL_OK;
}
