/* hardplate-bench kms --http and --reconfigure: data keys from servers that were started here, all under the same load, taking turns. */
#include "bench/kms.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BATCH 64u
#define MAX_SERVERS 8u
#define MAX_ROWS 16u

struct server {
    struct hpl_bench_server server;
    hpl_bench_make_fn *make;
    bool has_batches;
};

struct row {
    const struct server *server;
    unsigned batch;
    double rate; /* 0: as fast as it goes */
    struct hpl_bench_outcome top, half;
};

struct servers {
    struct server all[MAX_SERVERS];
    size_t count;
    bool is_good;
};

static void note_start(struct servers *servers, const char *name, const struct hpl_call *call, enum hpl_status status, hpl_bench_make_fn *make, bool has_batches)
{
    struct server *server = &servers->all[servers->count];
    if (status == HPL_OK) {
        server->make = make;
        server->has_batches = has_batches;
        servers->count++;
        return;
    }
    fprintf(stderr, "hardplate-bench: %s left out: %s\n", name, hpl_detail(call, status));
    servers->is_good = false;
    hpl_bench_stop(&server->server);
}

static void start_hardplated(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, const char *backend, bool is_tls, struct servers *servers)
{
    struct hpl_call call = {0};
    if (!hpl_bench_kms_wants(options, backend))
        return;
    if (strcmp(backend, "local") != 0 && access(HPL_BENCH_SOFTHSM, R_OK) != 0) {
        fprintf(stderr, "hardplate-bench: %s left out: softhsm2 is not installed\n", backend);
        return;
    }
    enum hpl_status status = hpl_bench_start_hardplated(&call, place, backend, is_tls, &servers->all[servers->count].server);
    note_start(servers, backend, &call, status, hpl_bench_hardplated_request, true);
}

static void start_peer(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, const char *name, struct servers *servers)
{
    struct hpl_call call = {0};
    bool is_bao = strcmp(name, "openbao") == 0;
    const char *program = getenv(is_bao ? "HPL_BENCH_OPENBAO" : "HPL_BENCH_KES");
    if (!program || !*program || !hpl_bench_kms_wants(options, name))
        return;
    struct hpl_bench_server *server = &servers->all[servers->count].server;
    enum hpl_status status = is_bao ? hpl_bench_start_openbao(&call, place, program, server) : hpl_bench_start_kes(&call, place, program, server);
    note_start(servers, name, &call, status, is_bao ? hpl_bench_openbao_request : hpl_bench_kes_request, is_bao);
}

static void start_all(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, struct servers *servers)
{
    static const char *const backends[] = {"local", "softhsm", "tokend"};
    *servers = (struct servers){.is_good = true};
    for (size_t i = 0; i < HPL_COUNT(backends); i++)
        for (int is_tls = 0; is_tls < 2; is_tls++)
            start_hardplated(options, place, backends[i], is_tls, servers);
    start_peer(options, place, "openbao", servers);
    start_peer(options, place, "kes", servers);
}

static void stop_all(struct servers *servers)
{
    for (size_t i = 0; i < servers->count; i++)
        hpl_bench_stop(&servers->all[i].server);
}

/* --- the load ---------------------------------------------------------------------------------------------------------------------------------------------- */

static enum hpl_status run_load(struct hpl_call *call, const struct hpl_bench_place *place, const struct server *server, unsigned batch,
                                const struct hpl_bench_load *load, struct hpl_bench_outcome *outcome)
{
    struct hpl_buf requests[HPL_BENCH_REQUESTS] = {0};
    const struct hpl_bench_target target = {.port = server->server.port, .tls = server->server.tls, .pid = server->server.pid, .requests = requests,
                                            .num_requests = HPL_BENCH_REQUESTS};
    enum hpl_status status = HPL_OK;
    for (unsigned i = 0; i < HPL_BENCH_REQUESTS && status == HPL_OK; i++)
        status = server->make(call, place, &server->server, batch, i, &requests[i]);
    if (status == HPL_OK)
        status = hpl_bench_load_run(call, &target, load, outcome);
    for (unsigned i = 0; i < HPL_BENCH_REQUESTS; i++)
        hpl_buf_wipe(&requests[i]);
    return status;
}

