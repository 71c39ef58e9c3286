/* Batch normalisation of images innermost, with what follows it: the sum with a shortcut, a ReLU. The numbers of a
   channel lie in one run. Each is read from memory twice, once for the sums and once for the result, and a short run is
   still in the cache the second time. Each thread has channels of its own. */
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

/* A vector of the numbers at p, of which count are left; others in place of those that are not there. */
static inline vec numbers(const real *p, long count, real others) {
    if (__builtin_expect(count >= LANES, 1)) return *(const vec *)p;
    vec v;
    for (int k = 0; k < LANES; k++) v[k] = k < count ? p[k] : others;
    return v;
}

static inline void put(real *p, long count, vec v) {
    if (__builtin_expect(count >= LANES, 1)) *(vec *)p = v;
    else
        for (int k = 0; k < count; k++) p[k] = v[k];
}

static inline double total(const vec *parts) {
    vec four = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    double sum = 0;
    for (int k = 0; k < LANES; k++) sum += four[k];
    return sum;
}

/* The steps of a run: i goes by four vectors, at is where a vector begins, left how many numbers are from there on. */
#define BY_FOUR(COUNT)                                                                                                 \
    for (long i = 0; i < (COUNT); i += 4 * LANES)                                                                      \
        UNROLLED for (long u = 0, at = i, left = (COUNT) - i; u < 4; u++, at += LANES, left -= LANES)

/* x where y is positive or not a number, and zero elsewhere; a comparison gives all bits or none. */
static inline vec where_positive(vec y, vec x) {
    bits none = (bits)(y <= 0), result;
    __builtin_memcpy(&result, &x, sizeof x);
    result &= ~none;
    __builtin_memcpy(&x, &result, sizeof x);
    return x;
}

/* The mean of a run and Σ (x − mean)², put together from chunks that stay in the first cache (Chan et al. 1979). */
static void moments(const real *x, long length, double *mean, double *squares) {
    *mean = *squares = 0;
    for (long begin = 0; begin < length; begin += CHUNK, x += CHUNK) {
        long count = length - begin < CHUNK ? length - begin : CHUNK;
        vec sums[4] = {{0}}, about[4] = {{0}};
        BY_FOUR(count) sums[u] += numbers(x + at, left, 0);
        double own = total(sums) / count, difference = own - *mean;
        real middle = (real)own;
        BY_FOUR(count) {
            vec v = numbers(x + at, left, middle) - middle;
            about[u] += v * v;
        }
        *squares += total(about) - count * (own - middle) * (own - middle);
        *squares += difference * difference * begin * count / (begin + count);
        *mean += difference * count / (begin + count);
    }
}

/* Normalises the channels first … last - 1 by their own mean and variance; added, if any, is added to the result.
   Arguments: the norm, inputs, added, outputs. */
void normalise(void *const *arguments, long first, long last) {
    const struct norm *n = arguments[0];
    const real *inputs = arguments[1], *added = arguments[2];
    real *outputs = arguments[3];
    for (long c = first; c < last; c++) {
        const real *x = inputs + c * n->length, *a = added ? added + c * n->length : 0;
        real *y = outputs + c * n->length;
        double average, squares;
        moments(x, n->length, &average, &squares);
        real mean = n->mean[c] = (real)average;
        n->variance[c] = (real)(squares / n->length);
        n->scale[c] = (real)(1 / __builtin_sqrt(squares / n->length + n->epsilon));
        real slope = n->scale[c] * n->weight[c], bias = n->bias[c];
        for (long i = 0, left = n->length; left > 0; i += LANES, left -= LANES) {
            vec v = (numbers(x + i, left, 0) - mean) * slope + bias;
            if (a) v += numbers(a + i, left, 0);
            put(y + i, left, n->relu ? where_positive(v, v) : v);
        }
    }
}

/* The gradients that the ReLU lets pass: where outputs are positive, which are those at y, or else v · factor + bias. */
static inline vec passing(const struct norm *n, const real *gradients, const real *y, vec v, real factor, real bias,
                          long left) {
    vec gradient = numbers(gradients, left, 0), output = v * factor + bias;
    if (!n->relu) return gradient;
    if (y) output = numbers(y, left, 0);
    return where_positive(output, gradient);
}

/* The gradient of the inputs; slopes of weight and bias are written, too. After a sum, outputs say what a ReLU lets pass,
   and that is also the gradient of the added numbers, written to passed. Otherwise both are null.
   Arguments: the norm, inputs, outputs, gradients; the gradient of the inputs, passed, slopes of weight and of bias. */
void normalise_back(void *const *arguments, long first, long last) {
    const struct norm *n = arguments[0];
    const real *inputs = arguments[1], *outputs = arguments[2], *gradients = arguments[3];
    real *back = arguments[4], *passed = arguments[5], *of_weight = arguments[6], *of_bias = arguments[7];
    for (long c = first; c < last; c++) {
        long from = c * n->length;
        const real *x = inputs + from, *g = gradients + from, *y = outputs ? outputs + from : 0;
        real *b = back + from, *p = passed ? passed + from : 0;
        real mean = n->mean[c], scale = n->scale[c], factor = scale * n->weight[c], bias = n->bias[c];
        double sum = 0, product = 0;
        for (long begin = 0; begin < n->length; begin += CHUNK) {
            long count = n->length - begin < CHUNK ? n->length - begin : CHUNK;
            vec sums[4] = {{0}}, products[4] = {{0}};
            BY_FOUR(count) {
                long here = begin + at;
                vec v = numbers(x + here, left, mean) - mean;
                vec some = passing(n, g + here, y ? y + here : 0, v, factor, bias, left);
                if (p) put(p + here, left, some);
                sums[u] += some;
                products[u] += some * v;
            }
            sum += total(sums);
            product += total(products);
        }
        of_weight[c] = (real)(product * scale);
        of_bias[c] = (real)sum;
        real offset = (real)(sum / n->length), slope = (real)(product / n->length * scale * scale);
        for (long i = 0, left = n->length; left > 0; i += LANES, left -= LANES) {
            vec v = numbers(x + i, left, 0) - mean, some;
            if (p) some = numbers(p + i, left, 0);
            else some = passing(n, g + i, 0, v, factor, bias, left);
            put(b + i, left, (some - offset - v * slope) * factor);
        }
    }
}
