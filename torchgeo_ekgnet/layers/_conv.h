/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * 3x3x3 convolutions of thin groups and the gradient of their kernels.
 */

#pragma once

#include "_vectors.h"

/* Stops the compiler from moving loads of later steps here: registers are all in use. */
#define KEEP(v) __asm__ volatile("" : "+x"(v))

/* Rows of `from`, each `length` long, to rows that are `stride` apart. */
INLINE void copy_rows(float *to, const float *from, Size rows, Size length, Size stride) {
  for (Size r = 0; r < rows; r++)
    memcpy(to + r * stride, from + r * length, sizeof(float) * length);
}

/* What all tiles of a group of a sample share. */
typedef struct {
  Size inputs;   /* channels */
  Size channel;  /* floats from a channel of the scratch to the next, */
  Size plane;    /* from a position of P to the next, */
  Size row;      /* from a position of Q to the next */
  Size out;      /* floats from a channel of the output to the next, */
  Size out_row;  /* and from a position of Q to the next */
} Layout;

/* A tile: `outputs` channels of `rows` neighbours along Q and `vectors` vectors.
 * x stands one position before the first along P, Q and L, where taps begin; taps from p0
 * to p1 and rows of input from q0 to q1 lie inside. kernel: (inputs, 3, 3, 3, outputs). */
INLINE void conv_tile(const Layout *at, const float *x, const float *kernel,
                      const float *bias, float *y, int p0, int p1, int q0, int q1,
                      Size left, const int rows, const int outputs, const int vectors) {
  vec sums[2][MOST_OUTPUTS][MOST_VECTORS];
  UNROLL for (int q = 0; q < rows; q++)
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[q][o][t] = (vec){0} + (bias ? bias[o] : 0.0f);
  for (Size i = 0; i < at->inputs; i++) {
    for (int p = p0; p < p1; p++) {
      const float *taps = kernel + (i * 3 + p) * 9 * outputs;
      UNROLL for (int seen = 0; seen < rows + 2; seen++) {
        if (seen < q0 || seen >= q1) continue;
        const float *from = x + i * at->channel + p * at->plane + seen * at->row;
        UNROLL for (int l = 0; l < 3; l++) {
          vec values[MOST_VECTORS];
          UNROLL for (int t = 0; t < vectors; t++) values[t] = load(from + l + W * t);
          UNROLL for (int q = 0; q < rows; q++) {
            if (seen < q || seen > q + 2) continue;
            UNROLL for (int o = 0; o < outputs; o++) {
              float tap = taps[((seen - q) * 3 + l) * outputs + o];
              UNROLL for (int t = 0; t < vectors; t++) sums[q][o][t] += tap * values[t];
            }
          }
          UNROLL for (int q = 0; q < rows; q++)
            UNROLL for (int o = 0; o < outputs; o++)
              UNROLL for (int t = 0; t < vectors; t++) KEEP(sums[q][o][t]);
        }
      }
    }
  }
  UNROLL for (int q = 0; q < rows; q++)
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        store_some(y + q * at->out_row + o * at->out + W * t, sums[q][o][t], left - W * t);
}

typedef void (*ConvTile)(const Layout *, const float *, const float *, const float *,
                         float *, int, int, int, int, Size);

#define CONV_TILE(Q, O, T)                                                               \
  static void conv_##Q##_##O##_##T(const Layout *at, const float *x, const float *k,     \
                                   const float *b, float *y, int p0, int p1, int q0,     \
                                   int q1, Size left) {                                  \
    conv_tile(at, x, k, b, y, p0, p1, q0, q1, left, Q, O, T);                            \
  }
CONV_TILE(1, 4, 1) CONV_TILE(1, 4, 2) CONV_TILE(1, 4, 3)
CONV_TILE(2, 2, 1) CONV_TILE(2, 2, 2) CONV_TILE(2, 2, 3)
CONV_TILE(1, 2, 1) CONV_TILE(1, 2, 2) CONV_TILE(1, 2, 3)
CONV_TILE(1, 1, 1) CONV_TILE(1, 1, 2) CONV_TILE(1, 1, 3)

/* By outputs and rows (one row of 4, two of 2, one of 2, one of 1), then by vectors. */
static const ConvTile conv_tiles[4][3] = {{conv_1_4_1, conv_1_4_2, conv_1_4_3},
                                          {conv_2_2_1, conv_2_2_2, conv_2_2_3},
                                          {conv_1_2_1, conv_1_2_2, conv_1_2_3},
                                          {conv_1_1_1, conv_1_1_2, conv_1_1_3}};

