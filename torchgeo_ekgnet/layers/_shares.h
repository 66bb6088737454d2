/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * Gradients of 1x1x1 experts and of the shares that mix them.
 */

#pragma once

#include "_vectors.h"

#define CHUNK 512 /* positions at a time, of 24 channels each */

/* x (B, I, N) and grad (B, O, N) to the gradients of experts (K, O, I) and shares (B, K).
 * Tiles of a sample's kernel gradient, 4 outputs by 24 inputs, are summed over positions
 * for some samples, and what they are worth to experts and shares is added at once. */
typedef struct {
  const float *x, *shares, *weight;
  Size x_batch, K, O, I, N;
  const float *grad;
  Size grad_batch, grad_row; /* from a channel to the next */
  Size chunk, together;      /* positions and samples at a time */
  Size packed, known;        /* floats of scratch: inputs, kernel gradients */
  int by_panel;              /* threads part inputs, or else samples */
} Shares;

static Size plan_shares(Shares *s, Size B, Size threads) {
  s->chunk = LEAST(s->N, CHUNK);
  s->by_panel = ceil_div(s->I, PANEL) >= 2 * threads;
  const Size samples = s->by_panel ? B : ceil_div(B, threads);
  s->together = s->N > CHUNK ? 1 : LEAST(CHUNK * 2 / s->N + 1, samples);
  s->packed = s->together * s->chunk * PANEL;
  const Size all = s->O * PANEL, some = s->together * MOST_OUTPUTS * PANEL;
  s->known = s->N > CHUNK && all > some ? all : some;
  return s->packed + s->known + s->K * MOST_OUTPUTS * PANEL;
}

/* A tile of a sample's kernel gradient: sums over positions, onto `known` unless `first`. */
INLINE void kernel_tile(const float *x, const float *grad, Size channel, Size positions,
                        float *known, int first, const int outputs, const int vectors) {
  vec sums[MOST_OUTPUTS][MOST_VECTORS];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      sums[o][t] = first ? (vec){0} : load(known + (o * vectors + t) * W);
  for (Size n = 0; n < positions; n++) {
    vec values[MOST_VECTORS];
    UNROLL for (int t = 0; t < vectors; t++) values[t] = load(x + (n * vectors + t) * W);
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[o][t] += grad[o * channel + n] * values[t];
  }
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      store(known + (o * vectors + t) * W, sums[o][t]);
}

