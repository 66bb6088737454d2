/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * Kernels for processors with AVX2: the two convolutions of a dense layer in float32.
 *
 *   conv      3x3x3, stride 1, padding 1, thin groups: each output a sum over the taps
 *             that lie inside, nothing unrolled and no zeros multiplied
 *   conv_grad its gradient with respect to the kernels
 *   experts   1x1x1 kernels mixed for each sample, a tile of them at a time, and applied
 *   dense     both, and the ReLU between them, for evaluation
 *   experts_grad  gradients of the experts with respect to shares and kernels
 *
 * Maps are (B, C, P, Q, L) with the last axis in vectors. A tile of sums, some outputs by
 * some vectors, stays in registers; what it reads is copied into scratch first, rows
 * padded to whole vectors, so that no tile has to look where a row ends. direct.py checks
 * what comes here and says which kernel is taken. Threads are PyTorch's own: the symbols
 * of OpenMP are those that torch has loaded.
 */

#include "_vectors.h"

/* Stops the compiler from moving loads of later steps here: registers are all in use. */
#define KEEP(v) __asm__ volatile("" : "+x"(v))

/* Rows of `from`, each `length` long, to rows that are `stride` apart. */
INLINE void copy_rows(float *to, const float *from, Size rows, Size length, Size stride) {
  for (Size r = 0; r < rows; r++)
    memcpy(to + r * stride, from + r * length, sizeof(float) * length);
}

/* -- 3x3x3 ------------------------------------------------------------------------- */

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

#define CACHE (80 << 10) /* floats in scratch at a time: most of a core's second cache */

#define NEAR (4 << 10)   /* and half of its first one */

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

/* -- 1x1x1 experts ----------------------------------------------------------------- */

/* Negative values become zero; NaN stays. */
INLINE vec relu(vec v) {
  const vec zero = {0};
  return (vec)((mask)v & ~(v < zero));
}

/* Some output channels of a panel: x (inputs, vectors * W), kernel (outputs, inputs). */
INLINE void experts_tile(const float *x, const float *kernel, Size inputs,
                         const float *bias, int positive, float *y, Size y_row, Size left,
                         const int outputs, const int vectors) {
  vec sums[MOST_OUTPUTS][MOST_VECTORS];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      sums[o][t] = (vec){0} + (bias ? bias[o] : 0.0f);
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
        for (Size n = 0; n < width; n++) to[n] = n < some ? row[n] : 0;
      }
    }
    from += some;
    positions -= some;
  }
}

/* Mixes `count` values of K experts that are `expert` apart. */
static void mix(float *to, const float *shares, const float *experts, Size K, Size expert,
                Size count) {
  Size at = 0;
  for (; at + W <= count; at += W) {
    vec sum = shares[0] * load(experts + at);
    for (Size k = 1; k < K; k++) sum += shares[k] * load(experts + k * expert + at);
    store(to + at, sum);
  }
  for (; at < count; at++) {
    to[at] = 0;
    for (Size k = 0; k < K; k++) to[at] += shares[k] * experts[k * expert + at];
  }
}

/* x (B, I, N), shares (B, K), experts (K, O, I), bias (B, O) to y (B, O, N).
 * A unit is a sample, or the part of one that fits the cache. Some units are packed, then
 * a block of kernels is mixed for each of them while the experts' rows are at hand. */
typedef struct {
  const float *x, *shares, *weight, *bias;
  Size x_batch, K, O, I, N;
  int positive;
  Size columns, parts; /* of a unit; units of a sample */
  Size some, size;     /* units that are packed at a time; floats of each */
  Size block, strip;   /* kernels mixed at a time; columns that each tile goes through */
  Size scratch;
} Mixture;

static void plan(Mixture *m, Size columns, Size samples) {
  const Size panel = 3 * W, most = LEAST(CACHE / 2 / m->I, columns) / panel * panel;
  m->columns = most < panel ? panel : most;
  m->parts = ceil_div(m->N, m->columns);
  m->size = (m->parts > 1 ? m->columns : ceil_div(m->N, W) * W) * m->I;
  m->some = LEAST(CACHE / 2 / m->size, LEAST(samples, 16));
  if (m->parts > 1 || m->some < 1) m->some = 1;
  m->strip = LEAST(NEAR / m->I / panel + 1, 64) * panel;
  m->block = (LEAST(CACHE / 2 / m->K / m->I, m->O) + 3) / 4 * 4;
  m->scratch = m->some * m->size + m->block * m->I;
}

