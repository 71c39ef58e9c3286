/* Gradients of the kept weights of a layer: ⟨gradient of the output's channel, the input's channel, shifted⟩ for each.

   Images lie innermost (channel, line, column, image), so that a line of all images is one run of numbers. Weights at
   one kernel position and of one output go four at a time, so that the output's gradient is loaded once for four. Lines
   are taken in blocks that stay in the cache. Each thread has outputs of its own: numbers do not depend on threads. */
#include "vectors.h"

struct reach {                 /* of one kernel position: the output's lines and columns that it meets inside the input */
    int top, bottom, left, right;
    int line, column;          /* of the input, for line 0 and column 0 of the output; may be negative */
};

struct layer {
    const int *starts;         /* kernel positions × (outputs + 1): where the weights of an output begin */
    const int *inputs;         /* the input channel of each weight */
    const int *slots;          /* its place among the values */
    const struct reach *reach; /* of each kernel position */
    long positions, outputs;   /* of the kernel; channels */
    long down, across;         /* strides */
    long lines_in, columns_in, lines, columns; /* of the input and of the output */
    long images, block;        /* images; lines of the output to take at once */
};

static inline real total(vec v) {
    real sum[LANES];
    __builtin_memcpy(sum, &v, sizeof v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) sum[i] += sum[i + width];
    return sum[0];
}

struct area { long lines, runs, length, line, run, line_in, run_in; }; /* steps of the output's gradient, of the input */

/* Sums of products of one gradient with M inputs over an area; each has two accumulators. */
#define PRODUCTS(M)                                                                                                    \
    static void products_##M(struct area a, const real *gradient, const real *const *inputs, real *const *slopes) {   \
        vec even[M] = {{0}}, odd[M] = {{0}};                                                                           \
        real rest[M] = {0};                                                                                            \
        for (long h = 0; h < a.lines; h++)                                                                             \
            for (long r = 0; r < a.runs; r++) {                                                                        \
                const real *g = gradient + h * a.line + r * a.run;                                                     \
                long shift = h * a.line_in + r * a.run_in, i = 0;                                                      \
                for (; i + 2 * LANES <= a.length; i += 2 * LANES) {                                                    \
                    vec first = *(const vec *)(g + i), second = *(const vec *)(g + i + LANES);                         \
                    UNROLLED for (int m = 0; m < M; m++) {                                                             \
                        even[m] += first * *(const vec *)(inputs[m] + shift + i);                                      \
                        odd[m] += second * *(const vec *)(inputs[m] + shift + i + LANES);                              \
                    }                                                                                                  \
                }                                                                                                      \
                for (; i + LANES <= a.length; i += LANES)                                                              \
                    UNROLLED for (int m = 0; m < M; m++)                                                               \
                        even[m] += *(const vec *)(g + i) * *(const vec *)(inputs[m] + shift + i);                      \
                for (; i < a.length; i++)                                                                              \
                    UNROLLED for (int m = 0; m < M; m++) rest[m] += g[i] * inputs[m][shift + i];                       \
            }                                                                                                          \
        UNROLLED for (int m = 0; m < M; m++) *slopes[m] += total(even[m] + odd[m]) + rest[m];                          \
    }

PRODUCTS(1) PRODUCTS(2) PRODUCTS(4)

/* The weights of one output at one kernel position, over the lines top … bottom - 1. */
static void line_up(const struct layer *l, const real *inputs, const real *gradients, real *slopes, long k, long o,
                    long top, long bottom) {
    const struct reach *reach = l->reach + k;
    long columns = reach->right - reach->left, N = l->images;
    struct area a = {bottom - top, columns, N, l->columns * N, N, l->down * l->columns_in * N, l->across * N};
    if (l->across == 1) a.runs = 1, a.length = columns * N;
    const real *gradient = gradients + ((o * l->lines + top) * l->columns + reach->left) * N;
    long begin = ((top * l->down + reach->line) * l->columns_in + reach->left * l->across + reach->column) * N;
    const real *from[4];
    real *to[4];
    int e = l->starts[k * (l->outputs + 1) + o], end = l->starts[k * (l->outputs + 1) + o + 1];
    for (int count; e < end; e += count) {
        count = end - e >= 4 ? 4 : end - e >= 2 ? 2 : 1;
        for (int m = 0; m < count; m++) {
            from[m] = inputs + (long)l->inputs[e + m] * l->lines_in * l->columns_in * N + begin;
            to[m] = slopes + l->slots[e + m];
        }
        (count == 4 ? products_4 : count == 2 ? products_2 : products_1)(a, gradient, from, to);
    }
}

/* Adds the gradients of the weights of the outputs first … last - 1 to slopes. Arguments: the layer, its inputs, the
   gradients of its outputs, slopes. */
void slopes(void *const *arguments, long first, long last) {
    const struct layer *l = arguments[0];
    const real *inputs = arguments[1], *gradients = arguments[2];
    real *slopes = arguments[3];
    for (long b = 0; b < l->lines; b += l->block)
        for (long k = 0; k < l->positions; k++) {
            const struct reach *reach = l->reach + k;
            long top = reach->top > b ? reach->top : b;
            long bottom = reach->bottom < b + l->block ? reach->bottom : b + l->block;
            if (top < bottom && reach->left < reach->right)
                for (long o = first; o < last; o++) line_up(l, inputs, gradients, slopes, k, o, top, bottom);
        }
}
