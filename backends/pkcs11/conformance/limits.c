/* How many sessions the token gives, and how fast its random numbers are. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include "base/clock.h"

#define MOST_SESSIONS 64u
#define RANDOM_NS 300000000u

json_t *hpl_probe_sessions(struct hpl_probe *probe)
{
    CK_SESSION_HANDLE sessions[MOST_SESSIONS];
    unsigned num = 0;
    CK_RV rv = CKR_OK;
    uint64_t since_ns = hpl_clock_mono_ns();
    while (num < MOST_SESSIONS && (rv = hpl_probe_open(probe, &sessions[num])) == CKR_OK)
        num++;
    double open_ms = hpl_probe_ms(since_ns);
    for (unsigned i = 0; i < num; i++)
        hpl_probe_close(probe, sessions[i]);
    json_t *answer = json_pack("{s:i, s:i, s:o, s:f}", "tried", (int)MOST_SESSIONS, "opened", (int)num, "last_code", hpl_probe_code(rv), "ms_each",
                               num ? open_ms / num : 0.0);
    if (probe->token.max_rw_sessions == CK_UNAVAILABLE_INFORMATION || probe->token.max_rw_sessions == CK_EFFECTIVELY_INFINITE)
        json_object_set_new(answer, "said_to_be", json_string("not limited, or not said"));
    else
        json_object_set_new(answer, "said_to_be", json_integer((json_int_t)probe->token.max_rw_sessions));
    return answer;
}

json_t *hpl_probe_random(struct hpl_probe *probe)
{
    uint8_t bytes[32] = {0}, before[32];
    unsigned num = 0;
    bool has_repeated = false;
    uint64_t since_ns = hpl_clock_mono_ns();
    CK_RV rv = CKR_OK;
    while (rv == CKR_OK && hpl_clock_mono_ns() - since_ns < RANDOM_NS) {
        memcpy(before, bytes, sizeof before);
        rv = probe->fn->C_GenerateRandom(probe->anchor, bytes, sizeof bytes);
        has_repeated = has_repeated || memcmp(before, bytes, sizeof before) == 0;
        num += rv == CKR_OK;
    }
    double seconds = hpl_probe_ms(since_ns) / 1000;
    return json_pack("{s:o, s:f, s:b}", "code", hpl_probe_code(rv), "32_bytes_a_second", num / seconds, "repeated_itself", has_repeated);
}
