/* The S3 surface over a socket, where the secret region can be filled to the byte: is what asked for encryption stored encrypted or not at all,
 * and is a list of deletions believed only when something vouches for it? */
#include "tests/test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "s3/s3.h"

#define CUSTOMER "x-amz-server-side-encryption-customer-"
#define MAX_HEADERS 10u

static const char marker[] = "sixty-four bytes that are looked for on the disk and never found";

struct house {
    char path[300], data[320];
    struct hpl_secret *root, *secret_key;
    struct hpl_catalog *catalog;
    struct hpl_auth *auth;
    struct hpl_work *work;
    struct hpl_s3 *s3;
    struct hpl_http_server *server;
};

static void open_house(struct house *house, const char *name)
{
    struct hpl_call call = {0};
    *house = (struct house){.root = hpl_secret_random(32), .secret_key = hpl_secret_from("a-secret-for-this-test", 22)};
    hpl_log_set_level(HPL_LOG_SILENT);
    snprintf(house->path, sizeof house->path, "%s/%s.db", hpl_test_dir(), name);
    snprintf(house->data, sizeof house->data, "%s/%s", hpl_test_dir(), name);
    EXPECT_OK(hpl_catalog_open(&call, &house->catalog, house->path, house->root));
    EXPECT_OK(hpl_auth_open(&call, &house->auth, house->catalog));
    EXPECT_OK(hpl_auth_put_credential(&call, house->auth, "tester", house->secret_key, HPL_ROLE_OBJECTS));
    EXPECT_OK(hpl_work_start(&call, &house->work, 1));
    const struct hpl_s3_options options = {.data_dir = house->data, .region = "us-east-1", .auth = house->auth, .root = house->root, .work = house->work};
    EXPECT_OK(hpl_s3_open(&call, &house->s3, &options));
    const struct hpl_http_route routes[] = {{"/", &hpl_s3_handler, house->s3, HPL_HTTP_POOL_BULK, hpl_s3_fail}};
    const struct hpl_http_options serve = {.listen = "127.0.0.1:0", .num_io_threads = 1, .num_jobs = {1, 8}, .routes = routes, .num_routes = 1};
    EXPECT_OK(hpl_http_start(&call, &house->server, &serve));
}

static void close_house(struct house *house)
{
    hpl_http_stop(house->server, 5000);
    hpl_s3_close(house->s3);
    hpl_work_stop(house->work);
    hpl_auth_close(house->auth);
    hpl_catalog_close(house->catalog);
    hpl_secret_free(house->root);
    hpl_secret_free(house->secret_key);
}

/* --- a client -------------------------------------------------------------------------------------------------------------- */

struct ask {
    const char *method, *path, *query, *body;
    const char *more[4][2];  /* headers */
    const char *sha256;      /* NULL: that of the body */
    void (*before_body)(void); /* NULL: the body goes with the head; else it waits for 100 Continue, and this runs first */
    char answer[8192];
};

static struct hpl_bytes text_of(const char *text)
{
    return hpl_bytes_str(text ? text : "");
}

static int connect_to(const struct house *house)
{
    const char *address = hpl_http_address(house->server);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    return fd;
}

static void send_all(int fd, struct hpl_bytes bytes)
{
    EXPECT(send(fd, bytes.data, bytes.len, MSG_NOSIGNAL) == (ssize_t)bytes.len);
}

/* Up to size - 1 bytes of the answer, or its interim head only. */
static void receive(int fd, char *answer, size_t size, bool is_interim)
{
    size_t got = 0;
    for (ssize_t n; got + 1 < size && (n = recv(fd, answer + got, size - 1 - got, 0)) > 0;) {
        got += (size_t)n;
        answer[got] = '\0';
        if (is_interim && strcmp(answer, "HTTP/1.1 100 Continue\r\n\r\n") == 0)
            break;
    }
    answer[got] = '\0';
}