/* Units from `first` to `last`; y belongs to the first sample. */
static void apply_units(const Mixture *m, float *packed, Size first, Size last, float *y) {
  const Size I = m->I, N = m->N, start_sample = first / m->parts;
  float *kernels = packed + m->some * m->size;
  for (Size u = first; u < last; u++) {
    const Size start = u % m->parts * m->columns;
    pack(packed + (u - first) * m->size, m->x + u / m->parts * m->x_batch + start, I, N,
         LEAST(m->columns, N - start));
  }
  for (Size o = 0; o < m->O; o += m->block) {
    const Size rows = LEAST(m->block, m->O - o);
    for (Size u = first; u < last; u++) {
      const Size b = u / m->parts, start = u % m->parts * m->columns;
      const Size stop = LEAST(start + m->columns, N);
      const float *from = packed + (u - first) * m->size;
      const float *bias = m->bias ? m->bias + b * m->O + o : NULL;
      float *to = y + ((b - start_sample) * m->O + o) * N;
      mix(kernels, m->shares + b * m->K, m->weight + o * I, m->K, m->O * I, rows * I);
      for (Size n = start, next = n; n < stop; n = next) {
        for (Size r = 0; r < rows;) {
          const Size outputs = rows - r >= 4 ? 4 : 1;
          for (next = n; next < LEAST(n + m->strip, stop);) {
            const Size vectors = panel_of(stop - next);
            experts_tiles[outputs == 4][vectors - 1](
                from + (next - start) * I, kernels + r * I, I, bias ? bias + r : NULL,
                m->positive, to + r * N + next, N, stop - next);
            next += vectors * W;
          }
          r += outputs;
        }
      }
    }
  }
}

static int experts(Mixture *m, float *y, Size B, Size threads) {
  const Size panel = 3 * W;
  const Size share = B < threads ? ceil_div(ceil_div(m->N, threads), panel) * panel : m->N;
  plan(m, share + panel - 1, ceil_div(B, threads));
  const Size units = B * m->parts, tasks = ceil_div(units, m->some);
  float *scratch = scratch_of(threads, &m->scratch);
  if (!scratch) return 0;
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (Size task = 0; task < tasks; task++) {
    const Size first = task * m->some;
    apply_units(m, scratch + omp_get_thread_num() * m->scratch, first,
                LEAST(first + m->some, units), y + first / m->parts * m->O * m->N);
  }
  free(scratch);
  return 1;
}

/* Both convolutions of a dense layer: experts, then 3x3x3 of some samples while what is
 * between them is in the cache. kernel (G * outputs, O / G, 3, 3, 3). */
static int dense(Mixture *m, const float *kernel, float *y, Size y_batch, Size B, Size G,
                 Size outputs, Size P, Size Q, Size L, Size threads) {
  plan(m, m->N + 3 * W - 1, ceil_div(B, threads));
  const Size inputs = m->O / G, map = P * Q * L;
  const Size width = width_of(outputs);
  const Layout at = layout_of(inputs, P, Q, L);
  const Size between = m->some * m->O * m->N, rows = inputs * at.channel;
  Size each = m->scratch + between + rows + LINE;
  float *taps = taps_of(kernel, G * outputs, inputs, width);
  float *scratch = scratch_of(threads, &each);
  if (taps && scratch) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
    for (Size task = 0; task < ceil_div(B, m->some); task++) {
      float *mine = scratch + omp_get_thread_num() * each, *packed = mine + rows + LINE;
      float *inner = packed + m->scratch;
      const Size first = task * m->some, last = LEAST(first + m->some, B);
      for (Size u = first * m->parts; u < last * m->parts; u += m->some)
        apply_units(m, packed, u, LEAST(u + m->some, last * m->parts),
                    inner + (u / m->parts - first) * m->O * m->N);
      for (Size b = first; b < last; b++) {
        for (Size g = 0; g < G; g++) {
          const float *from = inner + ((b - first) * m->O + g * inputs) * m->N;
          take_maps(&at, mine, from, P * Q, L);
          conv_group(&at, mine, taps + g * outputs * inputs * 27, NULL,
                     y + b * y_batch + g * outputs * map, outputs, width, P, Q, L);
        }
      }
    }
  }
  const int done = taps && scratch;
  free(taps);
  free(scratch);
  return done;
}

/* A tile of the experts, (K, outputs, vectors * W), and what its gradients are so far. */
typedef struct {
  float *weight, *grad;
  Size K;
} Experts;

/* The gradient of a sample's kernel, a tile of it: sums over positions. They go on from
 * `known` unless `first`, and to `known` if shares are NULL; otherwise to the gradients
 * of the experts and, as vectors whose elements are still to be summed, of the shares. */