/* All outputs of one group of one sample; scratch holds its input. */
static void conv_group(const Layout *at, const float *scratch, const float *kernel,
                       const float *bias, float *y, Size outputs, Size width, Size P,
                       Size Q, Size L) {
  const Size vectors = ceil_div(L, W), steps = ceil_div(vectors, 3);
  for (Size step = 0, done = 0; step < steps; step++) {
    /* All rows of some columns, so that they stay in the first cache. */
    const Size now = ceil_div(vectors - done, steps - step), left = L - W * done;
    for (Size o = 0; o < outputs; o += width) {
      const float *taps = kernel + o * at->inputs * 27, *biases = bias ? bias + o : NULL;
      for (Size p = 0; p < P; p++) {
        const int p0 = p == 0, p1 = p == P - 1 ? 2 : 3;
        for (Size q = 0; q < Q;) {
          const int rows = width == 2 && q + 1 < Q ? 2 : 1;
          const ConvTile *tiles = conv_tiles[width == 4 ? 0 : width == 1 ? 3 : 3 - rows];
          const float *from = scratch + (p - 1) * at->plane + (q - 1) * at->row + W * done;
          float *to = y + o * at->out + (p * Q + q) * L + W * done;
          tiles[now - 1](at, from, taps, biases, to, p0, p1, q == 0,
                         (int)LEAST(rows + 2, Q - q + 1), left);
          q += rows;
        }
      }
    }
    done += now;
  }
}

/* Rows have a zero in front and at least one behind. Between large channels are three
 * lines, or they would compete for the same places of the first cache. */
INLINE Layout layout_of(Size inputs, Size P, Size Q, Size L) {
  const Size row = ceil_div(L, W) * W + W, channel = P * Q * row;
  const Size gap = channel < 1024 ? 0 : 3 * LINE / (Size)sizeof(float);
  const Layout at = {inputs, channel + gap, Q * row, row, P * Q * L, L};
  return at;
}

/* Copies the maps of a group. */
static void take_maps(const Layout *at, float *to, const float *from, Size rows, Size L) {
  for (Size i = 0; i < at->inputs; i++)
    copy_rows(to + i * at->channel + 1, from + i * rows * L, rows, L, at->row);
}

/* Outputs of a tile. */
INLINE Size width_of(Size outputs) {
  return outputs % 4 == 0 ? 4 : outputs % 2 == 0 ? 2 : 1;
}

/* Kernels (outputs, inputs, 3, 3, 3) with the outputs of a tile side by side. */
static float *taps_of(const float *kernel, Size outputs, Size inputs, Size width) {
  const Size count = inputs * 27;
  float *taps = malloc((size_t)(outputs * count) * sizeof(float));
  for (Size o = 0; taps && o < outputs; o++)
    for (Size t = 0; t < count; t++)
      taps[(o / width * count + t) * width + o % width] = kernel[o * count + t];
  return taps;
}

/* x (B, G * I, P, Q, L), kernel (G * O, I, 3, 3, 3), y (B, G * O, P, Q, L). */
static int conv(const float *x, Size x_batch, const float *kernel, const float *bias,
                float *y, Size y_batch, Size B, Size G, Size I, Size O, Size P, Size Q,
                Size L, Size threads) {
  const Size width = width_of(O);
  const Layout at = layout_of(I, P, Q, L);
  Size each = I * at.channel;
  float *taps = taps_of(kernel, G * O, I, width);
  float *scratch = scratch_of(threads, &each);
  if (taps && scratch) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
    for (Size task = 0; task < B * G; task++) {
      const Size b = task / G, g = task % G;
      float *mine = scratch + omp_get_thread_num() * each;
      take_maps(&at, mine, x + b * x_batch + g * I * P * Q * L, P * Q, L);
      conv_group(&at, mine, taps + g * O * I * 27, bias ? bias + g * O : NULL,
                 y + b * y_batch + g * O * P * Q * L, O, width, P, Q, L);
    }
  }
  const int done = taps && scratch;
  free(taps);
  free(scratch);
  return done;
}

/* Samples of a group in scratch, for the gradient of its kernels. */
typedef struct {
  const float *x, *y;
  Size samples, x_sample, y_sample, x_channel, y_channel, x_row, y_row;
  Size P, Q;
} Samples;

