/* What the backend itself makes of the token: its own negotiation, first as it would go, then each tier by name; and the throw-away objects that the load
 * runs on. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include <stdlib.h>

#define CALL_TIMEOUT_MS 120000u

/* A device as far as trials look at it. */
struct stage {
    struct hpl_token_option option;
    struct hpl_p11_place place;
    struct hpl_p11_direct *direct;
    struct hpl_call call;
    struct hpl_p11_op op;
};

static void stage_init(struct stage *stage, const struct hpl_probe *probe, const char *mechanism)
{
    *stage = (struct stage){.option = {.name = "probe", .mechanism = mechanism}, .direct = calloc(1, sizeof *stage->direct)};
    HPL_CHECK(stage->direct);
    hpl_call_init(&stage->call, CALL_TIMEOUT_MS);
    stage->place.option = &stage->option;
    stage->direct->place = &stage->place;
    stage->direct->token = probe->token;
    stage->direct->tries_in_token = probe->asked->may_make_token_objects;
    stage->op = (struct hpl_p11_op){.direct = stage->direct, .call = &stage->call, .fn = probe->fn, .handle = probe->anchor};
}

static void stage_wipe(struct stage *stage)
{
    free(stage->direct);
}

static json_t *try_one(const struct hpl_probe *probe, const char *mechanism, const struct hpl_p11_tier **tier, enum hpl_p11_iv_mode *mode)
{
    struct stage stage;
    stage_init(&stage, probe, mechanism);
    enum hpl_status status = hpl_p11_negotiate(&stage.op);
    bool is_well = status == HPL_OK;
    *tier = is_well ? stage.direct->tier : NULL;
    *mode = is_well ? stage.direct->iv_mode : HPL_P11_IV_NONE;
    const char *name = is_well ? hpl_p11_mechanism_name(stage.direct->tier->mechanism) : mechanism;
    json_t *answer = json_pack("{s:s?, s:b, s:s, s:s}", "mechanism", name, "usable", is_well, "how", hpl_p11_iv_mode_name(*mode), "said",
                               is_well ? "proven on throw-away keys" : hpl_detail(&stage.call, status));
    stage_wipe(&stage);
    return answer;
}

json_t *hpl_probe_negotiate(struct hpl_probe *probe)
{
    static const char *const names[] = {"aes-gcm", "aes-cbc-hmac", "rsa-oaep"};
    json_t *tiers = json_array();
    const struct hpl_p11_tier *tier;
    enum hpl_p11_iv_mode mode;
    for (size_t i = 0; i < HPL_COUNT(names); i++) {
        json_array_append_new(tiers, try_one(probe, names[i], &tier, &mode));
        if (tier == &hpl_p11_tier_gcm)
            probe->gcm_mode = mode;
    }
    json_t *choice = try_one(probe, NULL, &probe->tier, &probe->mode);
    return json_pack("{s:o, s:o}", "choice", choice, "tiers", tiers);
}

bool hpl_probe_make_objects(struct hpl_probe *probe)
{
    struct stage stage;
    bool was_made = false;
    stage_init(&stage, probe, NULL);
    bool is_well = hpl_p11_make_trial(&stage.op, probe->tier, probe->handles, &was_made) == HPL_OK && was_made;
    stage_wipe(&stage);
    return is_well;
}

void hpl_probe_drop_objects(struct hpl_probe *probe)
{
    struct stage stage;
    stage_init(&stage, probe, NULL);
    (void)!hpl_p11_destroy_trial(&stage.op, probe->handles);
    stage_wipe(&stage);
}
