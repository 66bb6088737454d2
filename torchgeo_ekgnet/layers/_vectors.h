/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * What the kernels for processors with AVX2 share: vectors of eight floats, and scratch.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define W 8             /* floats in a vector */
#define MOST_OUTPUTS 4  /* of a tile: with 3 vectors each, 12 of 16 registers */
#define MOST_VECTORS 3
#define LINE 64

typedef float vec __attribute__((vector_size(4 * W)));
typedef int mask __attribute__((vector_size(4 * W)));
typedef float vec_anywhere __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef Py_ssize_t Size;

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define LEAST(a, b) ((a) < (b) ? (a) : (b))

INLINE vec load(const float *from) { return *(const vec_anywhere *)from; }

INLINE void store(float *to, vec v) { *(vec_anywhere *)to = v; }

/* Stores the first `left` of a vector, all if there are more. */
INLINE void store_some(float *to, vec v, Size left) {
  if (left >= W) {
    store(to, v);
  } else {
    for (Size j = 0; j < left; j++) to[j] = v[j];
  }
}

INLINE float sum_of(vec v) {
  float sum = 0;
  for (int j = 0; j < W; j++) sum += v[j];
  return sum;
}

INLINE Size ceil_div(Size a, Size b) { return (a + b - 1) / b; }

/* Scratch of `threads` threads, each `floats` large, in lines of its own; NULL if none. */
static inline float *scratch_of(Size threads, Size *floats) {
  *floats = ceil_div(*floats, LINE) * LINE;
  float *scratch = aligned_alloc(LINE, (size_t)threads * *floats * sizeof(float));
  if (scratch) memset(scratch, 0, (size_t)threads * *floats * sizeof(float));
  return scratch;
}

/* Turns 8x8 values: `to` gets as columns, `width` apart, what are rows in `from`. */
INLINE void turn(float *to, Size width, const float *from, Size channel) {
  vec r[8], u[8];
  UNROLL for (int i = 0; i < 8; i++) r[i] = load(from + i * channel);
  UNROLL for (int i = 0; i < 8; i += 2) {
    u[i] = __builtin_shuffle(r[i], r[i + 1], (mask){0, 8, 1, 9, 4, 12, 5, 13});
    u[i + 1] = __builtin_shuffle(r[i], r[i + 1], (mask){2, 10, 3, 11, 6, 14, 7, 15});
  }
  UNROLL for (int i = 0; i < 8; i += 4) {
    UNROLL for (int j = 0; j < 2; j++) {
      const mask low = {0, 1, 8, 9, 4, 5, 12, 13}, high = {2, 3, 10, 11, 6, 7, 14, 15};
      r[i + 2 * j] = __builtin_shuffle(u[i + j], u[i + j + 2], low);
      r[i + 2 * j + 1] = __builtin_shuffle(u[i + j], u[i + j + 2], high);
    }
  }
  UNROLL for (int i = 0; i < 4; i++) {
    const mask low = {0, 1, 2, 3, 8, 9, 10, 11}, high = {4, 5, 6, 7, 12, 13, 14, 15};
    store(to + i * width, __builtin_shuffle(r[i], r[i + 4], low));
    store(to + (i + 4) * width, __builtin_shuffle(r[i], r[i + 4], high));
  }
}

/* Copies positions of some channels, a position's channels side by side and zeros behind
 * them up to `width`. */
static void pack_turned(float *to, const float *from, Size inputs, Size width,
                        Size channel, Size positions) {
  const Size whole_i = inputs / W * W, whole_n = positions / W * W;
  if (inputs < width) memset(to, 0, sizeof(float) * width * positions);
  for (Size i = 0; i < whole_i; i += W)
    for (Size n = 0; n < whole_n; n += W)
      turn(to + n * width + i, width, from + i * channel + n, channel);
  for (Size i = 0; i < inputs; i++)
    for (Size n = i < whole_i ? whole_n : 0; n < positions; n++)
      to[n * width + i] = from[i * channel + n];
}
