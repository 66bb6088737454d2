/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * The mapping network of an expert layer for processors with AVX2, in float32.
 *
 *   forward   contexts (B, C) to weights of the experts (B, K), in training and evaluation
 *   backward  its gradients
 *
 * Inside, samples are the last axis: S of them, B and zeros up to whole vectors. So a
 * normalization is about one row, and a product reads rows.
 *
 * A thread has rows of its own in all maps; it waits for the others only where a product
 * reads all rows. A row is computed in the same order whoever computes it, so results do
 * not depend on the number of threads. mapped_cpu.py hands over addresses; the network is
 * a list of units (normalization, GELU, product), some of which are a residual block, and
 * an end without GELU.
 */

#include "_vectors.h"

#include <limits.h>

#define COLUMNS (2 * W) /* columns of a tile; it has up to 6 rows, 12 of 16 registers */

/* Multiplications of a product from which two threads take less time than one: 128 channels
 * at batch 80. Waking up a thread that sleeps takes 55 microseconds; one that still waits
 * would be worth it from 24 channels on. */
#define WORTH_THREADS 1200000

/* Of a normalization and the product behind it. Behind the last one come the residual
 * weights of the blocks and the raw temperature; gradients are written to the same places
 * of another such list. */
typedef struct {
  float *weight, *bias, *kernel, *shift;
} Unit;

/* Running statistics of a normalization. */
typedef struct {
  float *mean, *variance;
  long long *batches;
} Running;

/* What is kept of a unit: its input, active, derivatives of GELU, output (C, S); mean and
 * 1 / deviation (C). */
typedef struct {
  float *x, *active, *slope, *y, *mean, *inverse;
} Kept;

typedef struct {
  Size B, S, C, K, blocks, units; /* S: B up to whole vectors; units: of a block */
  Size training;
  const long long *learnt; /* whether the residual weight of a block is */
  float share, eps, floor;
} Net;

/* Rows that a thread computes. */
typedef struct {
  Size first, stop;
} Part;

/* -- Functions ----------------------------------------------------------------------- */

/* e^x for x from -87 on, below it e^-87 (polynomial of Cephes, error 2e-7 of the value). */
INLINE vec exp_of(vec x) {
  const float magic = 12582912.0f; /* rounds what is added to it */
  const mask beyond = x < -87.0f;
  x = (vec)((beyond & (mask)((vec){0} - 87.0f)) | (~beyond & (mask)x));
  const vec shifted = x * 1.44269504f + magic, whole = shifted - magic;
  const vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  /* Three pairs of terms, so that one operation need not wait for the last. */
  const vec squared = r * r, high = r * 1.9875691500e-4f + 1.3981999507e-3f;
  const vec middle = r * 8.3334519073e-3f + 4.1665795894e-2f;
  const vec low = r * 1.6666665459e-1f + 5.0000001201e-1f;
  const vec y = ((high * squared + middle) * squared + low) * squared + (r + 1.0f);
  return y * (vec)(((mask)shifted - 0x4B400000 + 127) << 23);
}

/* Shares of a normal distribution below z, and its density at z (Abramowitz and Stegun,
 * 7.1.26: error 1.5e-7). */
INLINE vec normal_of(vec z, vec *density) {
  const mask top = (mask){0} + INT_MIN, sign = (mask)z & top;
  const vec x = (vec)((mask)z & ~top) * 0.70710678f;
  const vec bell = exp_of(-x * x), t = 1.0f / (x * 0.3275911f + 1.0f);
  vec y = t * 1.061405429f - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = y * t + 0.254829592f;
  const vec erf = 1.0f - y * t * bell;
  *density = bell * 0.39894228f;
  return (vec)((mask)erf | sign) * 0.5f + 0.5f;
}

/* to = a + b * scale, of `length` values; a may be NULL. */
static void add_scaled(float *to, const float *a, const float *b, float scale,
                       Size length) {
  for (Size i = 0; i < length; i += W) {
    const vec scaled = load(b + i) * scale;
    store(to + i, a ? load(a + i) + scaled : scaled);
  }
}

/* -- Rows of threads ----------------------------------------------------------------- */

/* Whole vectors of rows, as even as can be, for each thread of a team; none for some where
 * there are few. */
static Part part_of(Size rows) {
  const Size vectors = ceil_div(rows, W), team = omp_get_num_threads();
  const Size thread = omp_get_thread_num();
  const Part part = {LEAST(rows, vectors * thread / team * W),
                     LEAST(rows, vectors * (thread + 1) / team * W)};
  return part;
}

