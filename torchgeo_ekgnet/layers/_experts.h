/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * 1x1x1 experts, mixed for each sample and applied to it.
 */

#pragma once

#include "_vectors.h"

/* Negative values become zero; NaN stays. */
INLINE vec relu(vec v) {
  const vec zero = {0};
  return (vec)((mask)v & ~(v < zero));
}

/* A gradient where values behind it are positive, as relu lets it through. */
INLINE vec passed(vec grad, vec value) {
  const vec zero = {0};
  return (vec)((mask)grad & ~(value <= zero));
}

/* Some output channels of a panel: x (inputs, vectors * W), kernel (outputs, inputs). */
INLINE void experts_tile(const float *x, const float *kernel, Size inputs,
                         const float *bias, int positive, float *y, Size y_row, Size left,
                         const int outputs, const int vectors) {
  vec sums[MOST_OUTPUTS][MOST_VECTORS];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++) sums[o][t] = (vec){0} + bias[o];
  for (Size i = 0; i < inputs; i++) {
    vec values[MOST_VECTORS];
    UNROLL for (int t = 0; t < vectors; t++)
      values[t] = load(x + (i * vectors + t) * W);
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[o][t] += kernel[o * inputs + i] * values[t];
  }
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      store_some(y + o * y_row + W * t, positive ? relu(sums[o][t]) : sums[o][t],
                 left - W * t);
}

typedef void (*ExpertsTile)(const float *, const float *, Size, const float *, int,
                            float *, Size, Size);

#define EXPERTS_TILE(O, T)                                                               \
  static void experts_##O##_##T(const float *x, const float *k, Size inputs,             \
                                const float *b, int positive, float *y, Size y_row,      \
                                Size left) {                                             \
    experts_tile(x, k, inputs, b, positive, y, y_row, left, O, T);                       \
  }
EXPERTS_TILE(4, 1) EXPERTS_TILE(4, 2) EXPERTS_TILE(4, 3)
EXPERTS_TILE(1, 1) EXPERTS_TILE(1, 2) EXPERTS_TILE(1, 3)

static const ExpertsTile experts_tiles[2][3] = {{experts_1_1, experts_1_2, experts_1_3},
                                                {experts_4_1, experts_4_2, experts_4_3}};

/* Vectors of the next panel, when so many positions are left: no single one at the end. */
INLINE Size panel_of(Size positions) {
  const Size vectors = ceil_div(positions, W);
  return vectors == 4 ? 2 : LEAST(vectors, 3);
}

/* Copies positions of maps whose channels are `channel` apart, panel by panel. */
static void pack(float *to, const float *from, Size inputs, Size channel, Size positions) {
  while (positions > 0) {
    const Size width = panel_of(positions) * W, some = LEAST(width, positions);
    for (Size i = 0; i < inputs; i++, to += width) {
      const float *row = from + i * channel;
      if (some == 3 * W) {
        UNROLL for (int t = 0; t < 3; t++) store(to + t * W, load(row + t * W));
      } else {
        for (Size n = 0; n < width; n += W) store(to + n, load_some(row + n, some - n));
      }
    }
    from += some;
    positions -= some;
  }
}

