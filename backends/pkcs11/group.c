/* Several tokens as one device. A call goes to the member that is up and answers fastest; one that fails for reasons of its own is
 * taken out (a breaker for each) and the call goes to the next. One thread brings members back: it opens, settles and probes those
 * that are out. Keys are made on the first member only and cloned by the operator: two members that each made "the same" version
 * would hold different keys. Any thread. */
#include "backends/pkcs11/group.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "backends/pkcs11/tokend/tokend.h"
#include "base/clock.h"
#include "base/log.h"

#define RETRY_MIN_MS 500u
#define RETRY_MAX_MS 30000u
#define REPAIR_MS 20000u     /* what an attempt to bring a member back may take */
#define LOOK_MS 5000u        /* between two probes of a member that is up, and what one may take */
#define QUEUE_MS 250u        /* calls wait so long for the first member to come back */
#define OTHERWISE_MS 2000u   /* a member's share of a call without a deadline while there are others */
#define HANG_NS 1000000000u
#define ABSENT_NS 30000000000u
#define NUM_ABSENT 256u
#define NUM_REPLICATED 4096u

static const char reference[] = "hpl-p11-group-reference-v1";

struct absent {
    uint64_t key, until_ns;
};

struct member {
    struct hpl_p11_place place;
    struct hpl_p11_device *device;  /* the thread's until it is up for the first time */
    _Atomic bool is_up;
    _Atomic unsigned in_flight;
    _Atomic uint64_t usual_ns, num_failures;
    bool is_joined;                 /* settled, and has our keys; the thread's */
    unsigned attempts;              /* the thread's */
    uint64_t next_ns, look_ns;      /* the next attempt to bring it back, the next probe; the thread's */
    char why[sizeof(((struct hpl_call *)NULL)->detail)]; /* it is out; under the group's lock */
    struct absent absent[NUM_ABSENT];                    /* keys it was not seen to have; under the group's lock */
};

struct group {
    struct hpl_p11_device base;
    const struct hpl_p11_place *place;
    const struct hpl_tokend_option *tokend;
    struct member members[HPL_P11_MAX_MEMBERS];
    unsigned num_members, replicas_required;
    struct hpl_p11_pinned pinned;
    uint8_t mac[HPL_P11_MAC_LEN]; /* of the reference, by the first that settled */
    pthread_mutex_t lock;
    pthread_cond_t changed;       /* a member came up, one went out, or the group closes */
    bool is_closing, has_thread;
    pthread_t thread;
    uint64_t replicated[NUM_REPLICATED]; /* key versions found on enough members; under the lock */
};

static struct group *of(struct hpl_p11_device *device)
{
    return (struct group *)device;
}

/* --- bringing members up ------------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_p11_member_open(struct hpl_call *call, const struct hpl_p11_place *place, const struct hpl_tokend_option *tokend,
                                    struct hpl_p11_device **out)
{
    return tokend ? hpl_p11_tokend_open(call, place, tokend, out) : hpl_p11_direct_open(call, place, out);
}

static void note_why(struct group *group, struct member *member, const char *why)
{
    pthread_mutex_lock(&group->lock);
    snprintf(member->why, sizeof member->why, "%s", why);
    pthread_mutex_unlock(&group->lock);
}

static void set_up(struct group *group, struct member *member)
{
    pthread_mutex_lock(&group->lock);
    member->why[0] = '\0';
    memset(member->absent, 0, sizeof member->absent);
    atomic_store(&member->is_up, true);
    pthread_cond_broadcast(&group->changed);
    pthread_mutex_unlock(&group->lock);
    hpl_log(HPL_LOG_INFO, "pkcs11.member_up", HPL_S("token", member->place.option->name));
}

static void take_out(struct group *group, struct member *member, const char *why)
{
    pthread_mutex_lock(&group->lock);
    bool was_up = atomic_exchange(&member->is_up, false);
    snprintf(member->why, sizeof member->why, "%s", why);
    pthread_cond_broadcast(&group->changed);
    pthread_mutex_unlock(&group->lock);
    if (was_up)
        hpl_log(HPL_LOG_ERROR, "pkcs11.member_out", HPL_S("token", member->place.option->name), HPL_S("why", why));
}

/* Two ways of making IVs under one key could meet in one IV. */
static enum hpl_status works_alike(struct group *group, struct hpl_call *call, const struct member *member)
{
    const struct hpl_p11_facts *ours = &group->base.facts, *its = &member->device->facts;
    if (ours->mechanism == its->mechanism && ours->iv_mode == its->iv_mode)
        return HPL_OK;
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' shows %s with IV mode '%s', the others %s with '%s'", member->place.option->name,
                    hpl_p11_mechanism_name(its->mechanism), hpl_p11_iv_mode_name(its->iv_mode), hpl_p11_mechanism_name(ours->mechanism),
                    hpl_p11_iv_mode_name(ours->iv_mode));
}

