/* A few threads that share the chunks of one piece of work after another. */
#ifndef WEFT_THREADS_H
#define WEFT_THREADS_H

#include <stdint.h>

struct threads;

/* Computes one chunk; `thread` counts from 0, the caller of `share`, and is below the number of threads. */
typedef void work(void *context, int64_t chunk, int thread);

/* `count` threads, the caller of `share` among them; NULL if they cannot be had. */
struct threads *start_threads(int count);

void stop_threads(struct threads *threads);

/* Compute the chunks 0..count-1, and return when all are done; `threads` may be NULL: the caller alone. */
void share(struct threads *threads, work *work, void *context, int64_t count);

#endif
