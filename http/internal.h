/* What the files of http/ share: server, I/O thread, connection, exchange, and who may touch what. A connection has one owner,
 * its I/O thread or one job; it changes hands through a pool's queue or an I/O thread's inbox, and only its owner touches it. */
#ifndef HPL_HTTP_INTERNAL_H
#define HPL_HTTP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "http/body.h"
#include "http/head.h"
#include "http/http.h"
#include "http/jobs.h"
#include "http/link.h"
#include "http/listen.h"
#include "http/timer.h"

#define HPL_HTTP_BLOCK (1u << 20)

/* Page-aligned buffers of 1 MiB, kept for the next transfer, shared by all threads of a server. */
struct hpl_http_blocks {
    pthread_mutex_t lock;
    unsigned num_free;
    uint8_t *free[32];
};
uint8_t *hpl_http_block_take(struct hpl_http_blocks *blocks); /* NULL when memory is out */
void hpl_http_block_give(struct hpl_http_blocks *blocks, uint8_t *block, size_t used); /* wipes what was used */

/* Bytes that were read and not yet parsed: data[start..end). */
struct hpl_http_input {
    uint8_t *data;
    size_t start, end, cap, used; /* used: the furthest end, to be wiped */
};

size_t hpl_http_input_len(const struct hpl_http_input *in);
/* Room for want bytes (1 MiB at most) counted from start; what is there stays. False when memory is out. */
bool hpl_http_input_reserve(struct hpl_http_blocks *blocks, struct hpl_http_input *in, size_t want);
/* Reads once, at most max bytes for which room was reserved; results as hpl_link_read. */
ssize_t hpl_http_input_read(struct hpl_http_input *in, struct hpl_link *link, size_t max);
void hpl_http_input_wipe(struct hpl_http_blocks *blocks, struct hpl_http_input *in);

/* Bytes to write: first the text (heads, short bodies), then the block. */
struct hpl_http_output {
    struct hpl_buf text;
    size_t text_at;
    uint8_t *block;
    size_t block_at, block_len, block_used; /* used: the most it ever held, to be wiped */
};

enum hpl_http_state { HPL_STATE_HANDSHAKE, HPL_STATE_HEAD, HPL_STATE_JOB, HPL_STATE_BODY, HPL_STATE_WRITE, HPL_STATE_DRAIN,
                      HPL_STATE_OVER };

struct hpl_http_connection {
    struct hpl_http_io *io;
    struct hpl_link link;
    enum hpl_http_state state;
    bool is_registered;                /* with epoll */
    bool is_last;                      /* no further request after this answer */
    bool needs_drain;                  /* the client may still be sending: close gently */
    bool is_answered;                  /* a request was, just now */
    struct hpl_timer timer;
    uint64_t since_ns;                 /* first byte of the head, or of the body's reading */
    uint64_t given_ns;                 /* when a job took over */
    uint64_t num_read;                 /* bytes of the body since then; or drained */
    struct hpl_http_input in;
    struct hpl_http_output out;
    struct hpl_http_exchange *exchange; /* NULL between requests */
    struct hpl_http_connection *previous, *next; /* all of the I/O thread's */
    struct hpl_http_connection *inbox_next;
    unsigned num_quick;                /* requests in a row that its I/O thread answered itself */
    bool is_loopback, is_unix;
    char peer[64];
    _Atomic unsigned *address_count;   /* connections of this peer; NULL: not counted */
};

enum hpl_http_phase {
    HPL_PHASE_HEAD,    /* the head is not whole yet */
    HPL_PHASE_BEGIN,
    HPL_PHASE_BODY,
    HPL_PHASE_END,     /* the body is whole and right */
    HPL_PHASE_ANSWER,  /* answered; bytes are on their way out */
    HPL_PHASE_DEAD,    /* the connection is broken, or must be: only finish is left */
    HPL_PHASE_OVER     /* finish ran */
};

struct hpl_http_exchange {
    struct hpl_job job;
    struct hpl_http_connection *connection;
    const struct hpl_http_route *route;
    struct hpl_http_head head;
    struct hpl_http_input head_in;    /* what head's views point into */
    struct hpl_http_request request;
    struct hpl_call call;
    char access_key[HPL_ACCESS_KEY_MAX + 1];
    _Atomic unsigned *credential_count; /* requests of this access key; NULL: not counted */
    void *data;
    enum hpl_http_phase phase;
    enum hpl_status failure;          /* found by the core; the route's fail answers it */
    bool is_begun, is_sent;
    bool is_quick;                    /* its steps run on the I/O thread */
    bool is_put_off;                  /* and this one could not */
    bool has_body, is_whole, is_reading;
    struct hpl_body body;
    struct hpl_buf whole;
    int status;
    bool is_answered, is_head_due;    /* head due: goes out with the first bytes of a stream */
    struct hpl_buf headers;
    uint64_t num_left;                /* bytes still to be produced */
    uint64_t num_body;                /* bytes of the answer's body, for the log */
    uint64_t started_ns;
};