/* Clones that make IVs themselves, by counting perhaps, could each make the same: who names the mode for each of them says that theirs differ. */
static enum hpl_status makes_safe_ivs(struct hpl_call *call, const struct member *member)
{
    const struct hpl_p11_facts *facts = &member->device->facts;
    const char *named = member->place.option->iv_mode;
    if (facts->mechanism != HPL_MECH_P11_GCM || facts->iv_mode == HPL_P11_IV_CALLER || (named && strcmp(named, "auto") != 0))
        return HPL_OK;
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%.40s' makes AES-GCM's IVs itself, and its clones could make the same: set mechanism: aes-cbc-hmac, "
                                                     "or iv_mode: %s where they cannot (docs/pkcs11.md)", member->place.option->name, hpl_p11_iv_mode_name(facts->iv_mode));
}

static enum hpl_status may_join(struct group *group, struct hpl_call *call, const struct member *member)
{
    HPL_TRY(works_alike(group, call, member));
    return makes_safe_ivs(call, member);
}

static enum hpl_status has_our_keys(struct group *group, struct hpl_call *call, struct member *member)
{
    uint8_t mac[HPL_P11_MAC_LEN];
    struct hpl_p11_pinned pinned = group->pinned;
    HPL_TRY(member->device->ops->settle(member->device, call, true, &pinned));
    HPL_TRY(member->device->ops->mac(member->device, call, hpl_bytes_str(reference), mac));
    if (!hpl_equal_secret(mac, group->mac, sizeof mac))
        return hpl_fail(call, HPL_INTEGRITY, "token '%s' has another hpl/meta-mac than the others: it is no clone of them", member->place.option->name);
    return HPL_OK;
}

/* It has our keys. Another token of that name will not be sent the PIN. */
static void welcome(struct group *group, struct member *member)
{
    member->is_joined = true;
    group->place->met_member(group->place->keeper, member->place.option, member->device->facts.id);
}

static enum hpl_status join(struct group *group, struct hpl_call *call, struct member *member)
{
    if (member->is_joined)
        return member->device->ops->probe(member->device, call);
    if (!member->device)
        HPL_TRY(hpl_p11_member_open(call, &member->place, group->tokend, &member->device));
    HPL_TRY(may_join(group, call, member));
    HPL_TRY(has_our_keys(group, call, member));
    welcome(group, member);
    return HPL_OK;
}

static void repair(struct group *group, struct member *member)
{
    struct hpl_call call;
    hpl_call_init(&call, REPAIR_MS);
    enum hpl_status status = join(group, &call, member);
    uint64_t pause_ms = (uint64_t)RETRY_MIN_MS << (member->attempts < 6 ? member->attempts : 6);
    member->attempts = status == HPL_OK ? 0 : member->attempts + 1;
    member->next_ns = hpl_clock_mono_ns() + (pause_ms < RETRY_MAX_MS ? pause_ms : RETRY_MAX_MS) * 1000000u;
    if (status == HPL_OK)
        set_up(group, member);
    else
        note_why(group, member, hpl_detail(&call, status));
}

