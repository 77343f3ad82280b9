/* The stream: slots go round a ring, empty to the reader, full to the caller's thread, turned to the writer. Each thread takes the slots in order, so
 * a slot's state says whose it is, and one lock guards the states. */
#include "cli/stream.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/secret.h"

#define NUM_SLOTS 3u
#define BAR_EVERY_NS 100000000ull

enum slot_state { SLOT_EMPTY, SLOT_FULL, SLOT_TURNED };

struct slot {
    enum slot_state state;
    uint8_t *in, *out;
    size_t in_len, out_len;
    bool is_last;
};

struct run {
    const struct hpl_stream *stream;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct slot slots[NUM_SLOTS];
    enum hpl_status status; /* the first failure; every thread stops at it */
    struct hpl_call call;   /* its detail */
    int wake;               /* readable from the first failure on */
    bool has_turned_all;    /* the caller's thread will turn no more */
    uint8_t *buffers;
    size_t buffers_len;
};

static void set_state(struct run *run, struct slot *slot, enum slot_state state)
{
    pthread_mutex_lock(&run->lock);
    slot->state = state;
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->lock);
}

static void set_failed(struct run *run, enum hpl_status status, const struct hpl_call *call)
{
    pthread_mutex_lock(&run->lock);
    if (run->status == HPL_OK) {
        run->status = status;
        run->call = *call;
    }
    (void)!write(run->wake, &(uint64_t){1}, 8);
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->lock);
}

/* False when something failed. */
static bool wait_for(struct run *run, const struct slot *slot, enum slot_state state)
{
    pthread_mutex_lock(&run->lock);
    while (slot->state != state && run->status == HPL_OK)
        pthread_cond_wait(&run->changed, &run->lock);
    bool is_well = run->status == HPL_OK;
    pthread_mutex_unlock(&run->lock);
    return is_well;
}

/* The writer's: goes on after a failure elsewhere until what was turned is written. */
static bool wait_for_turned(struct run *run, const struct slot *slot)
{
    pthread_mutex_lock(&run->lock);
    while (slot->state != SLOT_TURNED && !run->has_turned_all)
        pthread_cond_wait(&run->changed, &run->lock);
    bool is_turned = slot->state == SLOT_TURNED;
    pthread_mutex_unlock(&run->lock);
    return is_turned;
}

/* A read may wait for ever on a pipe; a failure elsewhere ends the wait. */
static bool wait_for_input(struct run *run)
{
    struct pollfd fds[] = {{run->stream->in, POLLIN, 0}, {run->wake, POLLIN, 0}};
    while (poll(fds, HPL_COUNT(fds), -1) < 0)
        HPL_CHECK(errno == EINTR);
    return fds[1].revents == 0;
}

/* Until len bytes are there or the input ends. */
static enum hpl_status read_up_to(struct hpl_call *call, struct run *run, uint8_t *to, size_t len, size_t *got)
{
    while (*got < len) {
        if (!wait_for_input(run))
            return hpl_fail(call, HPL_IO, "the reading of %s was given up", run->stream->in_name);
        ssize_t n = read(run->stream->in, to + *got, len - *got);
        if (n < 0 && errno != EINTR)
            return hpl_file_error(call, "cannot read", run->stream->in_name);
        if (n == 0)
            break;
        *got += n > 0 ? (size_t)n : 0;
    }
    return HPL_OK;
}

/* Fills slots; the bytes read ahead of one are the first of the next. */
static void *read_main(void *arg)
{
    struct run *run = arg;
    const struct hpl_stream *stream = run->stream;
    struct hpl_call call = {0};
    const uint8_t *ahead = NULL;
    for (unsigned i = 0;; i = (i + 1) % NUM_SLOTS) {
        struct slot *slot = &run->slots[i];
        size_t got = 0, wanted = stream->chunk_len + stream->ahead_len;
        if (!wait_for(run, slot, SLOT_EMPTY))
            return NULL;
        if (ahead) {
            memcpy(slot->in, ahead, stream->ahead_len);
            got = stream->ahead_len;
        }
        enum hpl_status status = read_up_to(&call, run, slot->in, wanted, &got);
        if (status != HPL_OK) {
            set_failed(run, status, &call);
            return NULL;
        }
        slot->is_last = got < wanted;
        slot->in_len = slot->is_last ? got : stream->chunk_len;
        ahead = slot->in + stream->chunk_len; /* nobody else writes there, and this slot is filled again only after the next */
        bool is_last = slot->is_last;
        set_state(run, slot, SLOT_FULL);
        if (is_last)
            return NULL;
    }
}