static void exchange_bytes(const struct house *house, struct ask *ask, const struct hpl_buf *head)
{
    int fd = connect_to(house);
    bool may_send = true;
    send_all(fd, hpl_buf_bytes(head));
    if (ask->before_body) {
        receive(fd, ask->answer, sizeof ask->answer, true);
        may_send = strncmp(ask->answer, "HTTP/1.1 100", 12) == 0;
        ask->before_body();
    }
    if (may_send) {
        send_all(fd, text_of(ask->body));
        receive(fd, ask->answer, sizeof ask->answer, false);
    }
    close(fd);
}

/* The status of a signed request's answer. */
static int ask(struct house *house, struct ask *ask)
{
    char hex[65], date[20], length[20];
    uint8_t hash[32];
    time_t now = time(NULL);
    struct tm tm;
    struct hpl_buf authorization = {0}, head = {0};
    struct hpl_bytes body = text_of(ask->body);
    hpl_sha256(hash, body.data, body.len);
    hpl_hex_encode(hex, hash, sizeof hash);
    strftime(date, sizeof date, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
    snprintf(length, sizeof length, "%zu", body.len);
    struct hpl_sigv4_header headers[MAX_HEADERS] = {
        {text_of("host"), text_of(hpl_http_address(house->server))}, {text_of("x-amz-date"), text_of(date)},
        {text_of("x-amz-content-sha256"), text_of(ask->sha256 ? ask->sha256 : hex)}, {text_of("content-length"), text_of(length)}, {text_of("connection"), text_of("close")}};
    size_t count = 5;
    if (ask->before_body)
        headers[count++] = (struct hpl_sigv4_header){text_of("expect"), text_of("100-continue")};
    for (size_t i = 0; i < 4 && ask->more[i][0]; i++)
        headers[count++] = (struct hpl_sigv4_header){text_of(ask->more[i][0]), text_of(ask->more[i][1])};
    const struct hpl_sigv4_request request = {text_of(ask->method), text_of(ask->path), text_of(ask->query), headers, count};
    EXPECT_OK(hpl_sigv4_sign(NULL, &request, "tester", house->secret_key, "us-east-1", "s3", &authorization));
    hpl_buf_printf(&head, "%s %s%s%s HTTP/1.1\r\n", ask->method, ask->path, ask->query ? "?" : "", ask->query ? ask->query : "");
    for (size_t i = 0; i < count; i++)
        hpl_buf_printf(&head, "%.*s: %.*s\r\n", (int)headers[i].name.len, (const char *)headers[i].name.data, (int)headers[i].value.len, (const char *)headers[i].value.data);
    hpl_buf_printf(&head, "Authorization: %.*s\r\n\r\n", (int)authorization.len, (const char *)authorization.data);
    exchange_bytes(house, ask, &head);
    hpl_buf_wipe(&head);
    hpl_buf_wipe(&authorization);
    return strlen(ask->answer) > 12 ? atoi(ask->answer + 9) : 0;
}

static void create_bucket(struct house *house)
{
    struct ask make = {.method = "PUT", .path = "/bucket"};
    EXPECT_NUM(ask(house, &make), 200);
}

/* --- a full secret region -------------------------------------------------------------------------------------------------- */

#define MAX_TAKEN 100000u

static struct hpl_secret **taken;
static size_t num_taken;

/* Everything from the largest blocks to the smallest; then num_free of those that one key takes are given back. */
static void fill_region(size_t num_free)
{
    for (size_t len = HPL_SECRET_MAX; len >= 32; len /= 2)
        for (struct hpl_secret *one; num_taken < MAX_TAKEN && (one = hpl_secret_new(len)); num_taken++)
            taken[num_taken] = one;
    EXPECT(num_taken > num_free && num_taken < MAX_TAKEN);
    for (size_t i = 0; i < num_free; i++)
        hpl_secret_free(taken[--num_taken]);
}

static void empty_region(void)
{
    while (num_taken)
        hpl_secret_free(taken[--num_taken]);
}

static bool lies_on_disk(const struct house *house)
{
    bool is_there = false;
    for (unsigned i = 0; i < 256; i++) {
        char folder[400], path[700];
        snprintf(folder, sizeof folder, "%s/objects/%02x", house->data, i);
        DIR *dir = opendir(folder);
        EXPECT(dir != NULL);
        for (struct dirent *entry; (entry = readdir(dir));) {
            struct hpl_buf data = {0};
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            if (entry->d_name[0] != '.' && hpl_file_read(NULL, path, 1 << 20, &data) == HPL_OK)
                is_there |= data.len && memmem(data.data, data.len, marker, sizeof marker - 1) != NULL;
            hpl_buf_wipe(&data);
        }
        closedir(dir);
    }
    return is_there;
}

#define WITH_CUSTOMER_KEY {{CUSTOMER "algorithm", "AES256"}, {CUSTOMER "key", key}, {CUSTOMER "key-MD5", md5}}

static void make_customer_key(char key[static 64], char md5[static 64])
{
    uint8_t bytes[32] = {1, 2, 3}, digest[32];
    struct hpl_hash hash;
    struct hpl_buf text = {0};
    hpl_base64_put(&text, bytes, sizeof bytes);
    snprintf(key, 64, "%s", hpl_buf_text(&text));
    hpl_buf_wipe(&text);
    EXPECT_OK(hpl_hash_init(&hash, "MD5"));
    hpl_hash_update(&hash, bytes, sizeof bytes);
    hpl_hash_final(&hash, digest);
    hpl_base64_put(&text, digest, 16);
    snprintf(md5, 64, "%s", hpl_buf_text(&text));
    hpl_buf_wipe(&text);
}

HPL_TEST(an_object_under_a_customer_key_is_refused_where_the_secret_region_is_full)
{
    struct house house;
    char key[64], md5[64];
    open_house(&house, "full");
    create_bucket(&house);
    make_customer_key(key, md5);
    taken = calloc(MAX_TAKEN, sizeof *taken);
    for (size_t num_free = 0; num_free < 8; num_free++) { /* the part's own key takes a larger block: never enough */
        struct ask put = {.method = "PUT", .path = "/bucket/customer", .body = marker, .before_body = empty_region, .more = WITH_CUSTOMER_KEY};
        fill_region(num_free);
        int status = ask(&house, &put); /* by the time the body comes there is room again */
        EXPECT(status >= 500);
        EXPECT(!lies_on_disk(&house));
    }
    struct ask put = {.method = "PUT", .path = "/bucket/customer", .body = marker, .more = WITH_CUSTOMER_KEY};
    EXPECT_NUM(ask(&house, &put), 200);
    EXPECT(!lies_on_disk(&house));
    struct ask plain = {.method = "PUT", .path = "/bucket/plain", .body = marker};
    EXPECT_NUM(ask(&house, &plain), 200);
    EXPECT(lies_on_disk(&house)); /* the search finds what is there */
    close_house(&house);
    free(taken);
}

/* --- many deletions -------------------------------------------------------------------------------------------------------- */

static const char deletions[] = "<Delete><Object><Key>k</Key></Object></Delete>";

HPL_TEST(a_list_of_deletions_needs_a_signed_body_or_a_checksum)
{
    struct house house;
    struct hpl_hash hash;
    uint8_t digest[32];
    struct hpl_buf md5 = {0}, sha = {0};
    open_house(&house, "deletions");
    create_bucket(&house);
    struct ask bare = {.method = "POST", .path = "/bucket", .query = "delete=", .body = deletions, .sha256 = "UNSIGNED-PAYLOAD"};
    EXPECT_NUM(ask(&house, &bare), 400);
    EXPECT(strstr(bare.answer, "Content-MD5 or a checksum is needed") != NULL);
    struct ask hashed = {.method = "POST", .path = "/bucket", .query = "delete=", .body = deletions};
    EXPECT_NUM(ask(&house, &hashed), 200);
    EXPECT_OK(hpl_hash_init(&hash, "MD5"));
    hpl_hash_update(&hash, deletions, strlen(deletions));
    hpl_hash_final(&hash, digest);
    hpl_base64_put(&md5, digest, 16);
    struct ask with_md5 = {.method = "POST", .path = "/bucket", .query = "delete=", .body = deletions, .sha256 = "UNSIGNED-PAYLOAD", .more = {{"Content-MD5", hpl_buf_text(&md5)}}};
    EXPECT_NUM(ask(&house, &with_md5), 200);
    hpl_sha256(digest, deletions, strlen(deletions));
    hpl_base64_put(&sha, digest, 32);
    struct ask with_sha = {.method = "POST", .path = "/bucket", .query = "delete=", .body = deletions, .sha256 = "UNSIGNED-PAYLOAD",
                           .more = {{"x-amz-checksum-sha256", hpl_buf_text(&sha)}}};
    EXPECT_NUM(ask(&house, &with_sha), 200);
    struct ask wrong = {.method = "POST", .path = "/bucket", .query = "delete=", .body = "<Delete><Object><Key>other</Key></Object></Delete>", .sha256 = "UNSIGNED-PAYLOAD",
                        .more = {{"x-amz-checksum-sha256", hpl_buf_text(&sha)}}};
    EXPECT_NUM(ask(&house, &wrong), 400);
    hpl_buf_wipe(&md5);
    hpl_buf_wipe(&sha);
    close_house(&house);
}

/* --- one new name, many writers -------------------------------------------------------------------------------------------- */

#define NUM_WRITERS 8u

static pthread_barrier_t all_are_there;

static void wait_for_all(void)
{
    pthread_barrier_wait(&all_are_there);
}

struct writer {
    struct house *house;
    const char *path;
    int status;
};

static void *write_new(void *arg)
{
    struct writer *writer = arg;
    struct ask put = {.method = "PUT", .path = writer->path, .body = "x", .before_body = wait_for_all, .more = {{"if-none-match", "*"}}};
    writer->status = ask(writer->house, &put);
    return NULL;
}

HPL_TEST(of_many_writers_of_a_new_name_exactly_one_wins)
{
    struct house house;
    open_house(&house, "once");
    create_bucket(&house);
    EXPECT(pthread_barrier_init(&all_are_there, NULL, NUM_WRITERS) == 0);
    for (unsigned turn = 0; turn < 50; turn++) {
        pthread_t threads[NUM_WRITERS];
        struct writer writers[NUM_WRITERS];
        unsigned num_won = 0, num_refused = 0;
        char path[40];
        snprintf(path, sizeof path, "/bucket/%u", turn);
        for (unsigned i = 0; i < NUM_WRITERS; i++) {
            writers[i] = (struct writer){&house, path, 0};
            EXPECT(pthread_create(&threads[i], NULL, write_new, &writers[i]) == 0);
        }
        for (unsigned i = 0; i < NUM_WRITERS; i++) {
            pthread_join(threads[i], NULL);
            num_won += writers[i].status == 200;
            num_refused += writers[i].status == 412;
        }
        EXPECT_NUM(num_won, 1);
        EXPECT_NUM(num_refused, NUM_WRITERS - 1);
    }
    pthread_barrier_destroy(&all_are_there);
    close_house(&house);
}

/* --- a bad header ---------------------------------------------------------------------------------------------------------- */

HPL_TEST(an_encryption_context_that_is_not_base64_is_refused)
{
    struct house house;
    open_house(&house, "context");
    create_bucket(&house);
    struct ask put = {.method = "PUT", .path = "/bucket/k", .body = marker,
                      .more = {{"x-amz-server-side-encryption", "aws:kms"}, {"x-amz-server-side-encryption-context", "e30aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}}};
    EXPECT_NUM(ask(&house, &put), 400); /* under AddressSanitizer also: nothing of it stays */
    EXPECT(strstr(put.answer, "must be JSON, plain or in Base64") != NULL);
    close_house(&house);
}
