/* A step of a decoder-only transformer of the Llama, Mistral, Qwen2 and Qwen3 families in float32: all layers
 * of a ragged batch over a paged KV pool, in one call.
 *
 * Whoever calls has checked the indices: nothing here does.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "attention.h"
#include "product.h"
#include "threads.h"
#include "vector.h"

#define ROWS_TOGETHER 16 /* of the operations row by row */

struct layer {
    const float *input_norm;
    const float *post_norm;
    const float *qk_norm; /* [heads + kv_heads][head_dim]; NULL: none */
    int64_t window;       /* tokens; 0: none */
    struct matrix qkv;
    struct matrix out;
    struct matrix gate;
    struct matrix up;
    struct matrix down;
};

struct model {
    int64_t layers;
    int64_t hidden;
    int64_t inner;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    float eps;
    const struct layer *layer;
    const float *embedding; /* [vocab][hidden] */
    const float *norm;
    const float *cosines; /* [positions][head_dim / 2] */
    const float *sines;
    struct matrix head;
};

struct step {
    int64_t tokens;
    int64_t sequences;
    int64_t wanted;
    const int64_t *ids;          /* [tokens] */
    const int64_t *positions;    /* [tokens] */
    const int64_t *new_slots;    /* [tokens] */
    const int64_t *wanted_rows;  /* [wanted]: whose logits are wanted */
    const int64_t *slots;        /* of all sequences' keys, one after the other */
    const int64_t *key_starts;   /* [sequences]: in `slots` */
    const int64_t *query_counts; /* [sequences] */
    int64_t pool_slots;
    float *keys;   /* [layers][pool_slots][kv_heads][head_dim] */
    float *values; /* the same */
    float *logits; /* [wanted][vocab] */
};

/* A model that runs: its threads, and the memory that steps compute in. */
struct runner {
    struct model model;
    struct threads *threads; /* NULL: the caller alone */
    int thread_count;
    pthread_mutex_t lock; /* held during a step */
    int64_t capacity; /* tokens that there is memory for */
    float *hidden;    /* [tokens][hidden]: the residual stream */
    float *normed;    /* [tokens][hidden] */
    float *qkv;       /* [tokens][(heads + 2 * kv_heads) * head_dim] */
    float *attended;  /* [tokens][heads * head_dim] */
    float *active;    /* [tokens][inner] */
    struct queries *queries;
    float *scratch; /* of each thread */
    int64_t scratch_size;
};

/* What the chunks of a piece of work read. */
struct pass {
    const struct runner *runner;
    const struct model *model;
    const struct layer *layer;
    const struct step *step;
    float *keys, *values; /* the layer's */
    const float *norm;
    int64_t rows;
    int64_t blocks; /* of queries */
    struct heads heads;
};

/* The outputs in a panel of a matrix. */
int weft_panel(void) { return PANEL; }

/* The most query heads that a KV head may have. */
int weft_most_group(void) { return ROW_BLOCK; }

/* ---- Row by row ---- */

/* x / sqrt(mean(x^2) + eps) * weight; `out` may be `x`. */
static void rms_norm(const float *x, const float *weight, int64_t dim, float eps, float *out) {
    vec squares = {0};
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) squares += load(x + d) * load(x + d);
    float sum = sum_lanes(squares);
    for (; d < dim; d++) sum += x[d] * x[d];
    float scale = 1 / sqrtf(sum / (float)dim + eps);
    for (d = 0; d < dim; d++) out[d] = x[d] * scale * weight[d];
}

static void normalize(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    int64_t dim = pass->model->hidden, end = (chunk + 1) * ROWS_TOGETHER;
    for (int64_t r = chunk * ROWS_TOGETHER; r < end && r < pass->rows; r++)
        rms_norm(pass->runner->hidden + r * dim, pass->norm, dim, pass->model->eps,
                 pass->runner->normed + r * dim);
}