static void *write_main(void *arg)
{
    struct run *run = arg;
    struct hpl_call call = {0};
    for (unsigned i = 0;; i = (i + 1) % NUM_SLOTS) {
        struct slot *slot = &run->slots[i];
        if (!wait_for_turned(run, slot))
            return NULL;
        bool is_last = slot->is_last;
        enum hpl_status status = hpl_file_write_all(&call, run->stream->out, slot->out, slot->out_len, run->stream->out_name);
        if (status != HPL_OK)
            set_failed(run, status, &call);
        if (status != HPL_OK || is_last)
            return NULL;
        set_state(run, slot, SLOT_EMPTY);
    }
}

static void show_progress(const struct hpl_stream *stream, uint64_t done, uint64_t since_ns, uint64_t *next_ns)
{
    uint64_t now = hpl_clock_mono_ns();
    if (!stream->doing || now < *next_ns)
        return;
    *next_ns = now + BAR_EVERY_NS;
    char bar[21] = "....................";
    double seconds = (double)(now - since_ns) / 1e9, share = stream->total_len ? (double)done / (double)stream->total_len : 0;
    for (unsigned i = 0; i < 20 && (double)i < 20 * share; i++)
        bar[i] = '#';
    if (stream->total_len)
        fprintf(stderr, "\r\033[K%s [%s] %3.0f%%  ", stream->doing, bar, share > 1 ? 100 : 100 * share);
    else
        fprintf(stderr, "\r\033[K%s ", stream->doing);
    fprintf(stderr, "%llu MiB, %.0f MiB/s", (unsigned long long)(done >> 20), (double)(done >> 20) / seconds);
    fflush(stderr);
}

static void turn_all(struct run *run)
{
    const struct hpl_stream *stream = run->stream;
    uint64_t done = 0, since_ns = hpl_clock_mono_ns(), first_ns = since_ns + 3 * BAR_EVERY_NS, next_ns = first_ns;
    bool is_last = false;
    for (unsigned i = 0; !is_last; i = (i + 1) % NUM_SLOTS) {
        struct slot *slot = &run->slots[i];
        struct hpl_call call = {0};
        if (!wait_for(run, slot, SLOT_FULL))
            break;
        is_last = slot->is_last;
        enum hpl_status status = stream->turn(&call, stream->arg, slot->in, slot->in_len, is_last, slot->out, &slot->out_len);
        if (status != HPL_OK) {
            set_failed(run, status, &call);
            break;
        }
        done += slot->in_len;
        set_state(run, slot, SLOT_TURNED);
        show_progress(stream, done, since_ns, &next_ns);
    }
    if (next_ns != first_ns)
        fprintf(stderr, "\r\033[K");
    pthread_mutex_lock(&run->lock);
    run->has_turned_all = true;
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->lock);
}

static size_t whole_pages(size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (len + page - 1) / page * page;
}

/* All slots in one mapping, locked where the system lets it: plaintext passes through. */
static enum hpl_status map_slots(struct hpl_call *call, struct run *run)
{
    size_t in_len = whole_pages(run->stream->chunk_len + run->stream->ahead_len), out_len = whole_pages(run->stream->out_max);
    run->buffers_len = NUM_SLOTS * (in_len + out_len);
    run->buffers = mmap(NULL, run->buffers_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (run->buffers == MAP_FAILED)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for %zu MiB of buffers", run->buffers_len >> 20);
    madvise(run->buffers, run->buffers_len, MADV_DONTDUMP);
    (void)mlock(run->buffers, run->buffers_len);
    for (unsigned i = 0; i < NUM_SLOTS; i++) {
        run->slots[i].in = run->buffers + i * (in_len + out_len);
        run->slots[i].out = run->slots[i].in + in_len;
    }
    return HPL_OK;
}

static void run_threads(struct run *run)
{
    pthread_t reader, writer;
    struct hpl_call call = {0};
    int error = pthread_create(&reader, NULL, read_main, run);
    bool has_reader = error == 0;
    if (error == 0)
        error = pthread_create(&writer, NULL, write_main, run);
    if (error)
        set_failed(run, hpl_fail(&call, HPL_UNAVAILABLE, "a thread cannot start: %s", strerror(error)), &call);
    else {
        turn_all(run);
        pthread_join(writer, NULL);
    }
    if (has_reader)
        pthread_join(reader, NULL);
}

enum hpl_status hpl_stream_run(struct hpl_call *call, const struct hpl_stream *stream)
{
    HPL_CHECK(stream->ahead_len > 0 && stream->ahead_len <= HPL_STREAM_AHEAD_MAX && stream->ahead_len <= stream->chunk_len);
    struct run run = {.stream = stream, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    HPL_TRY(map_slots(call, &run));
    run.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run.wake < 0)
        run.status = hpl_file_error(&run.call, "cannot open", "an event counter");
    else
        run_threads(&run);
    if (run.wake >= 0)
        close(run.wake);
    hpl_wipe(run.buffers, run.buffers_len);
    munmap(run.buffers, run.buffers_len);
    return run.status == HPL_OK ? HPL_OK : hpl_fail(call, run.status, "%s", hpl_detail(&run.call, run.status));
}