INLINE void share_tile(const Experts *e, const float *x, const float *grad, Size channel,
                       Size positions, float *known, int first, const float *shares,
                       float *grad_shares, const int outputs, const int vectors) {
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
  if (!shares) {
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        store(known + (o * vectors + t) * W, sums[o][t]);
    return;
  }
  for (Size k = 0; k < e->K; k++) {
    vec worth = load(grad_shares + k * W);
    UNROLL for (int o = 0; o < outputs; o++) {
      UNROLL for (int t = 0; t < vectors; t++) {
        const Size at = ((k * outputs + o) * vectors + t) * W;
        worth += sums[o][t] * load(e->weight + at);
        store(e->grad + at, load(e->grad + at) + shares[k] * sums[o][t]);
      }
    }
    store(grad_shares + k * W, worth);
  }
}

typedef void (*ShareTile)(const Experts *, const float *, const float *, Size, Size,
                          float *, int, const float *, float *);

#define SHARE_TILE(O, T)                                                                 \
  static void share_##O##_##T(const Experts *e, const float *x, const float *g, Size c,  \
                              Size n, float *known, int first, const float *s,           \
                              float *gs) {                                               \
    share_tile(e, x, g, c, n, known, first, s, gs, O, T);                                \
  }
SHARE_TILE(4, 1) SHARE_TILE(4, 2) SHARE_TILE(4, 3)
SHARE_TILE(1, 1) SHARE_TILE(1, 2) SHARE_TILE(1, 3)

static const ShareTile share_tiles[2][3] = {{share_1_1, share_1_2, share_1_3},
                                            {share_4_1, share_4_2, share_4_3}};

#define CHUNK 512 /* positions at a time, of 24 channels each */

/* Rows of a tile of experts, (K, outputs, width), from where they lie; or back, added. */
static void take_tile(float *tile, const float *from, Size K, Size expert, Size outputs,
                      Size row, Size width, Size inputs) {
  for (Size r = 0; r < K * outputs; r++)
    for (Size i = 0; i < width; i++)
      tile[r * width + i] =
          i < inputs ? from[r / outputs * expert + r % outputs * row + i] : 0;
}

static void add_tile(float *to, const float *tile, Size K, Size expert, Size outputs,
                     Size row, Size width, Size inputs) {
  for (Size r = 0; r < K * outputs; r++)
    for (Size i = 0; i < LEAST(width, inputs); i++)
      to[r / outputs * expert + r % outputs * row + i] += tile[r * width + i];
}

/* x (B, I, N), grad (B, O, N), shares (B, K), experts (K, O, I) to the gradients of the
 * shares (B, K) and of the experts. Each thread has some samples. */
static int experts_grad(const float *x, Size x_batch, const float *grad, Size grad_batch,
                        const float *shares, const float *weight, float *grad_shares,
                        float *grad_weight, Size B, Size K, Size O, Size I, Size N,
                        Size threads) {
  const Size panel = 3 * W, count = K * O * I, chunk = LEAST(N, CHUNK);
  const Size together = N > CHUNK ? 1 : LEAST(CHUNK * 2 / N + 1, ceil_div(B, threads));
  const Size tile = K * MOST_OUTPUTS * panel;
  Size each = together * chunk * panel + O * panel + 2 * tile;
  float *scratch = scratch_of(threads, &each);
  float *worth = calloc((size_t)(B * K * W), sizeof(float));
  float *sums = calloc((size_t)(threads * count), sizeof(float));
  if (scratch && worth && sums) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
    for (Size thread = 0; thread < threads; thread++) {
      float *packed = scratch + thread * each, *known = packed + together * chunk * panel;
      float *mine = sums + thread * count, *tiles = known + O * panel;
      const Size start = B * thread / threads, stop = B * (thread + 1) / threads;
      for (Size i = 0; i < I;) {
        const Size vectors = LEAST(ceil_div(I - i, W), 3), width = vectors * W;
        for (Size b0 = start; b0 < stop; b0 += together) {
          const Size b1 = LEAST(b0 + together, stop);
          for (Size n = 0; n < N; n += chunk) {
            const Size some = LEAST(chunk, N - n);
            for (Size b = b0; b < b1; b++)
              pack_turned(packed + (b - b0) * chunk * width, x + b * x_batch + i * N + n,
                          LEAST(width, I - i), width, N, some);
            for (Size o = 0; o < O;) {
              const Size outputs = O - o >= 4 ? 4 : 1, last = n + some == N;
              const Experts e = {tiles, tiles + tile, K};
              if (last) {
                take_tile(e.weight, weight + o * I + i, K, O * I, outputs, I, width, I - i);
                memset(e.grad, 0, sizeof(float) * tile);
              }
              for (Size b = b0; b < b1; b++)
                share_tiles[outputs == 4][vectors - 1](
                    &e, packed + (b - b0) * chunk * width,
                    grad + b * grad_batch + o * N + n, N, some, known + o * width, n == 0,
                    last ? shares + b * K : NULL, worth + b * K * W);
              if (last)
                add_tile(mine + o * I + i, e.grad, K, O * I, outputs, I, width, I - i);
              o += outputs;
            }
          }
        }
        i += width;
      }
    }
    for (Size k = 0; k < B * K; k++) grad_shares[k] = sum_of(load(worth + k * W));
    for (Size k = 0; k < count; k++) {
      grad_weight[k] = 0;
      for (Size t = 0; t < threads; t++) grad_weight[k] += sums[t * count + k];
    }
  }
  const int done = scratch && worth && sums;
  free(scratch);
  free(worth);
  free(sums);
  return done;
}

