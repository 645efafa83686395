/* Products with matrices that lie in panels.
 *
 * Every element of a result is the sum of its terms in the order of `depth`, whatever rows are computed with
 * it and by whichever thread: a row has the same result in any batch.
 */
#ifndef WEFT_PRODUCT_H
#define WEFT_PRODUCT_H

#include <stdint.h>

#include "vector.h"

#define ROW_BLOCK 96 /* rows that read a panel together; a multiple of TILE_ROWS */

/* A matrix of a linear layer: panels of PANEL outputs, each [inputs][PANEL], zeros behind the last output. */
struct matrix {
    const float *panels;
    const float *bias; /* [panels][PANEL]; NULL: none */
    int64_t inputs;
    int64_t outputs;
};

/* out[r][c] (+)= sum over d of x[r][d] * w[d][c], with c < vectors * LANES and vectors even.
 *
 * `x` are the rows, each of `depth` numbers; rows of `w` lie `w_stride` apart, those of `out` `out_stride`.
 */
void multiply(const float *const *x, int64_t rows, int64_t depth, const float *w, int64_t w_stride,
              float *out, int64_t out_stride, int vectors, int add);

/* Panel `panel` of the product, bias left out: `rows` rows (at most ROW_BLOCK) at `x`, `x_stride` apart, into
 * out[rows][PANEL]. */
void multiply_panel(const struct matrix *matrix, int64_t panel, const float *x, int64_t x_stride,
                    int64_t rows, float *out);

static inline int64_t panels_of(const struct matrix *matrix) { return (matrix->outputs + PANEL - 1) / PANEL; }

#endif