/* One that nobody asks just now may be away too. */
static void look_after(struct group *group, struct member *member)
{
    struct hpl_call call;
    struct hpl_p11_stat stat;
    hpl_call_init(&call, LOOK_MS);
    member->look_ns = hpl_clock_mono_ns() + LOOK_MS * 1000000u;
    enum hpl_status status = member->device->ops->probe(member->device, &call);
    if (status == HPL_OK)
        return;
    member->device->ops->stat(member->device, &stat);
    if (!stat.is_connected || stat.has_failed)
        take_out(group, member, hpl_detail(&call, status));
}

/* Sleeps until something changed or half a second passed. False when the group closes. */
static bool pause_thread(struct group *group)
{
    uint64_t until_ns = hpl_clock_mono_ns() + RETRY_MIN_MS * 1000000u;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    pthread_mutex_lock(&group->lock);
    if (!group->is_closing)
        pthread_cond_timedwait(&group->changed, &group->lock, &until);
    bool goes_on = !group->is_closing;
    pthread_mutex_unlock(&group->lock);
    return goes_on;
}

static void *tend(void *arg)
{
    struct group *group = arg;
    while (pause_thread(group))
        for (unsigned i = 0; i < group->num_members; i++) {
            struct member *member = &group->members[i];
            bool is_up = atomic_load(&member->is_up);
            if (is_up && hpl_clock_mono_ns() >= member->look_ns)
                look_after(group, member);
            else if (!is_up && hpl_clock_mono_ns() >= member->next_ns)
                repair(group, member);
        }
    return NULL;
}

/* --- asking a member ------------------------------------------------------------------------------------------------------------------ */

/* What is asked: of any member, or about a key version. */
struct question {
    enum hpl_status (*ask)(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question);
    const struct hpl_p11_ref *ref;
    const uint8_t *aad;
    const struct hpl_secret *secret;
    const struct hpl_wrapped *wrapped;
    struct hpl_wrapped *wrapped_out;
    struct hpl_secret **secret_out, *room;
    struct hpl_bytes message;
    uint8_t *mac;
    struct hpl_p11_orphans *orphans;
};

/* Never 0. */
static uint64_t key_of(const struct hpl_p11_ref *ref)
{
    uint64_t key;
    memcpy(&key, ref->uid, sizeof key);
    return (key ^ (uint64_t)ref->version * 0x9e3779b97f4a7c15u) | 1;
}

static bool is_absent(const struct member *member, uint64_t key, uint64_t now_ns)
{
    const struct absent *absent = &member->absent[key / 2 % NUM_ABSENT];
    return absent->key == key && now_ns < absent->until_ns;
}

/* The fastest of those that are up and not asked yet; one that lacked the key a moment ago only after the others. Under the lock. */
static struct member *best(struct group *group, const struct question *question, unsigned asked, bool may_lack)
{
    struct member *found = NULL;
    uint64_t least = UINT64_MAX, key = question->ref ? key_of(question->ref) : 0, now_ns = hpl_clock_mono_ns();
    for (unsigned i = 0; i < group->num_members; i++) {
        struct member *member = &group->members[i];
        if (asked & 1u << i || !atomic_load(&member->is_up) || (key && is_absent(member, key, now_ns) != may_lack))
            continue;
        uint64_t score = (atomic_load(&member->usual_ns) + 1000) * (atomic_load(&member->in_flight) + 1);
        if (score < least) {
            least = score;
            found = member;
        }
    }
    return found;
}

static struct member *pick(struct group *group, const struct question *question, unsigned asked)
{
    pthread_mutex_lock(&group->lock);
    struct member *member = best(group, question, asked, false);
    if (!member && question->ref)
        member = best(group, question, asked, true);
    pthread_mutex_unlock(&group->lock);
    return member;
}

