/* The numbers and vectors that the kernels compute with: the widest that the processor compiled for has. */
#ifndef REAL
#define REAL float
#endif
#if defined(__AVX512F__)
#define BYTES 64
#define SUMS 16 /* accumulators that stay in registers */
#elif defined(__AVX__)
#define BYTES 32
#define SUMS 8
#else
#define BYTES 16
#define SUMS 8
#endif

typedef REAL real;
/* Aligned like one number: rows of images begin anywhere. */
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef long long bits __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
enum { LANES = BYTES / sizeof(real) };

#define UNROLLED _Pragma("GCC unroll 16")
#ifndef WIDEST
#define WIDEST 8 /* vectors of images that are computed together: 8 or 4 */
#endif
