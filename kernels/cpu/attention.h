/* Attention of queries to keys and values that lie in the slots of a pool. */
#ifndef WEFT_ATTENTION_H
#define WEFT_ATTENTION_H

#include <stdint.h>

#include "product.h"

/* What all attention of a layer shares. */
struct heads {
    int64_t kv_heads;
    int64_t group; /* query heads of each */
    int64_t dim;
    int64_t window; /* keys that a query sees; 0: all before it */
};

/* Queries of one sequence, in some of its KV heads. */
struct queries {
    int64_t first; /* row */
    int64_t count; /* with the query heads of all `heads` at most ROW_BLOCK */
    int64_t head;  /* the first KV head */
    int64_t heads; /* how many */
    const int64_t *slots; /* of the keys of the sequence, in causal order */
};

/* How many queries of a sequence read its keys together. */
static inline int64_t queries_together(const struct heads *heads) {
    return ROW_BLOCK / heads->group;
}

/* The floats that `attend` computes with. */
int64_t attention_scratch(const struct heads *heads);

/* Attend the queries in their KV heads. What is done in one head does not depend on which others come with it.
 *
 * Rows of `q` (already scaled) and `out` are `q_stride` and `out_stride` apart, and begin with the query
 * heads. Query i sees the keys up to positions[i], as far back as the window reaches. `keys` and `values` are
 * [slots][kv_heads][dim]. A KV head has at most ROW_BLOCK query heads.
 */
void attend(const struct heads *heads, const struct queries *queries, const float *q, int64_t q_stride,
            const int64_t *positions, const float *keys, const float *values, float *out, int64_t out_stride,
            float *scratch);

#endif