/* Some columns of (B, columns) to rows (columns, S) with zeros behind them. */
static void to_rows(float *to, const float *from, Size B, Size S, Size columns, Part part) {
  for (Size c = part.first; c < part.stop; c += W) {
    const Size some = LEAST(W, part.stop - c);
    for (Size s = 0; s < S; s += W) {
      if (some == W && s + W <= B) {
        turn(to + c * S + s, S, from + s * columns + c, columns);
      } else {
        for (Size i = c; i < c + some; i++)
          for (Size j = s; j < s + W; j++)
            to[i * S + j] = j < B ? from[j * columns + i] : 0;
      }
    }
  }
}

/* And back. */
static void to_columns(float *to, const float *from, Size B, Size S, Size columns,
                       Part part) {
  for (Size c = part.first; c < part.stop; c += W) {
    const Size some = LEAST(W, part.stop - c);
    for (Size s = 0; s < B; s += W) {
      if (some == W && s + W <= B) {
        turn(to + s * columns + c, columns, from + c * S + s, S);
      } else {
        for (Size j = s; j < LEAST(s + W, B); j++)
          for (Size i = c; i < c + some; i++) to[j * columns + i] = from[i * S + j];
      }
    }
  }
}

/* -- Products ------------------------------------------------------------------------ */

/* Rows of the next tile: two tiles of 4 are faster than one of 6 and one of 2. */
INLINE Size tile_of(Size left) {
  return left >= 6 && left != 8 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

INLINE void product_tile(const float *x, Size S, const float *kernel, Size out, Size in,
                         Size inputs, const float *shift, float *y, const int outputs,
                         const int vectors) {
  vec sums[6][2];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      sums[o][t] = (vec){0} + (shift ? shift[o] : 0.0f);
  for (Size i = 0; i < inputs; i++) {
    vec values[2];
    UNROLL for (int t = 0; t < vectors; t++) values[t] = load(x + i * S + t * W);
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[o][t] += kernel[o * out + i * in] * values[t];
  }
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++) store(y + o * S + t * W, sums[o][t]);
}

INLINE void product_rows(const float *x, Size S, Part samples, const float *kernel,
                         Size out, Size in, Size inputs, const float *shift, float *y,
                         const int outputs) {
  Size s = samples.first;
  for (; s + COLUMNS <= samples.stop; s += COLUMNS)
    product_tile(x + s, S, kernel, out, in, inputs, shift, y + s, outputs, 2);
  if (s < samples.stop)
    product_tile(x + s, S, kernel, out, in, inputs, shift, y + s, outputs, 1);
}

/* Some rows and samples of y (outputs, S) = kernel x + shift; kernel element (o, i) at
 * o * out + i * in. */
static void product(const float *x, Size S, Part samples, const float *kernel, Size out,
                    Size in, Size inputs, const float *shift, float *y, Part part) {
  for (Size o = part.first; o < part.stop;) {
    const Size tile = tile_of(part.stop - o);
    const float *rows = kernel + o * out, *shifts = shift ? shift + o : NULL;
    float *to = y + o * S;
    if (tile == 6)
      product_rows(x, S, samples, rows, out, in, inputs, shifts, to, 6);
    else if (tile == 4)
      product_rows(x, S, samples, rows, out, in, inputs, shifts, to, 4);
    else if (tile == 2)
      product_rows(x, S, samples, rows, out, in, inputs, shifts, to, 2);
    else
      product_rows(x, S, samples, rows, out, in, inputs, shifts, to, 1);
    o += tile;
  }
}

INLINE void outer_tile(const float *turned, const float *grad, Size S, Size B, float *to,
                       Size row, Size left, const int outputs, const int vectors) {
  vec sums[6][2];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++) sums[o][t] = (vec){0};
  for (Size s = 0; s < B; s++) {
    vec values[2];
    UNROLL for (int t = 0; t < vectors; t++)
      values[t] = load(turned + (s * vectors + t) * W);
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++) sums[o][t] += grad[o * S + s] * values[t];
  }
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      store_some(to + o * row + t * W, sums[o][t], left - t * W);
}

