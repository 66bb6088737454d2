/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * What the kernels for processors with AVX2 share: vectors of eight floats, and scratch.
 */

#pragma once

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define W 8             /* floats in a vector */
#define MOST_OUTPUTS 4  /* of a tile: with 3 vectors each, 12 of 16 registers */
#define MOST_VECTORS 3
#define PANEL (MOST_VECTORS * W)
#define LINE 64
#define CACHE (80 << 10) /* floats in scratch at a time: most of a core's second cache */
#define NEAR (4 << 10)   /* and half of its first one */

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

/* Lanes of the first `left` of a vector. */
INLINE mask first_lanes(Size left) {
  const mask number = {0, 1, 2, 3, 4, 5, 6, 7};
  return number < (int)LEAST(left, W);
}

/* Loads the first `left` of a vector, zeros behind them; nothing behind is touched. */
INLINE vec load_some(const float *from, Size left) {
  return left >= W ? load(from)
                   : __builtin_ia32_maskloadps256((const vec *)from, first_lanes(left));
}

/* The first `left` of a vector, zeros behind them. */
INLINE vec keep_some(vec v, Size left) {
  return left >= W ? v : (vec)((mask)v & first_lanes(left));
}

INLINE float sum_of(vec v) {
  v += __builtin_shuffle(v, (mask){4, 5, 6, 7, 0, 1, 2, 3});
  v += __builtin_shuffle(v, (mask){2, 3, 0, 1, 6, 7, 4, 5});
  return v[0] + v[1];
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

static inline float row_sum(const float *row, Size count) {
  vec sum = {0};
  for (Size n = 0; n < count; n += W) sum += load_some(row + n, count - n);
  return sum_of(sum);
}

static inline float row_product(const float *a, const float *b, Size count) {
  vec sum = {0};
  for (Size n = 0; n < count; n += W)
    sum += load_some(a + n, count - n) * load_some(b + n, count - n);
  return sum_of(sum);
}