/* Adds a row of the tiles of some samples, which are `next` apart, to some experts. */
INLINE void experts_row(float *to, Size expert, Size left, const float *tiles, Size next,
                        const float *shares, Size K, Size samples, const int experts,
                        const int vectors) {
  vec sums[4][MOST_VECTORS] = {0};
  for (Size b = 0; b < samples; b++) {
    vec values[MOST_VECTORS];
    UNROLL for (int t = 0; t < vectors; t++) values[t] = load(tiles + b * next + t * W);
    UNROLL for (int k = 0; k < experts; k++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[k][t] += shares[b * K + k] * values[t];
  }
  UNROLL for (int k = 0; k < experts; k++) {
    UNROLL for (int t = 0; t < vectors; t++) {
      float *at = to + k * expert + t * W;
      store_some(at, load_some(at, left - t * W) + sums[k][t], left - t * W);
    }
  }
}

/* Adds the products of some samples' tiles with those of some experts, (count * W), to
 * vectors (samples, K, W) whose elements are still to be summed. */
INLINE void worth_tile(float *worth, Size K, const float *tiles, Size next,
                       const float *weight, Size count, const int samples,
                       const int experts) {
  vec sums[4][2] = {0};
  for (Size v = 0; v < count * W; v += W) {
    vec values[2];
    UNROLL for (int k = 0; k < experts; k++) values[k] = load(weight + k * count * W + v);
    UNROLL for (int b = 0; b < samples; b++)
      UNROLL for (int k = 0; k < experts; k++)
        sums[b][k] += load(tiles + b * next + v) * values[k];
  }
  UNROLL for (int b = 0; b < samples; b++) {
    UNROLL for (int k = 0; k < experts; k++) {
      float *at = worth + (b * K + k) * W;
      store(at, load(at) + sums[b][k]);
    }
  }
}

/* Gradients of a tile of the experts. tiles: of samples b0 to b1; weight: (K, outputs,
 * vectors * W); to: where the tile begins in the gradient of the first expert. */
INLINE void finish_tile(const Shares *s, const float *tiles, const float *weight, Size b0,
                        Size b1, Size left, float *to, float *worth, const int outputs,
                        const int vectors) {
  const Size K = s->K, next = outputs * vectors * W, expert = s->O * s->I;
  for (int o = 0; o < outputs; o++) {
    const float *row = tiles + o * vectors * W;
    for (Size k = 0; k < K;) {
      const float *shares = s->shares + b0 * K + k;
      float *at = to + k * expert + o * s->I;
      if (k + 4 <= K) {
        experts_row(at, expert, left, row, next, shares, K, b1 - b0, 4, vectors);
        k += 4;
      } else {
        experts_row(at, expert, left, row, next, shares, K, b1 - b0, 1, vectors);
        k += 1;
      }
    }
  }
  for (Size b = b0; b < b1;) {
    const Size four = b + 4 <= b1;
    for (Size k = 0; k < K;) {
      const Size two = k + 2 <= K, count = outputs * vectors;
      const float *these = tiles + (b - b0) * next, *those = weight + k * next;
      float *at = worth + (b * K + k) * W;
      if (four && two) worth_tile(at, K, these, next, those, count, 4, 2);
      else if (four) worth_tile(at, K, these, next, those, count, 4, 1);
      else if (two) worth_tile(at, K, these, next, those, count, 1, 2);
      else worth_tile(at, K, these, next, those, count, 1, 1);
      k += 1 + two;
    }
    b += four ? 4 : 1;
  }
}

/* Samples b0 to b1 of a tile. packed: (samples, chunk, vectors * W). */
INLINE void share_tile(const Shares *s, const float *packed, float *known, float *weight,
                       Size b0, Size b1, Size n, Size o, Size i, float *to, float *worth,
                       const int outputs, const int vectors) {
  const Size width = vectors * W, some = LEAST(s->chunk, s->N - n), left = s->I - i;
  const Size tile = outputs * width;
  float *tiles = s->N > CHUNK ? known + o * width : known;
  for (Size b = b0; b < b1; b++)
    kernel_tile(packed + (b - b0) * s->chunk * width,
                s->grad + b * s->grad_batch + o * s->grad_row + n, s->grad_row, some,
                tiles + (b - b0) * tile, n == 0, outputs, vectors);
  if (n + some < s->N) return;
  for (Size k = 0; k < s->K; k++) {
    for (Size r = 0; r < outputs; r++) {
      const float *from = s->weight + (k * s->O + o + r) * s->I + i;
      UNROLL for (int t = 0; t < vectors; t++)
        store(weight + (k * outputs + r) * width + t * W,
              load_some(from + t * W, left - t * W));
    }
  }
  finish_tile(s, tiles, weight, b0, b1, left, to + o * s->I + i, worth, outputs, vectors);
}

typedef void (*ShareTile)(const Shares *, const float *, float *, float *, Size, Size,
                          Size, Size, Size, float *, float *);

#define SHARE_TILE(O, T)                                                                 \
  static void share_##O##_##T(const Shares *s, const float *p, float *k, float *w,       \
                              Size b0, Size b1, Size n, Size o, Size i, float *to,       \
                              float *worth) {                                            \
    share_tile(s, p, k, w, b0, b1, n, o, i, to, worth, O, T);                            \
  }
