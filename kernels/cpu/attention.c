/* The softmax is taken block by block of keys, with a running maximum and sum (Milakov and Gimelshein,
 * "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022). Blocks begin at multiples
 * of PANEL positions, so what is done for a query depends on its own keys alone: it attends alike in a
 * prompt, in a chunk of it, and when it is decoded.
 */
#include "attention.h"

#include <float.h>

/* The rows of a block are its queries times the query heads of a KV head, one KV head after the other. */
struct block {
    const struct heads *heads;
    int64_t rows;   /* of one KV head; those of all are at most ROW_BLOCK */
    int64_t width;  /* floats of a padded head */
    const float *const *queries; /* [all rows] */
    const int64_t *positions;    /* of the queries of a head */
    float *keys;    /* [dim][PANEL] */
    float *values;  /* [PANEL][width] */
    float *scores;  /* [rows][PANEL]: of one KV head */
    float *sums;    /* [all rows][width]: weighted values */
    float *largest; /* [all rows] */
    float *weight;  /* [all rows]: sum of the weights */
};

static int64_t padded(int64_t dim) { return (dim + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }

int64_t attention_scratch(const struct heads *heads) {
    int64_t width = padded(heads->dim);
    return PANEL * heads->dim + PANEL * width + ROW_BLOCK * (PANEL + width + 2);
}

static struct block lay_out(const struct heads *heads, int64_t rows, int64_t all, float *scratch) {
    struct block block = {.heads = heads, .rows = rows, .width = padded(heads->dim)};
    block.keys = scratch;
    block.values = block.keys + PANEL * heads->dim;
    block.scores = block.values + PANEL * block.width;
    block.sums = block.scores + rows * PANEL;
    block.largest = block.sums + all * block.width;
    block.weight = block.largest + all;
    memset(block.sums, 0, (size_t)(all * block.width) * sizeof(float));
    memset(block.weight, 0, (size_t)all * sizeof(float));
    for (int64_t r = 0; r < all; r++) block.largest[r] = -FLT_MAX; /* finite: -inf - -inf is NaN */
    return block;
}

/* Swap rows and columns; each step swaps two quarters of squares twice the size of those before. */
ALWAYS_INLINE void transpose(vec square[LANES]) {
#if defined(__clang__)
    float rows[LANES][LANES], columns[LANES][LANES];
    memcpy(rows, square, sizeof rows);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) columns[j][i] = rows[i][j];
    memcpy(square, columns, sizeof columns);
#else
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
#pragma GCC unroll 4
    for (int half = 1; half < LANES; half *= 2) {
        ivec right = (lane & half) != 0; /* the lanes of the right half */
        ivec upper = lane + (right & (LANES - half));
        ivec lower = lane + (right & LANES) + (~right & half);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            vec above = square[i], below = square[i + half];
            square[i] = __builtin_shuffle(above, below, upper);
            square[i + half] = __builtin_shuffle(above, below, lower);
        }
    }
#endif
}

/* The first `count` numbers at `from`, zeros behind them. */
ALWAYS_INLINE vec load_some(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    vec v = {0};
    if (count > 0) memcpy(&v, from, (size_t)count * sizeof(float));
    return v;
}

/* Fetch the keys or values of several heads from slot to slot. What one head takes of them lies scattered, and
 * no hardware foresees that. */
static void fetch(const float *pool, int64_t slot_size, int64_t width, const int64_t *slots, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < width; d += 16) /* read: of so many prefetches most would be dropped */
            (void)*(const volatile float *)(pool + slots[i] * slot_size + d);
}

/* Slots are scattered, so no hardware foresees the next one. */
ALWAYS_INLINE void expect(const float *head, int64_t dim) {
    for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(head + d);
}

/* Bring the keys of a block of slots into columns; those beyond the last of `count` become zero. `left` slots
 * can be foreseen. */
static void pack_keys(const struct block *block, const float *pool, const int64_t *slots, int64_t count,
                      int64_t left) {
    int64_t dim = block->heads->dim, slot_size = block->heads->kv_heads * dim;
    for (int64_t i = PANEL; i < left && i < 2 * PANEL; i++) expect(pool + slots[i] * slot_size, dim);
    for (int64_t first = 0; first < PANEL; first += LANES)
        for (int64_t d = 0; d < dim; d += LANES) {
            vec square[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                square[i] = first + i < count
                                ? load_some(pool + slots[first + i] * slot_size + d, dim - d)
                                : (vec){0};
            transpose(square);
            float *to = block->keys + d * PANEL + first;
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (d + i < dim) store(to + i * PANEL, square[i]);
        }
}

/* Bring the values of a block of slots together, padded by zeros. */
static void pack_values(const struct block *block, const float *pool, const int64_t *slots, int64_t count,
                        int64_t left) {
    int64_t dim = block->heads->dim, slot_size = block->heads->kv_heads * dim;
    for (int64_t i = PANEL; i < left && i < 2 * PANEL; i++) expect(pool + slots[i] * slot_size, dim);
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < block->width; d += LANES)
            store(block->values + i * block->width + d, load_some(pool + slots[i] * slot_size + d, dim - d));
}