INLINE void outer_panel(const float *x, const float *grad, Size S, Size B, float *to,
                        Size row, Size left, Size outputs, float *turned,
                        const int vectors) {
  pack_turned(turned, x, LEAST(left, vectors * W), vectors * W, S, B);
  for (Size o = 0; o < outputs;) {
    const Size tile = tile_of(outputs - o);
    const float *from = grad + o * S;
    if (tile == 6)
      outer_tile(turned, from, S, B, to + o * row, row, left, 6, vectors);
    else if (tile == 4)
      outer_tile(turned, from, S, B, to + o * row, row, left, 4, vectors);
    else if (tile == 2)
      outer_tile(turned, from, S, B, to + o * row, row, left, 2, vectors);
    else
      outer_tile(turned, from, S, B, to + o * row, row, left, 1, vectors);
    o += tile;
  }
}

/* Some rows and columns of a kernel's gradient (outputs, inputs) = grad (outputs, S)
 * x' (S, inputs). turned: scratch of COLUMNS columns. */
static void product_grad(const Net *net, const float *x, Part columns, const float *grad,
                         Part part, float *kernel, float *turned) {
  const Size S = net->S, B = net->B, C = net->C, outputs = part.stop - part.first;
  const float *rows = grad + part.first * S;
  for (Size i = columns.first; i < columns.stop; i += COLUMNS) {
    const Size left = columns.stop - i;
    float *to = kernel + part.first * C + i;
    if (left > W)
      outer_panel(x + i * S, rows, S, B, to, C, left, outputs, turned, 2);
    else
      outer_panel(x + i * S, rows, S, B, to, C, left, outputs, turned, 1);
  }
}

/* -- Units --------------------------------------------------------------------------- */

/* Means of up to W rows and what their distances from it are multiplied by; updates running
 * statistics. */
INLINE void statistics(const Net *net, const Unit *unit, const Running *running,
                       const Kept *kept, Size first, Size rows, const int training,
                       float *means, float *scales) {
  const Size B = net->B;
  for (Size r = 0, c = first; r < rows; r++, c++) {
    const float *x = kept->x + c * net->S;
    float mean = running->mean[c], variance = running->variance[c];
    if (training) {
      mean = row_sum(x, B) / B;
      vec squares = {0};
      for (Size s = 0; s < B; s += W) {
        const vec off = keep_some(load(x + s) - mean, B - s);
        squares += off * off;
      }
      variance = sum_of(squares) / B;
      const float unbiased = variance * B / (B - 1);
      running->mean[c] += net->share * (mean - running->mean[c]);
      running->variance[c] += net->share * (unbiased - running->variance[c]);
    }
    const float inverse = 1.0f / sqrtf(variance + net->eps);
    if (training) {
      kept->mean[c] = mean;
      kept->inverse[c] = inverse;
    }
    scales[r] = inverse * unit->weight[c];
    means[r] = mean;
  }
}

/* Normalizes some rows and applies GELU where `gelu`. Some at a time go through one step
 * after the other: a row's sums are a chain of operations, those of others come between. */
INLINE void normalize(const Net *net, const Unit *unit, const Running *running,
                      const Kept *kept, const int gelu, const int training, Part part) {
  const Size B = net->B;
  if (training && omp_get_thread_num() == 0) *running->batches += 1;
  for (Size first = part.first; first < part.stop; first += W) {
    float means[W], scales[W];
    const Size rows = LEAST(W, part.stop - first);
    statistics(net, unit, running, kept, first, rows, training, means, scales);
    for (Size r = 0; r < rows; r++) {
      const Size at = (first + r) * net->S;
      const float *x = kept->x + at, shift = unit->bias[first + r];
      float *active = kept->active + at, *slope = kept->slope + at;
      for (Size s = 0; s < B; s += W) {
        const vec z = (load(x + s) - means[r]) * scales[r] + shift;
        if (gelu) {
          vec density;
          const vec below = normal_of(z, &density);
          store(active + s, keep_some(z * below, B - s));
          if (training) store(slope + s, keep_some(below + z * density, B - s));
        } else {
          store(active + s, keep_some(z, B - s));
        }
      }
    }
  }
}