/* -- Python: addresses and sizes, which direct.py has checked ------------------------ */

static PyObject *answer(int done) {
  if (!done) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

static PyObject *py_conv(PyObject *self, PyObject *args) {
  Size x, x_batch, k, bias, y, y_batch, B, G, I, O, P, Q, L, threads;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnnn", &x, &x_batch, &k, &bias, &y, &y_batch, &B,
                        &G, &I, &O, &P, &Q, &L, &threads))
    return NULL;
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = conv((float *)x, x_batch, (float *)k, (float *)bias, (float *)y, y_batch, B, G, I,
              O, P, Q, L, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_conv_grad(PyObject *self, PyObject *args) {
  Size x, x_batch, grad, grad_batch, k, B, G, I, O, P, Q, L, threads;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnn", &x, &x_batch, &grad, &grad_batch, &k, &B,
                        &G, &I, &O, &P, &Q, &L, &threads))
    return NULL;
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = conv_grad((float *)x, x_batch, (float *)grad, grad_batch, (float *)k, B, G, I, O,
                   P, Q, L, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_experts(PyObject *self, PyObject *args) {
  Size x, x_batch, shares, weight, bias, y, B, K, O, I, N, positive, threads;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnn", &x, &x_batch, &shares, &weight, &bias, &y,
                        &B, &K, &O, &I, &N, &positive, &threads))
    return NULL;
  Mixture m = {.x = (float *)x, .shares = (float *)shares, .weight = (float *)weight,
               .bias = (float *)bias, .x_batch = x_batch, .K = K, .O = O, .I = I, .N = N,
               .positive = (int)positive};
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = experts(&m, (float *)y, B, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_dense(PyObject *self, PyObject *args) {
  Size x, x_batch, shares, weight, bias, k, y, y_batch, B, K, O, I, G, outputs, P, Q, L;
  Size threads;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnnnnnnn", &x, &x_batch, &shares, &weight, &bias,
                        &k, &y, &y_batch, &B, &K, &O, &I, &G, &outputs, &P, &Q, &L,
                        &threads))
    return NULL;
  Mixture m = {.x = (float *)x, .shares = (float *)shares, .weight = (float *)weight,
               .bias = (float *)bias, .x_batch = x_batch, .K = K, .O = O, .I = I,
               .N = P * Q * L, .positive = 1};
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = dense(&m, (float *)k, (float *)y, y_batch, B, G, outputs, P, Q, L, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_experts_grad(PyObject *self, PyObject *args) {
  Size x, x_batch, grad, grad_batch, shares, weight, grad_shares, grad_weight;
  Size B, K, O, I, N, threads;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnnn", &x, &x_batch, &grad, &grad_batch, &shares,
                        &weight, &grad_shares, &grad_weight, &B, &K, &O, &I, &N, &threads))
    return NULL;
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = experts_grad((float *)x, x_batch, (float *)grad, grad_batch, (float *)shares,
                      (float *)weight, (float *)grad_shares, (float *)grad_weight, B, K, O,
                      I, N, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyMethodDef methods[] = {{"conv", py_conv, METH_VARARGS, NULL},
                                {"conv_grad", py_conv_grad, METH_VARARGS, NULL},
                                {"experts", py_experts, METH_VARARGS, NULL},
                                {"dense", py_dense, METH_VARARGS, NULL},
                                {"experts_grad", py_experts_grad, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_direct", NULL, -1, methods};

PyMODINIT_FUNC PyInit__direct(void) { return PyModule_Create(&module); }