/* Turn a row's scores into weights, hiding the keys before `low` and from `high` on, both counted within the
 * block; what was summed before is brought to the new maximum. */
static void weigh(const struct block *block, int64_t row, int64_t low, int64_t high) {
    float *scores = block->scores + row * PANEL;
    for (int64_t i = 0; i < low; i++) scores[i] = -INFINITY;
    for (int64_t i = high > 0 ? high : 0; i < PANEL; i++) scores[i] = -INFINITY;
    vec largest = load(scores);
    for (int v = 1; v < TILE_VECTORS; v++) {
        vec other = load(scores + v * LANES);
        largest = choose(other > largest, other, largest);
    }
    float before = block->largest[row], now = max_lanes(largest);
    if (!(now > before)) now = before;
    vec weight = {0};
    for (int v = 0; v < TILE_VECTORS; v++) {
        vec weights = exponential(load(scores + v * LANES) - now);
        store(scores + v * LANES, weights);
        weight += weights;
    }
    if (now > before) {
        float *sums = block->sums + row * block->width, shrink = exponential(broadcast(before - now))[0];
        for (int64_t d = 0; d < block->width; d += LANES) store(sums + d, load(sums + d) * shrink);
        block->weight[row] *= shrink;
        block->largest[row] = now;
    }
    block->weight[row] += sum_lanes(weight);
}

static int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

/* Attend to a block of keys, at positions from `base` on, in KV head `head`: the `number`th of the block. */
static void attend_block(const struct block *block, int64_t head, int64_t number, int64_t base,
                         const int64_t *slots, int64_t count, int64_t left, const float *keys,
                         const float *values) {
    const struct heads *heads = block->heads;
    const float *scores[ROW_BLOCK];
    struct block own = *block;
    own.queries += number * own.rows;
    own.sums += number * own.rows * own.width;
    own.largest += number * own.rows;
    own.weight += number * own.rows;
    pack_keys(&own, keys + head * heads->dim, slots, count, left);
    pack_values(&own, values + head * heads->dim, slots, count, left);
    multiply(own.queries, own.rows, heads->dim, own.keys, PANEL, own.scores, PANEL, TILE_VECTORS, 0);
    for (int64_t r = 0; r < own.rows; r++) {
        int64_t position = own.positions[r / heads->group] - base;
        int64_t hidden = heads->window ? position - heads->window + 1 : 0;
        weigh(&own, r, at_most(hidden, PANEL), at_most(position + 1, PANEL));
        scores[r] = own.scores + r * PANEL;
    }
    multiply(scores, own.rows, count, own.values, own.width, own.sums, own.width, (int)(own.width / LANES), 1);
}

void attend(const struct heads *heads, const struct queries *queries, const float *q, int64_t q_stride,
            const int64_t *positions, const float *keys, const float *values, float *out, int64_t out_stride,
            float *scratch) {
    int64_t group = heads->group, dim = heads->dim, rows = queries->count * group;
    int64_t slot_size = heads->kv_heads * dim, begin = queries->head * dim, width = queries->heads * dim;
    int64_t all = rows * queries->heads;
    const float *query[ROW_BLOCK];
    struct block block = lay_out(heads, rows, all, scratch);
    block.queries = query;
    block.positions = positions += queries->first;
    int64_t low = INT64_MAX, high = 0; /* the keys that any query sees */
    for (int64_t i = 0; i < queries->count; i++) {
        int64_t first = heads->window ? positions[i] - heads->window + 1 : 0;
        low = at_most(low, first > 0 ? first : 0);
        high = positions[i] + 1 > high ? positions[i] + 1 : high;
    }
    for (int64_t r = 0; r < all; r++) {
        int64_t head = queries->head + r / rows, row = queries->first + r % rows / group;
        query[r] = q + row * q_stride + (head * group + r % group) * dim;
    }

    for (int64_t base = low / PANEL * PANEL; base < high; base += PANEL) {
        const int64_t *slots = queries->slots + base;
        int64_t count = at_most(high - base, PANEL), left = queries->heads > 1 ? count : high - base;
        if (queries->heads > 1) {
            fetch(keys + begin, slot_size, width, slots, count);
            fetch(values + begin, slot_size, width, slots, count);
        }
        for (int64_t h = 0; h < queries->heads; h++)
            attend_block(&block, queries->head + h, h, base, slots, count, left, keys, values);
    }
    for (int64_t r = 0; r < all; r++) {
        int64_t head = queries->head + r / rows, row = queries->first + r % rows / group;
        float *to = out + row * out_stride + (head * group + r % group) * dim;
        float scale = 1 / block.weight[r];
        for (int64_t d = 0; d < dim; d++) to[d] = block.sums[r * block.width + d] * scale;
    }
}