/* With none up a call waits a moment for one. */
static struct member *pick_first(struct group *group, const struct question *question)
{
    uint64_t until_ns = hpl_clock_mono_ns() + QUEUE_MS * 1000000u;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    struct member *member;
    while (!(member = pick(group, question, 0)) && hpl_clock_mono_ns() < until_ns) {
        pthread_mutex_lock(&group->lock);
        pthread_cond_timedwait(&group->changed, &group->lock, &until);
        pthread_mutex_unlock(&group->lock);
    }
    return member;
}

static unsigned num_up(const struct group *group)
{
    unsigned num = 0;
    for (unsigned i = 0; i < group->num_members; i++)
        num += atomic_load(&group->members[i].is_up);
    return num;
}

/* While there are others a member may use its share of the time that is left. */
static struct hpl_call share_of(const struct group *group, const struct hpl_call *call)
{
    struct hpl_call share = *call;
    unsigned others = num_up(group);
    uint64_t now_ns = hpl_clock_mono_ns();
    share.detail[0] = '\0';
    if (others > 1 && !call->deadline_ns)
        share.deadline_ns = now_ns + OTHERWISE_MS * 1000000u;
    else if (others > 1 && call->deadline_ns > now_ns)
        share.deadline_ns = now_ns + (call->deadline_ns - now_ns) / others;
    return share;
}

static bool is_its_own_trouble(enum hpl_status status)
{
    return status == HPL_KEY_UNAVAILABLE || status == HPL_UNAVAILABLE || status == HPL_TIMEOUT || status == HPL_PIN_REJECTED ||
           status == HPL_INTEGRITY || status == HPL_BACKEND || status == HPL_INTERNAL;
}

/* A member that lacks a key, or gave an odd answer, stays; one that is away, refuses the PIN, hangs or has failed goes out. A call's
 * own short deadline proves nothing, and the last one is kept however slow. */
static void judge(struct group *group, struct member *member, const struct question *question, enum hpl_status status, const struct hpl_call *call,
                  uint64_t took_ns)
{
    struct hpl_p11_stat stat;
    member->device->ops->stat(member->device, &stat);
    atomic_fetch_add(&member->num_failures, 1);
    bool does_hang = status == HPL_TIMEOUT && took_ns >= HANG_NS && num_up(group) > 1;
    if (!stat.is_connected || stat.has_failed || status == HPL_PIN_REJECTED || does_hang) {
        take_out(group, member, hpl_detail(call, status));
    } else if (question->ref && status == HPL_KEY_UNAVAILABLE) {
        uint64_t key = key_of(question->ref);
        pthread_mutex_lock(&group->lock);
        member->absent[key / 2 % NUM_ABSENT] = (struct absent){.key = key, .until_ns = hpl_clock_mono_ns() + ABSENT_NS};
        pthread_mutex_unlock(&group->lock);
    }
}

static enum hpl_status ask_one(struct group *group, struct member *member, struct hpl_call *call, const struct question *question)
{
    uint64_t before_ns = hpl_clock_mono_ns();
    atomic_fetch_add(&member->in_flight, 1);
    enum hpl_status status = question->ask(member->device, call, question);
    atomic_fetch_sub(&member->in_flight, 1);
    uint64_t took_ns = hpl_clock_mono_ns() - before_ns, usual_ns = atomic_load(&member->usual_ns);
    if (status == HPL_OK)
        atomic_store(&member->usual_ns, usual_ns ? usual_ns - usual_ns / 8 + took_ns / 8 : took_ns);
    else if (is_its_own_trouble(status))
        judge(group, member, question, status, call, took_ns);
    return status;
}