struct hpl_http_io {
    struct hpl_http_server *server;
    pthread_t thread;
    bool is_started;
    int epoll_fd, event_fd;
    struct hpl_timers timers;
    struct hpl_http_connection *all;
    pthread_mutex_t lock;                 /* inbox */
    struct hpl_http_connection *inbox;
    _Atomic uint64_t connections, requests, bytes_in, bytes_out, refused;
    _Atomic uint64_t num_rounds;          /* of its loop */
    uint64_t seen_rounds, seen_ns;        /* the last time that there were more of them; whoever asks whether it is alive */
};

/* What each name, an address or an access key, has in use of its share. By salted hash: two names that fall on one slot share the limit. */
struct hpl_http_shares {
    uint32_t salt;
    _Atomic unsigned taken[4096];
};
/* One more for that name: its count, to be taken down again by one; NULL when most are in use. Any thread. */
_Atomic unsigned *hpl_http_take_share(struct hpl_http_shares *shares, const char *name, unsigned most);

struct hpl_http_server {
    struct hpl_http_options options;      /* with the defaults filled in; texts are copies */
    struct hpl_http_route *routes;
    struct hpl_http_listener listener;
    int spare_fd;
    pthread_mutex_t tls_lock;
    SSL_CTX *tls;
    struct hpl_http_blocks blocks;
    struct hpl_pool *pools[HPL_HTTP_NUM_POOLS];
    struct hpl_http_io *ios;
    unsigned num_ios, next_io;
    _Atomic unsigned num_open;
    struct hpl_http_shares addresses, credentials;
    atomic_bool is_stopping;              /* no new requests */
    atomic_bool is_ending;                /* nothing more at all */
};

/* io.c */
enum hpl_status hpl_http_io_start(struct hpl_call *call, struct hpl_http_io *io) HPL_MUST_USE;
void hpl_http_io_stop(struct hpl_http_io *io);
/* Hands a connection to its I/O thread. Any owner. */
void hpl_http_io_post(struct hpl_http_connection *connection);
void hpl_http_io_wake(struct hpl_http_io *io);
/* Whether its loop went round since this was last asked, or that is less than stall_ns ago; wakes it, so that it does. One thread at a time. */
bool hpl_http_io_is_alive(struct hpl_http_io *io, uint64_t stall_ns);
/* Waits for what link.wants says, until deadline_ns. I/O thread. False when epoll refuses. */
bool hpl_http_io_arm(struct hpl_http_connection *connection, uint64_t deadline_ns) HPL_MUST_USE;

/* connection.c: I/O thread, but for new */
struct hpl_http_connection *hpl_http_connection_new(struct hpl_http_io *io, int fd); /* NULL: no memory, or too many of its address */
void hpl_http_connection_enter(struct hpl_http_connection *connection);   /* from the inbox: new, or back from a job */
void hpl_http_connection_wake(struct hpl_http_connection *connection);    /* epoll has something */
void hpl_http_connection_expire(struct hpl_http_connection *connection);  /* the deadline passed */
void hpl_http_connection_wind_up(struct hpl_http_connection *connection); /* the server stops */

/* exchange.c */
struct hpl_http_exchange *hpl_http_exchange_new(struct hpl_http_connection *connection);
void hpl_http_exchange_free(struct hpl_http_exchange *exchange);
/* The head is whole: fills in the request. False when no route takes it. */
bool hpl_http_exchange_open(struct hpl_http_exchange *exchange);
/* The job: one step of the exchange, then the connection goes back to its I/O thread. */
void hpl_http_exchange_run(struct hpl_job *job);
/* The same on the I/O thread, for a quick exchange, and the connection stays here. False: it was given to a job after all. */
bool hpl_http_exchange_run_here(struct hpl_http_exchange *exchange);
/* Answers exchange->failure in the route's form. */
void hpl_http_exchange_fail(struct hpl_http_exchange *exchange);

/* answer.c: the owner */
/* Status line and headers into the output, where they are due. */
void hpl_http_put_due_head(struct hpl_http_exchange *exchange);
/* 1 when everything was handed to the socket, HPL_LINK_AGAIN or HPL_LINK_BROKEN. */
int hpl_http_flush(struct hpl_http_connection *connection);
/* A core refusal before there is a route: a small plain answer. */
void hpl_http_refusal(struct hpl_http_connection *connection, int status, const char *why);
void hpl_http_output_wipe(struct hpl_http_connection *connection);

#endif