static bool run_row(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, struct row *row, struct hpl_bench_outcome *outcome)
{
    struct hpl_call call = {0};
    const struct hpl_bench_load load = {.num_connections = options->connections, .seconds = options->seconds / options->rounds, .rate = row->rate};
    enum hpl_status status = run_load(&call, place, row->server, row->batch, &load, outcome);
    if (status != HPL_OK)
        fprintf(stderr, "hardplate-bench: %s: %s\n", row->server->server.name, hpl_detail(&call, status));
    return status == HPL_OK;
}

/* All rows as fast as they go, then each at half of its own rate. */
static bool run_all(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, struct row *table, size_t num_rows)
{
    bool is_good = true;
    for (unsigned round = 0; round < options->rounds && is_good; round++)
        for (size_t i = 0; i < num_rows && is_good; i++)
            is_good = run_row(options, place, &table[i], &table[i].top);
    for (size_t i = 0; i < num_rows; i++)
        table[i].rate = (double)table[i].top.num_done / table[i].top.seconds / 2;
    for (unsigned round = 0; round < options->rounds && is_good; round++)
        for (size_t i = 0; i < num_rows && is_good; i++)
            is_good = table[i].rate > 0 && run_row(options, place, &table[i], &table[i].half);
    return is_good;
}

static size_t make_table(const struct servers *servers, struct row *table)
{
    size_t count = 0;
    for (size_t i = 0; i < servers->count; i++)
        for (unsigned batch = 1; batch <= (servers->all[i].has_batches ? BATCH : 1); batch += BATCH - 1)
            table[count++] = (struct row){.server = &servers->all[i], .batch = batch};
    HPL_CHECK(count <= MAX_ROWS);
    return count;
}

static bool is_peer(const struct server *server)
{
    return server->make != hpl_bench_hardplated_request;
}

static bool tell(const struct hpl_bench_kms_options *options, const struct row *row, json_t *rows)
{
    const struct hpl_bench_outcome *top = &row->top;
    char impl[64];
    const char *transport = row->server->server.is_tls ? "tls" : "plain";
    double requests = (double)top->num_done / top->seconds, keys = requests * row->batch, cpu_us = top->server_cpu_s * 1e6 / ((double)top->num_done * row->batch);
    double p50 = hpl_bench_latency_us(&top->latency, 0.5), p99 = hpl_bench_latency_us(&top->latency, 0.99), half = hpl_bench_latency_us(&row->half.latency, 0.99);
    uint64_t failures = top->num_failed + row->half.num_failed;
    snprintf(impl, sizeof impl, "%s%s", is_peer(row->server) ? "" : "hardplate:", row->server->server.name);
    json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:I}", "op", "data-key", "impl", impl, "transport", transport, "batch",
                                          (int)row->batch, "connections", (int)options->connections, "requests_per_s", hpl_bench_rounded(requests, 1), "keys_per_s",
                                          hpl_bench_rounded(keys, 1), "p50_us", hpl_bench_rounded(p50, 1), "p99_us", hpl_bench_rounded(p99, 1), "p99_half_us",
                                          hpl_bench_rounded(half, 1), "server_cpu_us_per_key", hpl_bench_rounded(cpu_us, 2), "failures", (json_int_t)failures));
    if (!options->is_json)
        printf("%-18s %-6s %6u %12.0f %12.0f %10.1f %10.1f %14.1f %14.2f %9llu\n", impl, transport, row->batch, requests, keys, p50, p99, half, cpu_us,
               (unsigned long long)failures);
    return failures == 0;
}

bool hpl_bench_kms_http(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, json_t *rows)
{
    struct servers servers;
    struct row *table = calloc(MAX_ROWS, sizeof *table);
    HPL_CHECK(table);
    start_all(options, place, &servers);
    size_t num_rows = make_table(&servers, table);
    bool is_good = servers.is_good && run_all(options, place, table, num_rows);
    if (!options->is_json)
        printf("%-18s %-6s %6s %12s %12s %10s %10s %14s %14s %9s\n", "server", "over", "batch", "requests/s", "keys/s", "p50 us", "p99 us", "p99 half load", "CPU us a key",
               "failures");
    for (size_t i = 0; i < num_rows && is_good; i++)
        is_good &= tell(options, &table[i], rows);
    stop_all(&servers);
    free(table);
    return is_good;
}

/* --- while the backend is switched ---------------------------------------------------------------------------------------------------------------------------- */

#define SWITCH_EVERY_US 1000000u

static const char to_token[] = "{\"backend_type\":\"pkcs11\",\"token\":\"main\",\"default_key_id\":\"bench\"}";
static const char to_local[] = "{\"backend_type\":\"local\",\"default_key_id\":\"bench\"}";