static enum hpl_status ask(struct group *group, struct hpl_call *call, const struct question *question)
{
    enum hpl_status status = HPL_KEY_UNAVAILABLE;
    unsigned asked = 0;
    struct member *member = pick_first(group, question);
    if (!member)
        return hpl_fail(call, status, "none of the %u tokens of '%s' works now", group->num_members, group->place->option->name);
    for (; member; member = pick(group, question, asked)) {
        struct hpl_call share = share_of(group, call);
        asked |= 1u << (member - group->members);
        status = ask_one(group, member, &share, question);
        memcpy(call->detail, share.detail, sizeof call->detail);
        if (status == HPL_OK || !is_its_own_trouble(status) || hpl_call_check(call) != HPL_OK)
            break;
    }
    return status;
}

/* --- the operations --------------------------------------------------------------------------------------------------------------------- */

static enum hpl_status ask_probe(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question)
{
    (void)question;
    return device->ops->probe(device, call);
}

static enum hpl_status probe(struct hpl_p11_device *device, struct hpl_call *call)
{
    return ask(of(device), call, &(struct question){.ask = ask_probe});
}

/* By the first member, whose name for a version nobody else may give. */
static enum hpl_status create(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct group *group = of(device);
    struct member *first = &group->members[0];
    if (!atomic_load(&first->is_up))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "keys are made on '%s', the first token of '%s', which does not work now", first->place.option->name,
                        group->place->option->name);
    return first->device->ops->create(first->device, call, ref);
}

static enum hpl_status destroy(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct group *group = of(device);
    for (unsigned i = 0; i < group->num_members; i++)
        if (!atomic_load(&group->members[i].is_up))
            return hpl_fail(call, HPL_KEY_UNAVAILABLE, "token '%s' does not work now, so its copy of the key could not be destroyed",
                            group->members[i].place.option->name);
    for (unsigned i = 0; i < group->num_members; i++)
        HPL_TRY(group->members[i].device->ops->destroy(group->members[i].device, call, ref));
    return HPL_OK;
}

static enum hpl_status ask_wrap(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question)
{
    return device->ops->wrap(device, call, question->ref, question->aad, question->secret, question->wrapped_out);
}

static enum hpl_status ask_unwrap(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question)
{
    return device->ops->unwrap(device, call, question->ref, question->aad, question->wrapped, question->secret_out);
}

static bool opens_check(struct member *member, const struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct hpl_secret *HPL_SECRET_AUTO zeroes = NULL;
    struct hpl_call own = *call;
    return atomic_load(&member->is_up) && member->device->ops->unwrap(member->device, &own, ref, hpl_p11_check_aad, ref->check, &zeroes) == HPL_OK;
}

/* What is wrapped now must open when a token is gone. A version that was found on enough of them once is not searched again. */
static enum hpl_status is_replicated(struct group *group, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    uint64_t key = key_of(ref), *slot = &group->replicated[key / 2 % NUM_REPLICATED];
    unsigned num = 0;
    pthread_mutex_lock(&group->lock);
    bool is_known = *slot == key;
    pthread_mutex_unlock(&group->lock);
    if (is_known || group->replicas_required <= 1 || !ref->check)
        return HPL_OK;
    for (unsigned i = 0; i < group->num_members; i++)
        num += opens_check(&group->members[i], call, ref);
    if (num < group->replicas_required)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key is on %u of the %u tokens of '%s' that it must be on: clone it to the others", num,
                        group->replicas_required, group->place->option->name);
    pthread_mutex_lock(&group->lock);
    *slot = key;
    pthread_mutex_unlock(&group->lock);
    return HPL_OK;
}

static enum hpl_status wrap(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    memset(out, 0, sizeof *out);
    HPL_TRY(is_replicated(of(device), call, ref));
    return ask(of(device), call, &(struct question){.ask = ask_wrap, .ref = ref, .aad = aad, .secret = secret, .wrapped_out = out});
}

static enum hpl_status unwrap(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    *out = NULL;
    return ask(of(device), call, &(struct question){.ask = ask_unwrap, .ref = ref, .aad = aad, .wrapped = wrapped, .secret_out = out});
}

