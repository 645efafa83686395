/* Work is taken, not dealt out: whoever is free takes the next chunk, and a piece of work is done when its
 * chunks are, not when all threads have come by. So a thread that the system keeps from running holds nobody
 * up, unless it has a chunk in hand; that matters where several processes share few cores.
 *
 * Threads without work look for some for a short while, as the next piece comes within microseconds, and
 * then sleep.
 */
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#define PATIENCE_NS 50000
#define LOOKS 32 /* between two looks at the clock */

struct threads {
    _Atomic uint64_t ticket; /* chunks of the current work << 32 | the next one to take; may run over */
    _Atomic int64_t done;    /* chunks */
    work *work;              /* this and the next are read by those who hold a chunk, and no one else */
    void *context;
    _Atomic int sleepers;
    _Atomic bool closing;
    pthread_mutex_t lock; /* held to fall asleep and to wake the sleepers */
    pthread_cond_t woken;
    int helpers;
    struct helper {
        struct threads *team;
        pthread_t thread;
        int number;
    } helper[];
};

static bool untaken(uint64_t ticket) { return (uint32_t)ticket < ticket >> 32; }

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Take and compute chunks until none is left. */
static void take_chunks(struct threads *team, int number) {
    while (untaken(atomic_load_explicit(&team->ticket, memory_order_relaxed))) {
        uint64_t ticket = atomic_fetch_add_explicit(&team->ticket, 1, memory_order_acquire);
        if (!untaken(ticket)) return;
        team->work(team->context, (uint32_t)ticket, number);
        atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
    }
}

/* Wait for work; false: there will be none. */
static bool await_work(struct threads *team) {
    int64_t patience = now_ns() + PATIENCE_NS;
    do {
        for (int look = 0; look < LOOKS; look++) {
            if (untaken(atomic_load_explicit(&team->ticket, memory_order_relaxed))) return true;
            relax();
        }
    } while (now_ns() < patience);
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->sleepers, 1);
    while (!team->closing && !untaken(atomic_load(&team->ticket)))
        pthread_cond_wait(&team->woken, &team->lock);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->lock);
    return !team->closing;
}

static void *help(void *argument) {
    struct helper *self = argument;
    while (await_work(self->team)) take_chunks(self->team, self->number);
    return NULL;
}

static void wake(struct threads *team) {
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->woken);
    pthread_mutex_unlock(&team->lock);
}

struct threads *start_threads(int count) {
    int helpers = count - 1;
    struct threads *team = calloc(1, sizeof *team + (size_t)helpers * sizeof team->helper[0]);
    if (!team) return NULL;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->woken, NULL);
    for (; team->helpers < helpers; team->helpers++) {
        struct helper *helper = &team->helper[team->helpers];
        *helper = (struct helper){.team = team, .number = team->helpers + 1};
        if (pthread_create(&helper->thread, NULL, help, helper)) {
            stop_threads(team);
            return NULL;
        }
    }
    return team;
}

void stop_threads(struct threads *team) {
    if (!team) return;
    team->closing = true;
    wake(team);
    for (int i = 0; i < team->helpers; i++) pthread_join(team->helper[i].thread, NULL);
    pthread_cond_destroy(&team->woken);
    pthread_mutex_destroy(&team->lock);
    free(team);
}

void share(struct threads *team, work *work, void *context, int64_t count) {
    if (!team || count == 1) {
        for (int64_t chunk = 0; chunk < count; chunk++) work(context, chunk, 0);
        return;
    }
    team->work = work;
    team->context = context;
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    /* This store and the load of `sleepers` are ordered as are the two of a thread that falls asleep: either
     * it sees the work, or its sleep is seen here. */
    atomic_store(&team->ticket, (uint64_t)count << 32);
    if (atomic_load(&team->sleepers)) wake(team);
    take_chunks(team, 0);
    while (atomic_load_explicit(&team->done, memory_order_acquire) < count) {
        for (int look = 0; look < LOOKS; look++) {
            if (atomic_load_explicit(&team->done, memory_order_acquire) == count) return;
            relax();
        }
        sched_yield(); /* to whoever holds the last chunk, if it waits for this core */
    }
}