/* Turn the pairs i, i + dim/2 of a head, and multiply by `scale`. */
static void rotate(float *restrict x, const float *restrict cosines, const float *restrict sines,
                   int64_t half, float scale) {
    for (int64_t i = 0; i < half; i++) {
        float a = x[i] * scale, b = x[i + half] * scale;
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

/* Normalize and rotate queries and keys, scale the queries, and store keys and values. */
static void place(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    const struct model *m = pass->model;
    int64_t dim = m->head_dim, kv = m->kv_heads * dim, end = (chunk + 1) * ROWS_TOGETHER;
    float query_scale = 1 / sqrtf((float)dim);
    for (int64_t r = chunk * ROWS_TOGETHER; r < end && r < pass->rows; r++) {
        float *row = pass->runner->qkv + r * (m->heads * dim + 2 * kv);
        int64_t turn = pass->step->positions[r] * (dim / 2), slot = pass->step->new_slots[r];
        for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
            float *x = row + h * dim;
            if (pass->layer->qk_norm) rms_norm(x, pass->layer->qk_norm + h * dim, dim, m->eps, x);
            rotate(x, m->cosines + turn, m->sines + turn, dim / 2, h < m->heads ? query_scale : 1);
        }
        const float *key = row + m->heads * dim;
        memcpy(pass->keys + slot * kv, key, (size_t)kv * sizeof(float));
        memcpy(pass->values + slot * kv, key + kv, (size_t)kv * sizeof(float));
    }
}

/* ---- Products; a chunk is a panel, and up to ROW_BLOCK rows ---- */

struct part {
    int64_t panel, first, rows;
    int64_t column, columns; /* of the result */
};

static struct part part_of(const struct matrix *matrix, int64_t rows, int64_t chunk) {
    int64_t panels = panels_of(matrix);
    struct part part = {.panel = chunk % panels, .first = chunk / panels * ROW_BLOCK};
    part.rows = rows - part.first < ROW_BLOCK ? rows - part.first : ROW_BLOCK;
    part.column = part.panel * PANEL;
    part.columns = matrix->outputs - part.column < PANEL ? matrix->outputs - part.column : PANEL;
    return part;
}

static int64_t parts_of(const struct matrix *matrix, int64_t rows) {
    return panels_of(matrix) * ((rows + ROW_BLOCK - 1) / ROW_BLOCK);
}

static void add_bias(const struct matrix *matrix, const struct part *part, float *product) {
    if (!matrix->bias) return;
    const float *bias = matrix->bias + part->column;
    for (int64_t r = 0; r < part->rows; r++)
        for (int c = 0; c < PANEL; c++) product[r * PANEL + c] += bias[c];
}

/* A part of the product with `x` [rows][inputs], bias added. */
static struct part product(const struct matrix *matrix, const float *x, int64_t rows, int64_t chunk,
                           float *out) {
    struct part part = part_of(matrix, rows, chunk);
    multiply_panel(matrix, part.panel, x + part.first * matrix->inputs, matrix->inputs, part.rows, out);
    add_bias(matrix, &part, out);
    return part;
}

static void write_product(const struct matrix *matrix, const float *x, int64_t rows, int64_t chunk,
                          float *out) {
    float found[ROW_BLOCK * PANEL];
    struct part part = product(matrix, x, rows, chunk, found);
    for (int64_t r = 0; r < part.rows; r++)
        memcpy(out + (part.first + r) * matrix->outputs + part.column, found + r * PANEL,
               (size_t)part.columns * sizeof(float));
}

static void add_product(const struct matrix *matrix, const float *x, int64_t rows, int64_t chunk,
                        float *total) {
    float found[ROW_BLOCK * PANEL];
    struct part part = product(matrix, x, rows, chunk, found);
    for (int64_t r = 0; r < part.rows; r++) {
        float *to = total + (part.first + r) * matrix->outputs + part.column;
        for (int64_t c = 0; c < part.columns; c++) to[c] += found[r * PANEL + c];
    }
}

static void project_qkv(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    write_product(&pass->layer->qkv, pass->runner->normed, pass->rows, chunk, pass->runner->qkv);
}

static void project_out(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    add_product(&pass->layer->out, pass->runner->attended, pass->rows, chunk, pass->runner->hidden);
}

/* silu(gate) * up */
static void activate(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    float gate[ROW_BLOCK * PANEL], up[ROW_BLOCK * PANEL];
    struct part part = product(&pass->layer->gate, pass->runner->normed, pass->rows, chunk, gate);
    product(&pass->layer->up, pass->runner->normed, pass->rows, chunk, up);
    for (int64_t r = 0; r < part.rows; r++) {
        for (int c = 0; c < PANEL; c += LANES) {
            vec x = load(gate + r * PANEL + c);
            store(gate + r * PANEL + c, x / (1 + exponential(-x)) * load(up + r * PANEL + c));
        }
        memcpy(pass->runner->active + (part.first + r) * pass->model->inner + part.column, gate + r * PANEL,
               (size_t)part.columns * sizeof(float));
    }
}

static void project_down(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    add_product(&pass->layer->down, pass->runner->active, pass->rows, chunk, pass->runner->hidden);
}

static void project_logits(void *context, int64_t chunk, int thread) {
    (void)thread;
    const struct pass *pass = context;
    write_product(&pass->model->head, pass->runner->normed, pass->rows, chunk, pass->step->logits);
}

/* ---- Attention; a chunk is queries that are attended together ---- */

static void attend_chunk(void *context, int64_t chunk, int thread) {
    const struct pass *pass = context;
    const struct model *m = pass->model;
    const struct runner *runner = pass->runner;
    int64_t width = m->heads * m->head_dim, qkv_width = width + 2 * m->kv_heads * m->head_dim;
    attend(&pass->heads, &runner->queries[chunk], runner->qkv, qkv_width, pass->step->positions, pass->keys,
           pass->values, runner->attended, width, runner->scratch + thread * runner->scratch_size);
}

static int by_head_and_first_slot(const void *left, const void *right) {
    const struct queries *a = left, *b = right;
    if (a->head != b->head) return a->head < b->head ? -1 : 1;
    return (*a->slots > *b->slots) - (*a->slots < *b->slots);
}

/* Cut the queries of each sequence into blocks: few queries into one for all KV heads, which reads the slots
 * from end to end; many, or if there would be too few blocks for the threads, into one for each head. Those
 * that share their first keys come one after the other, so that the cache has these still. None of this
 * changes a result. */
static int64_t cut_queries(const struct step *step, const struct heads *heads, int threads,
                           struct queries *queries) {
    int64_t blocks = 0, first = 0, together = queries_together(heads);
    bool apart = threads > 1 && step->sequences < 2 * threads;
    for (int64_t s = 0; s < step->sequences; s++)
        for (int64_t left = step->query_counts[s]; left > 0;) {
            int64_t count = left < together ? left : together;
            bool each = apart || count * heads->group * heads->kv_heads > ROW_BLOCK;
            int64_t width = each ? 1 : heads->kv_heads;
            for (int64_t head = 0; head < heads->kv_heads; head += width)
                queries[blocks++] =
                    (struct queries){first, count, head, width, step->slots + step->key_starts[s]};
            first += count;
            left -= count;
        }
    qsort(queries, (size_t)blocks, sizeof *queries, by_head_and_first_slot);
    return blocks;
}

/* ---- The whole ---- */

static int64_t row_chunks(int64_t rows) { return (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER; }

static void run_layer(struct pass *pass, struct threads *threads) {
    const struct layer *layer = pass->layer;
    int64_t rows = pass->rows;
    pass->norm = layer->input_norm;
    share(threads, normalize, pass, row_chunks(rows));
    share(threads, project_qkv, pass, parts_of(&layer->qkv, rows));
    share(threads, place, pass, row_chunks(rows));
    share(threads, attend_chunk, pass, pass->blocks);
    share(threads, project_out, pass, parts_of(&layer->out, rows));
    pass->norm = layer->post_norm;
    share(threads, normalize, pass, row_chunks(rows));
    share(threads, activate, pass, parts_of(&layer->gate, rows));
    share(threads, project_down, pass, parts_of(&layer->down, rows));
}

static void run_step(struct runner *runner, const struct step *step, struct threads *threads) {
    const struct model *m = &runner->model;
    size_t row = (size_t)m->hidden * sizeof(float);
    struct pass pass = {.runner = runner, .model = m, .step = step, .rows = step->tokens};
    pass.heads = (struct heads){m->kv_heads, m->heads / m->kv_heads, m->head_dim, 0};
    pass.blocks = cut_queries(step, &pass.heads, threads ? runner->thread_count : 1, runner->queries);
    for (int64_t r = 0; r < step->tokens; r++)
        memcpy(runner->hidden + r * m->hidden, m->embedding + step->ids[r] * m->hidden, row);
    for (int64_t i = 0; i < m->layers; i++) {
        pass.layer = &m->layer[i];
        pass.keys = step->keys + i * step->pool_slots * m->kv_heads * m->head_dim;
        pass.values = step->values + i * step->pool_slots * m->kv_heads * m->head_dim;
        pass.heads.window = pass.layer->window;
        run_layer(&pass, threads);
    }
    pass.rows = step->wanted;
    for (int64_t r = 0; r < step->wanted; r++)
        rms_norm(runner->hidden + step->wanted_rows[r] * m->hidden, m->norm, m->hidden, m->eps,
                 runner->normed + r * m->hidden);
    share(threads, project_logits, &pass, parts_of(&m->head, step->wanted));
}

static void release(struct runner *runner) {
    free(runner->hidden);
    free(runner->normed);
    free(runner->qkv);
    free(runner->attended);
    free(runner->active);
    free(runner->queries);
    runner->hidden = runner->normed = runner->qkv = runner->attended = runner->active = NULL;
    runner->queries = NULL;
    runner->capacity = 0;
}

static float *floats(int64_t count) { return malloc((size_t)count * sizeof(float)); }

/* Have memory for a step of so many tokens. */
static bool reserve(struct runner *runner, int64_t tokens) {
    const struct model *m = &runner->model;
    if (tokens <= runner->capacity) return true;
    release(runner);
    runner->hidden = floats(tokens * m->hidden);
    runner->normed = floats(tokens * m->hidden);
    runner->qkv = floats(tokens * (m->heads + 2 * m->kv_heads) * m->head_dim);
    runner->attended = floats(tokens * m->heads * m->head_dim);
    runner->active = floats(tokens * m->inner);
    runner->queries = malloc((size_t)(tokens * m->kv_heads) * sizeof *runner->queries);
    if (!runner->hidden || !runner->normed || !runner->qkv || !runner->attended || !runner->active ||
        !runner->queries)
        return false;
    runner->capacity = tokens;
    return true;
}

void weft_close(struct runner *runner) {
    if (!runner) return;
    stop_threads(runner->threads);
    pthread_mutex_destroy(&runner->lock);
    release(runner);
    free(runner->scratch);
    free(runner);
}

/* A runner with `threads` threads, that of the caller among them. What `model` points to stays the caller's
 * and must outlive it. A KV head may have at most ROW_BLOCK query heads. NULL: there is no memory, or there
 * are no threads. */
struct runner *weft_open(const struct model *model, int threads) {
    struct runner *runner = calloc(1, sizeof *runner);
    if (!runner) return NULL;
    runner->model = *model;
    pthread_mutex_init(&runner->lock, NULL);
    struct heads heads = {model->kv_heads, model->heads / model->kv_heads, model->head_dim, 0};
    runner->scratch_size = attention_scratch(&heads);
    runner->scratch = floats(threads * runner->scratch_size);
    runner->thread_count = threads;
    if (threads > 1) runner->threads = start_threads(threads);
    if (!runner->scratch || (threads > 1 && !runner->threads)) {
        weft_close(runner);
        return NULL;
    }
    return runner;
}

/* Compute a step, by all threads or by the caller alone; one at a time. 0, or -1 if there is no memory. */
int weft_run(struct runner *runner, const struct step *step, int all_threads) {
    pthread_mutex_lock(&runner->lock);
    bool enough = reserve(runner, step->tokens > step->wanted ? step->tokens : step->wanted);
    if (enough) run_step(runner, step, all_threads ? runner->threads : NULL);
    pthread_mutex_unlock(&runner->lock);
    return enough ? 0 : -1;
}
