#include "product.h"

#define DEPTH_BLOCK 512 /* of a panel: 128 KiB at 16 lanes, which a cache of second level holds */

/* A tile whose sums stay in registers. `rows` and `vectors` are constants once this is inlined. */
ALWAYS_INLINE void tile(const int rows, const int vectors, const float *const *x, int64_t depth,
                        const float *w, int64_t w_stride, float *out, int64_t out_stride, int add) {
    vec sums[TILE_ROWS][TILE_VECTORS];
    const float *row[TILE_ROWS];
#pragma GCC unroll 8 /* all of it: what is indexed by a variable cannot stay in registers */
    for (int r = 0; r < rows; r++) {
        row[r] = x[r];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sums[r][v] = add ? load(out + r * out_stride + v * LANES) : (vec){0};
    }
    for (int64_t d = 0; d < depth; d++, w += w_stride)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            vec weights = load(w + v * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][v] += row[r][d] * weights;
        }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) store(out + r * out_stride + v * LANES, sums[r][v]);
}

typedef void tile_function(const float *const *x, int64_t depth, const float *w, int64_t w_stride, float *out,
                           int64_t out_stride, int add);

#define TILE(rows, vectors)                                                                              \
    static void tile_##rows##x##vectors(const float *const *x, int64_t depth, const float *w,            \
                                        int64_t w_stride, float *out, int64_t out_stride, int add) {     \
        tile(rows, vectors, x, depth, w, w_stride, out, out_stride, add);                                \
    }

TILE(1, 2) TILE(2, 2) TILE(3, 2)
TILE(1, 4) TILE(2, 4) TILE(3, 4)
#if TILE_ROWS == 6
TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(4, 4) TILE(5, 4) TILE(6, 4)
#endif

static tile_function *const two_vectors[] = {
    tile_1x2, tile_2x2, tile_3x2,
#if TILE_ROWS == 6
    tile_4x2, tile_5x2, tile_6x2,
#endif
};

static tile_function *const four_vectors[] = {
    tile_1x4, tile_2x4, tile_3x4,
#if TILE_ROWS == 6
    tile_4x4, tile_5x4, tile_6x4,
#endif
};

void multiply(const float *const *x, int64_t rows, int64_t depth, const float *w, int64_t w_stride,
              float *out, int64_t out_stride, int vectors, int add) {
    for (int column = 0; column < vectors; column += 4) {
        tile_function *const *tiles = vectors - column < 4 ? two_vectors : four_vectors;
        for (int64_t row = 0; row < rows; row += TILE_ROWS) {
            int64_t count = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
            tiles[count - 1](x + row, depth, w + column * LANES, w_stride,
                             out + row * out_stride + column * LANES, out_stride, add);
        }
    }
}

void multiply_panel(const struct matrix *matrix, int64_t panel, const float *x, int64_t x_stride,
                    int64_t rows, float *out) {
    const float *weights = matrix->panels + panel * matrix->inputs * PANEL;
    for (int64_t depth = 0; depth < matrix->inputs; depth += DEPTH_BLOCK) {
        int64_t count = matrix->inputs - depth < DEPTH_BLOCK ? matrix->inputs - depth : DEPTH_BLOCK;
        const float *row[ROW_BLOCK];
        for (int64_t r = 0; r < rows; r++) row[r] = x + r * x_stride + depth;
        multiply(row, rows, count, weights + depth * PANEL, PANEL, out, PANEL, TILE_VECTORS, depth > 0);
    }
}