/* Adds one tap along P and Q, and three along L, of some outputs and inputs. */
INLINE void grad_tile(const Samples *s, Size o, Size i, int p, int q, float *to,
                      Size to_output, const int outputs, const int inputs) {
  vec sums[MOST_OUTPUTS][2][3];
  UNROLL for (int a = 0; a < outputs; a++)
    UNROLL for (int b = 0; b < inputs; b++)
      UNROLL for (int l = 0; l < 3; l++) sums[a][b][l] = (vec){0};
  const Size p1 = p == 2 ? s->P - 1 : s->P, q1 = q == 2 ? s->Q - 1 : s->Q;
  for (Size n = 0; n < s->samples; n++) {
    const float *x = s->x + n * s->x_sample + i * s->x_channel;
    const float *y = s->y + n * s->y_sample + o * s->y_channel;
    for (Size row_p = p == 0; row_p < p1; row_p++) {
      for (Size row_q = q == 0; row_q < q1; row_q++) {
        const float *seen = x + ((row_p + p - 1) * s->Q + row_q + q - 1) * s->x_row;
        const float *grad = y + (row_p * s->Q + row_q) * s->y_row;
        for (Size at = 0; at < s->y_row; at += W) {
          vec grads[MOST_OUTPUTS];
          UNROLL for (int a = 0; a < outputs; a++)
            grads[a] = load(grad + a * s->y_channel + at);
          UNROLL for (int b = 0; b < inputs; b++) {
            UNROLL for (int l = 0; l < 3; l++) {
              const vec values = load(seen + b * s->x_channel + l + at);
              UNROLL for (int a = 0; a < outputs; a++) sums[a][b][l] += grads[a] * values;
            }
          }
        }
      }
    }
  }
  UNROLL for (int a = 0; a < outputs; a++)
    UNROLL for (int b = 0; b < inputs; b++)
      UNROLL for (int l = 0; l < 3; l++)
        to[a * to_output + b * 27 + l] += sum_of(sums[a][b][l]);
}

static void grad_group(const Samples *s, float *to, Size outputs, Size inputs) {
  for (int p = 0; p < 3; p++) {
    for (int q = 0; q < 3; q++) {
      for (Size o = 0; o < outputs;) {
        const Size some = outputs - o >= 4 ? 4 : outputs - o >= 2 ? 2 : 1;
        for (Size i = 0; i < inputs;) {
          float *taps = to + (o * inputs + i) * 27 + (p * 3 + q) * 3;
          const Size two = some == 2 && inputs - i >= 2;
          if (some == 4) grad_tile(s, o, i, p, q, taps, inputs * 27, 4, 1);
          else if (two) grad_tile(s, o, i, p, q, taps, inputs * 27, 2, 2);
          else if (some == 2) grad_tile(s, o, i, p, q, taps, inputs * 27, 2, 1);
          else grad_tile(s, o, i, p, q, taps, inputs * 27, 1, 1);
          i += 1 + two;
        }
        o += some;
      }
    }
  }
}

/* grad (B, G * O, P, Q, L) and x (B, G * I, P, Q, L) to kernel (G * O, I, 3, 3, 3). */
static int conv_grad(const float *x, Size x_batch, const float *grad, Size grad_batch,
                     float *kernel, Size B, Size G, Size I, Size O, Size P, Size Q, Size L,
                     Size threads) {
  const Size whole = ceil_div(L, W) * W, row = whole + W, map = P * Q * L;
  const Size x_sample = I * P * Q * row, y_sample = O * P * Q * whole;
  Size samples = LEAST(CACHE / (x_sample + y_sample), ceil_div(B * G, threads));
  samples = samples < 1 ? 1 : LEAST(samples, B);
  const Size parts = ceil_div(B, samples), count = G * O * I * 27;
  Size each = samples * (x_sample + y_sample) + W;
  float *sums = calloc((size_t)(threads * count), sizeof(float));
  float *scratch = scratch_of(threads, &each);
  if (sums && scratch) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
    for (Size task = 0; task < G * parts; task++) {
      const Size g = task / parts, first = task % parts * samples;
      float *xs = scratch + omp_get_thread_num() * each, *ys = xs + samples * x_sample + W;
      const Samples s = {xs, ys, LEAST(samples, B - first), x_sample, y_sample,
                         P * Q * row, P * Q * whole, row, whole, P, Q};
      for (Size n = 0; n < s.samples; n++) {
        copy_rows(xs + n * x_sample + 1, x + (first + n) * x_batch + g * I * map,
                  I * P * Q, L, row);
        copy_rows(ys + n * y_sample, grad + (first + n) * grad_batch + g * O * map,
                  O * P * Q, L, whole);
      }
      grad_group(&s, sums + omp_get_thread_num() * count + g * O * I * 27, O, I);
    }
    for (Size k = 0; k < count; k++) {
      kernel[k] = 0;
      for (Size t = 0; t < threads; t++) kernel[k] += sums[t * count + k];
    }
  }
  const int done = sums && scratch;
  free(sums);
  free(scratch);
  return done;
}