/* grad: of what is active, some rows; replaced by that of x. */
INLINE void normalize_grad(const Net *net, const Unit *unit, const Kept *kept,
                           const int gelu, float *grad_rows, const Unit *gradients,
                           Part part) {
  const Size B = net->B;
  for (Size first = part.first; first < part.stop; first += W) {
    const Size rows = LEAST(W, part.stop - first);
    for (Size c = first; c < first + rows; c++) {
      const float *x = kept->x + c * net->S, *slope = kept->slope + c * net->S;
      float *grad = grad_rows + c * net->S;
      vec sums = {0}, products = {0};
      for (Size s = 0; s < B; s += W) {
        vec value = load(grad + s);
        if (gelu) {
          value *= load(slope + s);
          store(grad + s, value);
        }
        sums += value;
        products += value * (load(x + s) - kept->mean[c]);
      }
      gradients->weight[c] = sum_of(products) * kept->inverse[c];
      gradients->bias[c] = sum_of(sums);
    }
    for (Size c = first; c < first + rows; c++) {
      const float *x = kept->x + c * net->S, mean = kept->mean[c];
      float *grad = grad_rows + c * net->S;
      const float scale = kept->inverse[c] * unit->weight[c];
      const float level = gradients->bias[c] / B;
      const float tilt = gradients->weight[c] / B * kept->inverse[c];
      for (Size s = 0; s < B; s += W) {
        const vec value = load(grad + s) - level - (load(x + s) - mean) * tilt;
        store(grad + s, keep_some(value * scale, B - s));
      }
    }
  }
}

/* Weights of logits, both (K, S), in some samples. */
static void softmax(const Net *net, float temperature, const float *logits, float *weights,
                    Part samples) {
  const Size S = net->S;
  for (Size s = samples.first; s < samples.stop; s += W) {
    vec most = load(logits + s), sum = {0};
    for (Size k = 1; k < net->K; k++) {
      const vec other = load(logits + k * S + s);
      const mask more = other > most;
      most = (vec)((more & (mask)other) | (~more & (mask)most));
    }
    for (Size k = 0; k < net->K; k++) {
      const vec power = exp_of((load(logits + k * S + s) - most) / temperature);
      store(weights + k * S + s, power);
      sum += power;
    }
    for (Size k = 0; k < net->K; k++)
      store(weights + k * S + s, load(weights + k * S + s) / sum);
  }
}

/* grad: of weights, zeros behind the batch; replaced by that of logits. Returns that of
 * the temperature. */
static float softmax_grad(const Net *net, float temperature, const float *logits,
                          const float *weights, float *grad) {
  const Size S = net->S;
  vec slope = {0};
  for (Size s = 0; s < S; s += W) {
    vec mean = {0};
    for (Size k = 0; k < net->K; k++)
      mean += load(grad + k * S + s) * load(weights + k * S + s);
    for (Size k = 0; k < net->K; k++) {
      const Size at = k * S + s;
      const vec value = load(weights + at) * (load(grad + at) - mean) / temperature;
      store(grad + at, value);
      slope -= value * load(logits + at);
    }
  }
  return sum_of(slope) / temperature;
}

/* -- The network --------------------------------------------------------------------- */

static float temperature_of(const Net *net, float raw) {
  return net->floor + (raw > 20.0f ? raw : log1pf(expf(raw))); /* as softplus does */
}

/* Floats of what is kept: inputs of blocks, units and the end, logits, weights. In
 * evaluation all units share the same places, but for what is active: that of one is read
 * by some threads while others go on to the next. */
static Size kept_size(const Net *net) {
  const Size map = net->C * net->S, all = net->blocks * net->units + 1;
  const Size rest = 2 * net->K * net->S;
  if (!net->training) return 4 * map + rest;
  return (net->blocks + 1) * map + all * (3 * map + 2 * net->C) + rest;
}

static Kept kept_of(const Net *net, float *buffer, Size unit) {
  const Size map = net->C * net->S;
  if (!net->training) {
    float *x = unit % net->units ? buffer + map : buffer;
    if (unit == net->blocks * net->units) x = buffer;
    float *active = buffer + (2 + unit % 2) * map;
    const Kept kept = {x, active, active, buffer + map, NULL, NULL}; /* no slopes */
    return kept;
  }
  const Size each = 3 * map + 2 * net->C;
  float *at = buffer + (net->blocks + 1) * map + unit * each;
  const int first = unit % net->units == 0; /* of a block, or the end */
  float *x = first ? buffer + unit / net->units * map : at - each + 2 * map;
  const Kept kept = {x, at, at + map, at + 2 * map, at + 3 * map, at + 3 * map + net->C};
  return kept;
}

/* The input of a block, or of the end. */
INLINE float *input_of(const Net *net, float *buffer, Size block) {
  return buffer + (net->training ? block * net->C * net->S : 0);
}