static enum hpl_status ask_mac(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question)
{
    return device->ops->mac(device, call, question->message, question->mac);
}

static enum hpl_status mac(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes message, uint8_t out[static HPL_P11_MAC_LEN])
{
    return ask(of(device), call, &(struct question){.ask = ask_mac, .message = message, .mac = out});
}

static enum hpl_status ask_random(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question)
{
    return device->ops->random(device, call, question->room);
}

static enum hpl_status random_bytes(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_secret *out)
{
    return ask(of(device), call, &(struct question){.ask = ask_random, .room = out});
}

static enum hpl_status ask_survey(struct hpl_p11_device *device, struct hpl_call *call, const struct question *question)
{
    return device->ops->survey(device, call, question->message, question->orphans);
}

static enum hpl_status survey(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes known, struct hpl_p11_orphans *out)
{
    return ask(of(device), call, &(struct question){.ask = ask_survey, .message = known, .orphans = out});
}

/* Numbers are sums; it is connected while one member is. Keys are made on the first alone. */
static void stat_group(struct hpl_p11_device *device, struct hpl_p11_stat *out)
{
    struct group *group = of(device);
    *out = (struct hpl_p11_stat){.is_connected = num_up(group) > 0};
    for (unsigned i = 0; i < group->num_members; i++) {
        struct hpl_p11_stat one;
        if (!atomic_load(&group->members[i].is_up))
            continue;
        group->members[i].device->ops->stat(group->members[i].device, &one);
        out->num_sessions += one.num_sessions;
        out->max_sessions += one.max_sessions;
        out->initialisations += one.initialisations;
        out->restarts += one.restarts;
        out->is_latched |= one.is_latched;
        out->has_failed |= one.has_failed;
        if (i == 0)
            out->optional_attributes = one.optional_attributes;
    }
}

static json_t *describe_members(struct hpl_p11_device *device)
{
    struct group *group = of(device);
    json_t *list = json_array();
    pthread_mutex_lock(&group->lock);
    for (unsigned i = 0; i < group->num_members; i++) {
        const struct member *member = &group->members[i];
        bool is_up = atomic_load(&member->is_up);
        json_array_append_new(list, json_pack("{s:s s:b s:s s:s s:I s:f}", "name", member->place.option->name, "is_up", is_up, "serial",
                                              is_up ? member->device->facts.serial : "", "why", member->why, "failures",
                                              (json_int_t)atomic_load(&member->num_failures), "usual_ms", (double)atomic_load(&member->usual_ns) / 1e6));
    }
    pthread_mutex_unlock(&group->lock);
    return list;
}

/* --- opening, settling, closing ----------------------------------------------------------------------------------------------------------- */

/* The first that is open decides what the group is: it is settled as asked, the others must then be its clones. */
static enum hpl_status settle_first(struct group *group, struct hpl_call *call, bool is_known, struct hpl_p11_pinned *pinned)
{
    enum hpl_status status = HPL_KEY_UNAVAILABLE;
    for (unsigned i = 0; i < group->num_members; i++) {
        struct member *member = &group->members[i];
        const struct hpl_p11_pinned asked = *pinned;
        if (!member->device)
            continue;
        call->detail[0] = '\0';
        status = may_join(group, call, member);
        if (status == HPL_OK)
            status = member->device->ops->settle(member->device, call, is_known, pinned);
        if (status == HPL_OK)
            status = member->device->ops->mac(member->device, call, hpl_bytes_str(reference), group->mac);
        if (status == HPL_OK) {
            welcome(group, member);
            set_up(group, member);
            break;
        }
        note_why(group, member, hpl_detail(call, status));
        *pinned = asked;
        if (!is_known) /* a new group's keys are made on its first member */
            break;
    }
    return status;
}