struct switching {
    const struct hpl_bench_place *place;
    const struct hpl_bench_server *server;
    atomic_bool is_over;
    unsigned num_switches;
    enum hpl_status status;
    struct hpl_call call;
};

static void *switch_backends(void *arg)
{
    struct switching *switching = arg;
    do {
        const char *body = switching->num_switches % 2 ? to_token : to_local;
        switching->status = hpl_bench_admin(&switching->call, switching->place, switching->server, "kms/reconfigure", body);
        switching->num_switches += switching->status == HPL_OK;
        for (unsigned waited = 0; waited < SWITCH_EVERY_US && !atomic_load(&switching->is_over); waited += 20000)
            usleep(20000);
    } while (!atomic_load(&switching->is_over) && switching->status == HPL_OK);
    return NULL;
}

static bool run_switched(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, struct row *row, unsigned *num_switches)
{
    struct switching switching = {.place = place, .server = &row->server->server, .status = HPL_OK};
    pthread_t thread;
    HPL_CHECK(pthread_create(&thread, NULL, switch_backends, &switching) == 0);
    bool is_good = run_row(options, place, row, &row->half);
    atomic_store(&switching.is_over, true);
    pthread_join(thread, NULL);
    *num_switches += switching.num_switches;
    if (switching.status != HPL_OK)
        fprintf(stderr, "hardplate-bench: reconfigure: %s\n", hpl_detail(&switching.call, switching.status));
    return is_good && switching.status == HPL_OK;
}

static void tell_switched(const struct hpl_bench_kms_options *options, const char *op, const struct hpl_bench_outcome *outcome, unsigned num_switches, json_t *rows)
{
    double requests = (double)outcome->num_done / outcome->seconds;
    double p50 = hpl_bench_latency_us(&outcome->latency, 0.5), p99 = hpl_bench_latency_us(&outcome->latency, 0.99);
    json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:i, s:I}", "op", op, "impl", "hardplate:local,softhsm", "connections", (int)options->connections,
                                          "requests_per_s", hpl_bench_rounded(requests, 1), "p50_us", hpl_bench_rounded(p50, 1), "p99_us", hpl_bench_rounded(p99, 1),
                                          "switches", (int)num_switches, "failures", (json_int_t)outcome->num_failed));
    if (!options->is_json)
        printf("%-12s %12.0f requests/s, p50 %8.1f us, p99 %8.1f us, %u switches, %llu failures\n", op, requests, p50, p99, num_switches,
               (unsigned long long)outcome->num_failed);
}

static bool use_token(const struct hpl_bench_place *place, const struct hpl_bench_server *server)
{
    struct hpl_call call = {0};
    enum hpl_status status = hpl_bench_admin(&call, place, server, "kms/reconfigure", to_token);
    if (status == HPL_OK)
        status = hpl_bench_admin(&call, place, server, "kms/generate-data-key", "{}"); /* makes the key at first */
    if (status != HPL_OK)
        fprintf(stderr, "hardplate-bench: %s\n", hpl_detail(&call, status));
    return status == HPL_OK;
}

/* The same rate with and without, in turn: a quarter of what it does at most. Undisturbed it is the token all the time, which is the slower of the two. */
bool hpl_bench_kms_reconfigure(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, json_t *rows)
{
    struct servers servers = {.is_good = true};
    unsigned num_switches = 0;
    start_hardplated(options, place, "local", false, &servers);
    struct row *row = calloc(2, sizeof *row);
    HPL_CHECK(row);
    row[0] = row[1] = (struct row){.server = &servers.all[0], .batch = 1};
    bool is_good = servers.count == 1 && use_token(place, &servers.all[0].server) && run_row(options, place, &row[1], &row[1].top);
    row[0].rate = is_good ? (double)row[1].top.num_done / row[1].top.seconds / 4 : 0;
    for (unsigned round = 0; round < options->rounds && is_good; round++)
        is_good = use_token(place, &servers.all[0].server) && run_row(options, place, &row[0], &row[0].top) && run_switched(options, place, &row[0], &num_switches);
    if (is_good) {
        tell_switched(options, "undisturbed", &row[0].top, 0, rows);
        tell_switched(options, "reconfigured", &row[0].half, num_switches, rows);
    }
    is_good = is_good && row[0].top.num_failed + row[0].half.num_failed == 0;
    free(row);
    stop_all(&servers);
    return is_good;
}
