/* Outputs of a layer from its kept weights, and the gradient of its inputs: each number of the target is a sum over the
   kept weights that lead to it.

   Images lie innermost (channel, line, column, image), so that one weight multiplies whole vectors of images. A position
   is a line and a column; positions where the same kernel positions fall inside the source are of one kind, and each kind
   has its list of weights. So borders need neither padding nor tests. Each sum is taken in the order of its list, however
   positions and images are grouped: numbers do not depend on threads. */
#include "vectors.h"

struct lists {              /* the kept weights, by kind of position and then by channel of the target */
    const int *starts;      /* kinds × (channels + 1): where the list of a channel begins */
    const int *offsets;     /* of the number to read, from the base of the position, in positions */
    const int *indices;     /* of the weight among the values */
    const int *kinds;       /* of each position */
    const int *bases;       /* of each position, in the source */
    const int *places;      /* of each position, in the target */
    long channels, plane, images; /* channels and positions of the target; images of both */
};

/* P positions of one kind, K vectors of images at each, from image n. */
#define TILE(P, K)                                                                                                     \
    static void tile_##P##_##K(const struct lists *l, const real *source, real *target, const real *values, long q,   \
                               long n) {                                                                               \
        const int *starts = l->starts + l->kinds[q] * (l->channels + 1);                                               \
        const real *from[P];                                                                                           \
        UNROLLED for (int p = 0; p < P; p++) from[p] = source + l->bases[q + p] * l->images + n;                       \
        for (long c = 0; c < l->channels; c++) {                                                                       \
            vec sums[P][K] = {{{0}}};                                                                                  \
            for (int e = starts[c]; e < starts[c + 1]; e++) {                                                          \
                real value = values[l->indices[e]];                                                                    \
                long offset = l->offsets[e] * l->images;                                                               \
                UNROLLED for (int p = 0; p < P; p++)                                                                   \
                UNROLLED for (int k = 0; k < K; k++)                                                                   \
                    sums[p][k] += value * *(const vec *)(from[p] + offset + k * LANES);                                \
            }                                                                                                          \
            UNROLLED for (int p = 0; p < P; p++)                                                                       \
            UNROLLED for (int k = 0; k < K; k++)                                                                       \
                *(vec *)(target + (c * l->plane + l->places[q + p]) * l->images + n + k * LANES) = sums[p][k];         \
        }                                                                                                              \
    }

TILE(1, 1) TILE(1, 2) TILE(1, 4) TILE(1, 8)
TILE(8, 1) TILE(4, 2)
#if SUMS == 16
TILE(2, 8) TILE(4, 4)
#else
TILE(2, 4)
#endif

typedef void tile(const struct lists *, const real *, real *, const real *, long, long);

/* The tile for K vectors of images, at one position or at as many as there are registers for. */
static tile *one_for(int k) { return k == 8 ? tile_1_8 : k == 4 ? tile_1_4 : k == 2 ? tile_1_2 : tile_1_1; }

static tile *several_for(int k, int *positions) {
#if SUMS == 16
    *positions = k == 8 ? 2 : k == 4 ? 4 : k == 2 ? 4 : 8;
    return k == 8 ? tile_2_8 : k == 4 ? tile_4_4 : k == 2 ? tile_4_2 : tile_8_1;
#else
    *positions = 8 / k;
    return k == 8 ? tile_1_8 : k == 4 ? tile_2_4 : k == 2 ? tile_4_2 : tile_8_1;
#endif
}

/* Fewer images than a vector has lanes. */
static void few(const struct lists *l, const real *source, real *target, const real *values, long q) {
    const int *starts = l->starts + l->kinds[q] * (l->channels + 1);
    for (long c = 0; c < l->channels; c++) {
        real sums[LANES] = {0};
        for (int e = starts[c]; e < starts[c + 1]; e++) {
            const real *from = source + (l->bases[q] + (long)l->offsets[e]) * l->images;
            for (long n = 0; n < l->images; n++) sums[n] += values[l->indices[e]] * from[n];
        }
        for (long n = 0; n < l->images; n++) target[(c * l->plane + l->places[q]) * l->images + n] = sums[n];
    }
}

/* The positions first … last - 1 of the target. Arguments: the lists, source, target, values. */
void gather(void *const *arguments, long first, long last) {
    const struct lists *l = arguments[0];
    const real *source = arguments[1], *values = arguments[3];
    real *target = arguments[2];
    if (l->images < LANES) {
        for (long q = first; q < last; q++) few(l, source, target, values, q);
        return;
    }
    for (long n = 0; n < l->images;) {
        long vectors = (l->images - n) / LANES;
        if (vectors == 0) n = l->images - LANES; /* the last vector overlaps the one before it, with equal numbers */
        int k = vectors >= WIDEST ? WIDEST : vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1, positions;
        tile *several = several_for(k, &positions), *one = one_for(k);
        for (long q = first; q < last;) {
            long end = q + positions;
            if (end <= last && l->kinds[q] == l->kinds[end - 1]) { /* positions come by kind */
                several(l, source, target, values, q, n);
                q = end;
            } else {
                one(l, source, target, values, q++, n);
            }
        }
        n += k * LANES;
    }
}