static enum hpl_status settle(struct hpl_p11_device *device, struct hpl_call *call, bool is_known, struct hpl_p11_pinned *pinned)
{
    struct group *group = of(device);
    if (!is_known && !group->members[0].device)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the first token of '%s' cannot be opened, and a new group's keys are made there: %.100s",
                        group->place->option->name, group->members[0].why);
    HPL_TRY(settle_first(group, call, is_known, pinned));
    group->pinned = *pinned;
    for (unsigned i = 0; i < group->num_members; i++)
        if (!group->members[i].is_joined && group->members[i].device)
            repair(group, &group->members[i]);
    if (pthread_create(&group->thread, NULL, tend, group) != 0)
        return hpl_fail(call, HPL_NO_MEMORY, "no thread to tend the tokens of '%s'", group->place->option->name);
    group->has_thread = true;
    return HPL_OK;
}

static void close_group(struct hpl_p11_device *device)
{
    struct group *group = of(device);
    pthread_mutex_lock(&group->lock);
    group->is_closing = true;
    pthread_cond_broadcast(&group->changed);
    pthread_mutex_unlock(&group->lock);
    if (group->has_thread)
        pthread_join(group->thread, NULL);
    for (unsigned i = 0; i < group->num_members; i++)
        if (group->members[i].device)
            group->members[i].device->ops->close(group->members[i].device);
    pthread_cond_destroy(&group->changed);
    pthread_mutex_destroy(&group->lock);
    free(group);
}

static const struct hpl_p11_device_ops ops = {
    .isolation = "members",
    .close = close_group,
    .settle = settle,
    .probe = probe,
    .create = create,
    .destroy = destroy,
    .wrap = wrap,
    .unwrap = unwrap,
    .mac = mac,
    .random = random_bytes,
    .survey = survey,
    .stat = stat_group,
    .describe_members = describe_members,
};

/* A group is known by its name in the local file: its tokens come and go. */
static void name_group(struct group *group, const struct hpl_p11_facts *its)
{
    struct hpl_p11_facts *facts = &group->base.facts;
    *facts = *its;
    snprintf(facts->label, sizeof facts->label, "%.32s", group->place->option->name);
    snprintf(facts->serial, sizeof facts->serial, "group");
    snprintf(facts->manufacturer, sizeof facts->manufacturer, "hardplate");
    hpl_p11_facts_name(facts);
}

static struct group *make(const struct hpl_p11_place *place, const struct hpl_tokend_option *tokend)
{
    const struct hpl_token_option *option = place->option;
    pthread_condattr_t attributes;
    struct group *group = calloc(1, sizeof *group);
    if (!group)
        return NULL;
    group->base.ops = &ops;
    group->place = place;
    group->tokend = tokend;
    group->num_members = (unsigned)option->num_members;
    group->replicas_required = option->replicas_required;
    pthread_mutex_init(&group->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&group->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    for (unsigned i = 0; i < group->num_members; i++) {
        group->members[i].place = *place;
        group->members[i].place.option = &option->members[i];
        group->members[i].place.known_id = *place->member_ids[i] ? place->member_ids[i] : NULL;
    }
    return group;
}

enum hpl_status hpl_p11_group_open(struct hpl_call *call, const struct hpl_p11_place *place, const struct hpl_tokend_option *tokend,
                                   struct hpl_p11_device **out)
{
    struct group *group = make(place, tokend);
    const struct hpl_p11_device *first = NULL;
    enum hpl_status status = HPL_NO_MEMORY;
    *out = NULL;
    for (unsigned i = 0; group && i < group->num_members; i++) {
        struct member *member = &group->members[i];
        call->detail[0] = '\0';
        status = hpl_p11_member_open(call, &member->place, tokend, &member->device);
        if (status != HPL_OK)
            note_why(group, member, hpl_detail(call, status));
        else if (!first)
            first = member->device;
    }
    if (!first) {
        if (group)
            close_group(&group->base);
        return status;
    }
    call->detail[0] = '\0';
    name_group(group, &first->facts);
    *out = &group->base;
    return HPL_OK;
}