/* Mixes some vectors of K experts, which are `expert` apart, for some samples. */
INLINE void mix_tile(float *to, Size next, const float *shares, const float *experts,
                     Size K, Size expert, const int samples, const int vectors) {
  vec sums[4][2] = {0};
  for (Size k = 0; k < K; k++) {
    vec values[2];
    UNROLL for (int t = 0; t < vectors; t++) values[t] = load(experts + k * expert + t * W);
    UNROLL for (int b = 0; b < samples; b++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[b][t] += shares[b * K + k] * values[t];
  }
  UNROLL for (int b = 0; b < samples; b++)
    UNROLL for (int t = 0; t < vectors; t++) store(to + b * next + t * W, sums[b][t]);
}

INLINE void mix_samples(float *to, Size next, const float *shares, const float *experts,
                        Size K, Size expert, Size count, const int samples) {
  Size at = 0;
  for (; at + 2 * W <= count; at += 2 * W)
    mix_tile(to + at, next, shares, experts + at, K, expert, samples, 2);
  for (; at + W <= count; at += W)
    mix_tile(to + at, next, shares, experts + at, K, expert, samples, 1);
  for (; at < count; at++) {
    for (Size b = 0; b < samples; b++) {
      float sum = 0;
      for (Size k = 0; k < K; k++) sum += shares[b * K + k] * experts[k * expert + at];
      to[b * next + at] = sum;
    }
  }
}

/* Mixes `count` values of K experts for some samples, whose results are `next` apart. */
static void mix(float *to, Size next, const float *shares, const float *experts, Size K,
                Size expert, Size count, Size samples) {
  Size b = 0;
  for (; b + 4 <= samples; b += 4)
    mix_samples(to + b * next, next, shares + b * K, experts, K, expert, count, 4);
  for (; b < samples; b++)
    mix_samples(to + b * next, next, shares + b * K, experts, K, expert, count, 1);
}

/* x (B, I, N), shares (B, K), experts (K, O, I) to y (B, O, N). Biases are mixed from
 * those of the experts, (K, O), and a shift, (O) or (B, O), is added.
 * A unit is a sample, or the part of one that fits the cache. Some units are packed, then
 * a block of kernels is mixed for each of them while the experts' rows are at hand. */
typedef struct {
  const float *x, *shares, *weight, *bias, *shift;
  Size x_batch, x_row, shift_batch, K, O, I, N;
  int positive;
  float *moments;      /* (units, O, 2), see add_moments; or NULL */
  Size columns, parts; /* of a unit; units of a sample */
  Size some, size;     /* units that are packed at a time; floats of each */
  Size block, strip;   /* kernels mixed at a time; columns that each tile goes through */
  Size scratch;
} Mixture;

static void plan(Mixture *m, Size columns, Size samples) {
  const Size most = LEAST(CACHE / 2 / m->I, columns) / PANEL * PANEL;
  m->columns = most < PANEL ? PANEL : most;
  m->parts = ceil_div(m->N, m->columns);
  m->size = (m->parts > 1 ? m->columns : ceil_div(m->N, W) * W) * m->I;
  m->some = LEAST(CACHE / 2 / m->size, LEAST(samples, 16));
  if (m->parts > 1 || m->some < 1) m->some = 1;
  m->strip = LEAST(NEAR / m->I / PANEL + 1, 64) * PANEL;
  m->block = (LEAST(NEAR / m->K / m->I + 1, m->O) + 3) / 4 * 4;
  m->scratch = m->some * (m->size + m->block * m->I + m->block);
}

/* Biases of some outputs of samples from `first` on, `block` apart. */
static void mix_biases(const Mixture *m, float *to, Size first, Size samples, Size o,
                       Size rows) {
  if (m->bias)
    mix(to, m->block, m->shares + first * m->K, m->bias + o, m->K, m->O, rows, samples);
  else
    memset(to, 0, sizeof(float) * samples * m->block);
  for (Size b = 0; m->shift && b < samples; b++)
    for (Size r = 0; r < rows; r++)
      to[b * m->block + r] += m->shift[(first + b) * m->shift_batch + o + r];
}

/* Mean of a row and the sum of squared deviations from it. */
static void add_moments(float *to, const float *row, Size count) {
  const float near = row_sum(row, count) / count; /* rounded; the rest comes after it */
  vec sum = {0}, squares = {0};
  for (Size n = 0; n < count; n += W) {
    const vec deviation = keep_some(load_some(row + n, count - n) - near, count - n);
    sum += deviation;
    squares += deviation * deviation;
  }
  const float rest = sum_of(sum) / count;
  to[0] = near + rest;
  to[1] = sum_of(squares) - rest * rest * count;
}

/* Units from `first` to `last`; y belongs to the first sample. */
static void apply_units(const Mixture *m, float *packed, Size first, Size last, float *y) {
  const Size I = m->I, N = m->N, start_sample = first / m->parts;
  const Size samples = ceil_div(last, m->parts) - start_sample;
  float *kernels = packed + m->some * m->size;
  float *biases = kernels + m->some * m->block * I;
  for (Size u = first; u < last; u++) {
    const Size start = u % m->parts * m->columns;
    pack(packed + (u - first) * m->size, m->x + u / m->parts * m->x_batch + start, I,
         m->x_row, LEAST(m->columns, N - start));
  }
  for (Size o = 0; o < m->O; o += m->block) {
    const Size rows = LEAST(m->block, m->O - o);
    mix(kernels, m->block * I, m->shares + start_sample * m->K, m->weight + o * I, m->K,
        m->O * I, rows * I, samples);
    mix_biases(m, biases, start_sample, samples, o, rows);
    for (Size u = first; u < last; u++) {
      const Size b = u / m->parts - start_sample, start = u % m->parts * m->columns;
      const Size stop = LEAST(start + m->columns, N);
      const float *from = packed + (u - first) * m->size;
      const float *kernel = kernels + b * m->block * I, *bias = biases + b * m->block;
      float *to = y + (b * m->O + o) * N;
      for (Size n = start, next = n; n < stop; n = next) {
        for (Size r = 0; r < rows;) {
          const Size outputs = rows - r >= 4 ? 4 : 1;
          for (next = n; next < LEAST(n + m->strip, stop);) {
            const Size vectors = panel_of(stop - next);
            experts_tiles[outputs == 4][vectors - 1](
                from + (next - start) * I, kernel + r * I, I, bias + r, m->positive,
                to + r * N + next, N, stop - next);
            next += vectors * W;
          }
          r += outputs;
        }
      }
      for (Size r = 0; m->moments && r < rows; r++)
        add_moments(m->moments + (u * m->O + o + r) * 2, to + r * N + start, stop - start);
    }
  }
}

/* Plans units so that each thread has some. */
static void plan_threads(Mixture *m, Size B, Size threads) {
  const Size share = ceil_div(ceil_div(m->N, threads), PANEL) * PANEL;
  plan(m, (B < threads ? share : m->N) + PANEL - 1, ceil_div(B, threads));
}

/* All threads call this, inside of their region. */
static void apply_all(const Mixture *m, float *scratch, Size each, float *y, Size B) {
  const Size units = B * m->parts;
#pragma omp for schedule(static)
  for (Size task = 0; task < ceil_div(units, m->some); task++) {
    const Size first = task * m->some;
    apply_units(m, scratch + omp_get_thread_num() * each, first,
                LEAST(first + m->some, units), y + first / m->parts * m->O * m->N);
  }
}

static int experts(Mixture *m, float *y, Size B, Size threads) {
  plan_threads(m, B, threads);
  Size each = m->scratch;
  float *scratch = scratch_of(threads, &each);
  if (!scratch) return 0;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  apply_all(m, scratch, each, y, B);
  free(scratch);
  return 1;
}
