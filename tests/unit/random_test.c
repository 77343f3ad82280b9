/* Is every random byte given once, in every thread and never to a child? */
#include "tests/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"

#define NUM_THREADS 4u
#define DRAWS 20000u

struct draw {
    uint8_t bytes[16];
};

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct draw));
}

static void *draw_many(void *arg)
{
    struct draw *draws = arg;
    for (size_t i = 0; i < DRAWS; i++)
        HPL_CHECK(hpl_random(draws[i].bytes, sizeof draws[i].bytes));
    return NULL;
}

HPL_TEST(no_two_draws_are_alike_in_any_thread)
{
    struct draw *draws = calloc(NUM_THREADS * DRAWS, sizeof *draws);
    pthread_t threads[NUM_THREADS];
    size_t num_alike = 0;
    for (size_t i = 0; i < NUM_THREADS; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, draw_many, draws + i * DRAWS), 0);
    for (size_t i = 0; i < NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    qsort(draws, NUM_THREADS * DRAWS, sizeof *draws, compare);
    for (size_t i = 1; i < NUM_THREADS * DRAWS; i++)
        num_alike += compare(&draws[i], &draws[i - 1]) == 0;
    EXPECT_NUM(num_alike, 0);
    free(draws);
}

HPL_TEST(a_draw_of_any_length_fills_all_of_it)
{
    uint8_t bytes[2000];
    for (size_t len = 1; len <= sizeof bytes; len = len * 2 + 1) {
        bool was_set[sizeof bytes] = {false};
        for (int round = 0; round < 40; round++) { /* a byte stays zero in all rounds once in 2^320 */
            memset(bytes, 0, sizeof bytes);
            EXPECT(hpl_random(bytes, len));
            for (size_t i = 0; i < len; i++)
                was_set[i] |= bytes[i] != 0;
            EXPECT(len == sizeof bytes || bytes[len] == 0);
        }
        size_t num_set = 0;
        for (size_t i = 0; i < len; i++)
            num_set += was_set[i];
        EXPECT_NUM(num_set, len);
    }
}

static void *draw_one(void *arg)
{
    HPL_CHECK(hpl_random(arg, 1));
    return NULL;
}

HPL_TEST(the_stock_of_a_thread_is_not_counted_and_goes_with_it)
{
    uint8_t byte;
    size_t before = hpl_secret_in_use();
    for (int i = 0; i < 2000; i++) { /* more than the region has room for, were they not given back */
        pthread_t thread;
        EXPECT_NUM(pthread_create(&thread, NULL, draw_one, &byte), 0);
        pthread_join(thread, NULL);
    }
    EXPECT_NUM(hpl_secret_in_use(), before);
}

HPL_TEST(a_child_has_no_share_in_the_stock)
{
    uint8_t bytes[16];
    int result = 0;
    EXPECT(hpl_random(bytes, sizeof bytes));
    pid_t pid = fork();
    if (pid == 0) {
        fclose(stderr);
        bool is_given = hpl_random(bytes, sizeof bytes);
        _exit(is_given ? 42 : 43);
    }
    EXPECT_NUM(waitpid(pid, &result, 0), pid);
    EXPECT(WIFSIGNALED(result));
}

HPL_TEST(no_two_requests_have_one_name)
{
    struct hpl_call call;
    char (*names)[17] = calloc(DRAWS, sizeof *names);
    size_t num_alike = 0;
    for (size_t i = 0; i < DRAWS; i++) {
        hpl_call_init(&call, 0);
        memcpy(names[i], call.request_id, sizeof call.request_id);
        EXPECT_NUM(strlen(names[i]), 16);
    }
    qsort(names, DRAWS, sizeof *names, (int (*)(const void *, const void *))strcmp);
    for (size_t i = 1; i < DRAWS; i++)
        num_alike += strcmp(names[i], names[i - 1]) == 0;
    EXPECT_NUM(num_alike, 0);
    free(names);
}