/* What each thread of a team does. */
INLINE void forward(const Net *net, const Unit *units, const Running *running,
                    const float *g, float *buffer, float *weights, const int training) {
  const Size S = net->S, C = net->C, K = net->K, last = net->blocks * net->units;
  float *const *alphas = (float *const *)(units + last + 1);
  const float temperature = temperature_of(net, *alphas[net->blocks]);
  float *logits = buffer + kept_size(net) - 2 * K * S, *shares = logits + K * S;
  const Part mine = part_of(C), samples = {0, S}, experts = {0, K};
  const Size start = mine.first * S, length = mine.stop * S - start;
  to_rows(input_of(net, buffer, 0), g, net->B, S, C, mine);
  for (Size b = 0, n = 0; b < net->blocks; b++) {
    float *u = NULL;
    for (Size unit = 0; unit < net->units; unit++, n++) {
      const Kept kept = kept_of(net, buffer, n);
      normalize(net, units + n, running + n, &kept, 1, training, mine);
#pragma omp barrier
      u = kept.y;
      product(kept.active, S, samples, units[n].kernel, C, 1, C, units[n].shift, u, mine);
    }
    const float *h = input_of(net, buffer, b);
    add_scaled(input_of(net, buffer, b + 1) + start, h + start, u + start,
               net->learnt[b] ? *alphas[b] : 1.0f, length);
  }
  const Kept kept = kept_of(net, buffer, last);
  normalize(net, units + last, running + last, &kept, 0, training, mine);
#pragma omp barrier
#pragma omp for schedule(static) nowait
  for (Size s = 0; s < S; s += COLUMNS) {
    const Part some = {s, LEAST(s + COLUMNS, S)};
    product(kept.active, S, some, units[last].kernel, C, 1, C, units[last].shift, logits,
            experts);
    softmax(net, temperature, logits, shares, some);
    to_columns(weights + s * K, shares + s, LEAST(net->B - s, COLUMNS), S, K, experts);
  }
}

/* Gradients of contexts, parameters, residual weights and the raw temperature: what each
 * thread of a team does. scratch: of all of them; own: of this one. */
static void backward(const Net *net, const Unit *units, const Unit *gradients,
                     float *buffer, const float *grad, float *grad_g, float *scratch,
                     float *own) {
  const Size S = net->S, B = net->B, C = net->C, K = net->K, map = C * S;
  const Size last = net->blocks * net->units;
  float *const *alphas = (float *const *)(units + last + 1);
  float *const *grad_alphas = (float *const *)(gradients + last + 1);
  const float raw = *alphas[net->blocks], temperature = temperature_of(net, raw);
  const float *logits = buffer + kept_size(net) - 2 * K * S, *shares = logits + K * S;
  float *gh = scratch, *gu = gh + map, *ga = gu + map, *worths = ga + map;
  float *gl = own, *turned = gl + K * S;
  const Part mine = part_of(C), experts = {0, K}, columns = {0, C}, samples = {0, S};
  const Size start = mine.first * S, length = mine.stop * S - start;
  to_rows(gl, grad, B, S, K, experts); /* so small that each thread has its own */
  const float slope = softmax_grad(net, temperature, logits, shares, gl);
  if (omp_get_thread_num() == 0) {
    *grad_alphas[net->blocks] = slope / (1.0f + expf(-raw));
    for (Size k = 0; k < K; k++) gradients[last].shift[k] = row_sum(gl + k * S, B);
  }
  Kept kept = kept_of(net, buffer, last);
  product_grad(net, kept.active, mine, gl, experts, gradients[last].kernel, turned);
  product(gl, S, samples, units[last].kernel, 1, C, K, NULL, gh, mine);
  normalize_grad(net, units + last, &kept, 0, gh, gradients + last, mine);
  for (Size b = net->blocks, n = last; b-- > 0;) {
    const float *u = kept_of(net, buffer, n - 1).y;
    for (Size c = mine.first; net->learnt[b] && c < mine.stop; c++)
      worths[b * C + c] = row_product(gh + c * S, u + c * S, B);
    add_scaled(gu + start, NULL, gh + start, net->learnt[b] ? *alphas[b] : 1.0f, length);
    for (Size unit = 0; unit < net->units; unit++) {
      n--;
      kept = kept_of(net, buffer, n);
      for (Size c = mine.first; c < mine.stop; c++)
        gradients[n].shift[c] = row_sum(gu + c * S, B);
      product_grad(net, kept.active, columns, gu, mine, gradients[n].kernel, turned);
#pragma omp barrier
      product(gu, S, samples, units[n].kernel, 1, C, C, NULL, ga, mine);
      normalize_grad(net, units + n, &kept, 1, ga, gradients + n, mine);
      float *other = gu;
      gu = ga;
      ga = other;
    }
    if (omp_get_thread_num() == 0) {
      float sum = 0;
      for (Size c = 0; net->learnt[b] && c < C; c++) sum += worths[b * C + c];
      *grad_alphas[b] = sum;
    }
    add_scaled(gh + start, gh + start, gu + start, 1.0f, length);
  }
  to_columns(grad_g, gh, B, S, C, mine);
}

