/* Batch normalisation of images innermost, with the ReLU after it, in one pass over memory: the numbers of a channel lie
   in one run, which stays in the cache between the sums and the result. Each thread has channels of its own. */
#include "vectors.h"

struct norm {
    const real *weight, *bias; /* of each channel */
    real *mean, *scale;        /* of each channel; scale = 1 / √(variance + epsilon); written by normalise */
    real *variance;            /* biased; written by normalise */
    long length;               /* numbers of a channel */
    double epsilon;
    long relu;                 /* whether negative results become zero */
};

enum { CHUNK = 4096 }; /* numbers that are added in vectors before they go into a double */

/* Σ of an expression of i over the run: vectors in four sums, what is left over one by one. */
#define SUM(RESULT, VECTOR, SCALAR)                                                                                    \
    for (long begin = 0; begin < length; begin += CHUNK) {                                                             \
        long end = begin + CHUNK < length ? begin + CHUNK : length, at = begin;                                        \
        vec parts[4] = {{0}};                                                                                          \
        real rest = 0;                                                                                                 \
        for (; at + 4 * LANES <= end; at += 4 * LANES)                                                                 \
            UNROLLED for (int u = 0; u < 4; u++) parts[u] += VECTOR(at + u * LANES);                                  \
        for (; at < end; at++) rest += SCALAR(at);                                                                     \
        vec four = (parts[0] + parts[1]) + (parts[2] + parts[3]);                                                       \
        for (int k = 0; k < LANES; k++) RESULT += four[k];                                                              \
        RESULT += rest;                                                                                                \
    }

#define AT(p, i) (*(const vec *)((p) + (i)))
#define TO(p, i) (*(vec *)((p) + (i)))

/* x where y is positive or not a number, and zero elsewhere; a comparison gives all bits or none. */
static inline vec where_positive(vec y, vec x) {
    bits none = (bits)(y <= 0), result;
    __builtin_memcpy(&result, &x, sizeof x);
    result &= ~none;
    __builtin_memcpy(&x, &result, sizeof x);
    return x;
}

/* Normalises the channels first … last - 1 by their own mean and variance. */
void normalise(const struct norm *n, const real *inputs, real *outputs, long first, long last) {
    long length = n->length;
    for (long c = first; c < last; c++) {
        const real *x = inputs + c * length;
        real *y = outputs + c * length;
        double sum = 0, squares = 0;
#define V(i) AT(x, i)
#define S(i) x[i]
        SUM(sum, V, S)
#undef V
#undef S
        real mean = (real)(sum / length);
#define V(i) ((AT(x, i) - mean) * (AT(x, i) - mean))
#define S(i) ((x[i] - mean) * (x[i] - mean))
        SUM(squares, V, S)
#undef V
#undef S
        n->mean[c] = mean;
        n->variance[c] = (real)(squares / length);
        n->scale[c] = (real)(1 / __builtin_sqrt(squares / length + n->epsilon));
        real slope = n->scale[c] * n->weight[c], bias = n->bias[c];
        long i = 0;
        if (n->relu) {
            for (; i + LANES <= length; i += LANES) {
                vec v = (AT(x, i) - mean) * slope + bias;
                TO(y, i) = where_positive(v, v);
            }
           
            for (; i < length; i++) { real v = (x[i] - mean) * slope + bias; y[i] = v <= 0 ? 0 : v; }
        } else {
            for (; i + LANES <= length; i += LANES) TO(y, i) = (AT(x, i) - mean) * slope + bias;
            for (; i < length; i++) y[i] = (x[i] - mean) * slope + bias;
        }
    }
}

/* The gradient of the inputs; slopes of weight and bias are written, too. A ReLU lets pass where its output is positive. */
void normalise_back(const struct norm *n, const real *inputs, const real *outputs, const real *gradients, real *back,
                    real *of_weight, real *of_bias, long first, long last) {
    long length = n->length;
    for (long c = first; c < last; c++) {
        const real *x = inputs + c * length, *g = gradients + c * length, *y = outputs + c * length;
        real *b = back + c * length, mean = n->mean[c], scale = n->scale[c];
        double sum = 0, product = 0;
        long i = 0;
        if (n->relu) { /* what the ReLU lets pass is put aside where the result will be */
            for (; i + LANES <= length; i += LANES) TO(b, i) = where_positive(AT(y, i), AT(g, i));
            for (; i < length; i++) b[i] = y[i] <= 0 ? 0 : g[i];
            g = b;
        }
#define V(i) AT(g, i)
#define S(i) g[i]
        SUM(sum, V, S)
#undef V
#undef S
#define V(i) (AT(g, i) * (AT(x, i) - mean))
#define S(i) (g[i] * (x[i] - mean))
        SUM(product, V, S)
#undef V
#undef S
        of_weight[c] = (real)(product * scale);
        of_bias[c] = (real)sum;
        real offset = (real)(sum / length), slope = (real)(product / length * scale * scale);
        real factor = scale * n->weight[c];
        for (i = 0; i + LANES <= length; i += LANES)
            TO(b, i) = (AT(g, i) - offset - (AT(x, i) - mean) * slope) * factor;
        for (; i < length; i++) b[i] = (g[i] - offset - (x[i] - mean) * slope) * factor;
    }
}