SHARE_TILE(4, 1) SHARE_TILE(4, 2) SHARE_TILE(4, 3)
SHARE_TILE(1, 1) SHARE_TILE(1, 2) SHARE_TILE(1, 3)

static const ShareTile share_tiles[2][3] = {{share_1_1, share_1_2, share_1_3},
                                            {share_4_1, share_4_2, share_4_3}};

/* Adds the gradients of a panel of inputs, from samples `start` to `stop`. */
static void share_panel(const Shares *s, float *scratch, Size i, Size start, Size stop,
                        float *to, float *worth) {
  float *known = scratch + s->packed, *weight = known + s->known;
  const Size vectors = LEAST(ceil_div(s->I - i, W), 3), width = vectors * W;
  for (Size b0 = start; b0 < stop; b0 += s->together) {
    const Size b1 = LEAST(b0 + s->together, stop);
    for (Size n = 0; n < s->N; n += s->chunk) {
      for (Size b = b0; b < b1; b++)
        pack_turned(scratch + (b - b0) * s->chunk * width,
                    s->x + b * s->x_batch + i * s->N + n, LEAST(width, s->I - i), width,
                    s->N, LEAST(s->chunk, s->N - n));
      for (Size o = 0; o < s->O;) {
        const Size outputs = s->O - o >= 4 ? 4 : 1;
        share_tiles[outputs == 4][vectors - 1](s, scratch, known, weight, b0, b1, n, o, i,
                                               to, worth);
        o += outputs;
      }
    }
  }
}

/* Floats that all threads need to add in: gradients of experts and shares. */
static Size sums_of(const Shares *s, Size B, Size threads) {
  const Size own = s->by_panel ? 0 : s->K * s->O * s->I;
  return threads * (own + B * s->K * W);
}

/* All threads call this, inside of their region. sums: zeros. */
static void share_all(const Shares *s, float *scratch, Size each, float *sums, Size B,
                      float *grad_shares, float *grad_weight, Size threads) {
  const Size count = s->K * s->O * s->I, panels = ceil_div(s->I, PANEL);
  const Size thread = omp_get_thread_num(), shares = B * s->K;
  float *all_worth = sums + (s->by_panel ? 0 : threads * count);
  float *mine = scratch + thread * each, *worth = all_worth + thread * shares * W;
  if (s->by_panel) {
#pragma omp for schedule(static)
    for (Size k = 0; k < count; k++) grad_weight[k] = 0;
#pragma omp for schedule(static)
    for (Size panel = 0; panel < panels; panel++)
      share_panel(s, mine, panel * PANEL, 0, B, grad_weight, worth);
  } else {
    const Size team = omp_get_num_threads(); /* fewer than asked for, if OpenMP says so */
    const Size start = B * thread / team, stop = B * (thread + 1) / team;
    for (Size panel = 0; panel < panels; panel++)
      share_panel(s, mine, panel * PANEL, start, stop, sums + thread * count, worth);
#pragma omp barrier
#pragma omp for schedule(static)
    for (Size k = 0; k < count; k++) {
      float sum = 0;
      for (Size t = 0; t < threads; t++) sum += sums[t * count + k];
      grad_weight[k] = sum;
    }
  }
#pragma omp for schedule(static)
  for (Size k = 0; k < shares; k++) {
    vec sum = {0};
    for (Size t = 0; t < threads; t++) sum += load(all_worth + (t * shares + k) * W);
    grad_shares[k] = sum_of(sum);
  }
}

static int experts_grad(Shares *s, float *grad_shares, float *grad_weight, Size B,
                        Size threads) {
  Size each = plan_shares(s, B, threads);
  float *scratch = scratch_of(threads, &each);
  float *sums = calloc((size_t)sums_of(s, B, threads), sizeof(float));
  if (scratch && sums) {
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    share_all(s, scratch, each, sums, B, grad_shares, grad_weight, threads);
  }
  const int done = scratch && sums;
  free(scratch);
  free(sums);
  return done;
}