/* -- Python -------------------------------------------------------------------------- */

/* Sizes come as 64-bit integers in bytes: B, C, K, blocks, units, training, and whether
 * the residual weight of each block is learnt. */
static Net net_of(const char *bytes, float share, float eps, float floor) {
  const long long *sizes = (const long long *)bytes;
  const Net net = {.B = sizes[0], .S = ceil_div(sizes[0], W) * W, .C = sizes[1],
                   .K = sizes[2], .blocks = sizes[3], .units = sizes[4],
                   .training = sizes[5], .learnt = sizes + 6, .share = share, .eps = eps,
                   .floor = floor};
  return net;
}

/* All threads or one: OpenMP ends those that a smaller team has no use for. */
static int team_of(const Net *net, int threads) {
  return net->C * net->C * net->S < WORTH_THREADS ? 1 : threads;
}

static PyObject *py_kept_size(PyObject *self, PyObject *args) {
  const char *sizes;
  Py_ssize_t length;
  if (!PyArg_ParseTuple(args, "y#", &sizes, &length)) return NULL;
  const Net net = net_of(sizes, 0, 0, 0);
  return PyLong_FromSsize_t(kept_size(&net));
}

static PyObject *py_forward(PyObject *self, PyObject *args) {
  const char *sizes, *given, *running;
  Py_ssize_t a, b, c, g, buffer, weights;
  float share, eps, floor;
  int threads;
  if (!PyArg_ParseTuple(args, "y#fffy#y#nnni", &sizes, &a, &share, &eps, &floor, &given, &b,
                        &running, &c, &g, &buffer, &weights, &threads))
    return NULL;
  const Net net = net_of(sizes, share, eps, floor);
  const int team = team_of(&net, threads);
  Py_BEGIN_ALLOW_THREADS
#pragma omp parallel num_threads(team) if (team > 1)
  if (net.training)
    forward(&net, (const Unit *)given, (const Running *)running, (const float *)g,
            (float *)buffer, (float *)weights, 1);
  else
    forward(&net, (const Unit *)given, (const Running *)running, (const float *)g,
            (float *)buffer, (float *)weights, 0);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

static PyObject *py_backward(PyObject *self, PyObject *args) {
  const char *sizes, *given, *gradients;
  Py_ssize_t a, b, c, buffer, grad, grad_g;
  float eps, floor;
  int threads;
  if (!PyArg_ParseTuple(args, "y#ffy#y#nnni", &sizes, &a, &eps, &floor, &given, &b,
                        &gradients, &c, &buffer, &grad, &grad_g, &threads))
    return NULL;
  const Net net = net_of(sizes, 0, eps, floor);
  const int team = team_of(&net, threads);
  const Size lines = LINE / (Size)sizeof(float);
  const Size shared = ceil_div(net.C * (3 * net.S + net.blocks), lines) * lines;
  const Size own = ceil_div(net.S * (net.K + COLUMNS), lines) * lines;
  float *scratch = aligned_alloc(LINE, (shared + team * own) * sizeof(float));
  if (!scratch) return PyErr_NoMemory();
  Py_BEGIN_ALLOW_THREADS
#pragma omp parallel num_threads(team) if (team > 1)
  backward(&net, (const Unit *)given, (const Unit *)gradients, (float *)buffer,
           (const float *)grad, (float *)grad_g, scratch,
           scratch + shared + omp_get_thread_num() * own);
  Py_END_ALLOW_THREADS
  free(scratch);
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"kept_size", py_kept_size, METH_VARARGS, NULL},
                                {"forward", py_forward, METH_VARARGS, NULL},
                                {"backward", py_backward, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_mapping", NULL, -1, methods};

PyMODINIT_FUNC PyInit__mapping(void) { return PyModule_Create(&module); }
