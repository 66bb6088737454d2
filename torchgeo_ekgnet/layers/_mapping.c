/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * The mapping network of an expert layer for processors with AVX2, in float32.
 *
 *   forward   contexts (B, C) to weights of the experts (B, K), in training and evaluation
 *   backward  its gradients
 *
 * Inside, samples are the last axis: S of them, B and zeros up to whole vectors. So a
 * normalization is about one row, and a product reads rows. One thread does all: another
 * takes longer to wake up than any step here takes. mapped_cpu.py hands over
 * addresses; the network is a list of units (normalization, GELU, product), some of which
 * are a residual block, and an end without GELU.
 */

#include "_vectors.h"

#include <limits.h>

/* Of a normalization and the product behind it; `mean` and `variance` are running ones.
 * A gradient is written to the same place of another such list. */
typedef struct {
  float *weight, *bias, *kernel, *shift, *mean, *variance;
} Unit;

/* What is kept of a unit: input, normalized, active (C, S); mean and 1 / deviation (C). */
typedef struct {
  float *x, *normed, *active, *mean, *inverse;
} Kept;

typedef struct {
  Size B, S, C, K, blocks, units; /* units: of a block */
  int training;
  float share, eps, temperature;
} Net;

/* -- Functions ----------------------------------------------------------------------- */

/* e^x for x from -87 on, below it e^-87 (polynomial of Cephes, error 2e-7 of the value). */
INLINE vec exp_of(vec x) {
  const float magic = 12582912.0f; /* rounds what is added to it */
  const mask low = x < -87.0f;
  x = (vec)((low & (mask)((vec){0} - 87.0f)) | (~low & (mask)x));
  const vec shifted = x * 1.44269504f + magic, whole = shifted - magic;
  const vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
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

INLINE void clear_tail(float *row, Size B, Size S) {
  for (Size s = B; s < S; s++) row[s] = 0;
}

/* -- Products ------------------------------------------------------------------------ */

INLINE void product_tile(const float *x, Size row, const float *kernel, Size out, Size in,
                         Size inputs, const float *shift, float *y, const int outputs,
                         const int vectors) {
  vec sums[MOST_OUTPUTS][MOST_VECTORS];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++)
      sums[o][t] = (vec){0} + (shift ? shift[o] : 0.0f);
  for (Size i = 0; i < inputs; i++) {
    vec values[MOST_VECTORS];
    UNROLL for (int t = 0; t < vectors; t++) values[t] = load(x + i * row + t * W);
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < vectors; t++)
        sums[o][t] += kernel[o * out + i * in] * values[t];
  }
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < vectors; t++) store(y + o * row + t * W, sums[o][t]);
}

INLINE void product_rows(const float *x, Size S, const float *kernel, Size out, Size in,
                         Size inputs, const float *shift, float *y, const int outputs) {
  for (Size s = 0; s < S;) {
    const Size left = (S - s) / W, now = left == 4 ? 2 : LEAST(left, 3);
    if (now == 3)
      product_tile(x + s, S, kernel, out, in, inputs, shift, y + s, outputs, 3);
    else if (now == 2)
      product_tile(x + s, S, kernel, out, in, inputs, shift, y + s, outputs, 2);
    else
      product_tile(x + s, S, kernel, out, in, inputs, shift, y + s, outputs, 1);
    s += now * W;
  }
}

/* y (outputs, S) = kernel x + shift; kernel element (o, i) at o * out + i * in. */
static void product(Size S, const float *x, const float *kernel, Size out, Size in,
                    Size inputs, const float *shift, float *y, Size outputs) {
  for (Size four = 0; four < ceil_div(outputs, 4); four++) {
    Size o = four * 4;
    const Size stop = LEAST(o + 4, outputs);
    if (o + 4 == stop) {
      product_rows(x, S, kernel + o * out, out, in, inputs, shift ? shift + o : NULL,
                   y + o * S, 4);
    } else {
      for (; o < stop; o++)
        product_rows(x, S, kernel + o * out, out, in, inputs,
                     shift ? shift + o : NULL, y + o * S, 1);
    }
  }
}

INLINE void outer_tile(const float *turned, const float *grad, Size S, Size B, float *to,
                       Size row, Size left, const int outputs) {
  vec sums[MOST_OUTPUTS][3];
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < 3; t++) sums[o][t] = (vec){0};
  for (Size s = 0; s < B; s++) {
    vec values[3];
    UNROLL for (int t = 0; t < 3; t++) values[t] = load(turned + (s * 3 + t) * W);
    UNROLL for (int o = 0; o < outputs; o++)
      UNROLL for (int t = 0; t < 3; t++) sums[o][t] += grad[o * S + s] * values[t];
  }
  UNROLL for (int o = 0; o < outputs; o++)
    UNROLL for (int t = 0; t < 3; t++)
      store_some(to + o * row + t * W, sums[o][t], left - t * W);
}

/* kernel (outputs, inputs) = grad (outputs, S) x' (S, inputs); shift = sums of rows.
 * turned: scratch of 24 columns. */
static void product_grad(const Net *net, const float *x, const float *grad, float *kernel,
                         float *shift, Size inputs, Size outputs, float *turned) {
  const Size S = net->S, B = net->B, panel = 3 * W;
  for (Size part = 0; part < ceil_div(inputs, panel); part++) {
    const Size i = part * panel, width = LEAST(panel, inputs - i);
    pack_turned(turned, x + i * S, width, panel, S, S);
    for (Size o = 0; o < outputs;) {
      float *to = kernel + o * inputs + i;
      if (outputs - o >= 4) {
        outer_tile(turned, grad + o * S, S, B, to, inputs, width, 4);
        o += 4;
      } else {
        outer_tile(turned, grad + o * S, S, B, to, inputs, width, 1);
        o += 1;
      }
    }
  }
  for (Size o = 0; o < outputs; o++) shift[o] = row_sum(grad + o * S, B);
}

/* -- Units --------------------------------------------------------------------------- */

/* Normalizes, updates running statistics and applies GELU where `gelu`. */
static void normalize(const Net *net, const Unit *unit, const Kept *kept, int gelu) {
  const Size S = net->S, B = net->B;
  for (Size c = 0; c < net->C; c++) {
    const float *x = kept->x + c * S;
    float *normed = kept->normed + c * S, *active = kept->active + c * S;
    float mean = unit->mean[c], inverse = 1.0f / sqrtf(unit->variance[c] + net->eps);
    if (net->training) {
      mean = row_sum(x, B) / B;
      for (Size s = 0; s < S; s += W) store(normed + s, load(x + s) - mean);
      const float variance = row_product(normed, normed, B) / B;
      inverse = 1.0f / sqrtf(variance + net->eps);
      unit->mean[c] += net->share * (mean - unit->mean[c]);
      unit->variance[c] += net->share * (variance * B / (B - 1) - unit->variance[c]);
      kept->mean[c] = mean;
      kept->inverse[c] = inverse;
    }
    const float scale = inverse * unit->weight[c], shift = unit->bias[c];
    for (Size s = 0; s < S; s += W) {
      const vec z = (load(x + s) - mean) * scale + shift;
      store(normed + s, z);
      if (gelu) {
        vec density;
        store(active + s, z * normal_of(z, &density));
      }
    }
    clear_tail(normed, B, S);
    if (gelu) clear_tail(active, B, S);
  }
}

/* grad: of what is normalized, or of what is active (`gelu`), replaced by that of x. */
static void normalize_grad(const Net *net, const Unit *unit, const Kept *kept, int gelu,
                           float *grad_rows, const Unit *gradients) {
  const Size S = net->S, B = net->B;
  for (Size c = 0; c < net->C; c++) {
    const float *x = kept->x + c * S, *normed = kept->normed + c * S;
    float *grad = grad_rows + c * S;
    const float mean = kept->mean[c], inverse = kept->inverse[c];
    if (gelu) {
      for (Size s = 0; s < S; s += W) {
        vec density;
        const vec z = load(normed + s), share = normal_of(z, &density);
        store(grad + s, load(grad + s) * (share + z * density));
      }
      clear_tail(grad, B, S);
    }
    const float sum = row_sum(grad, B);
    const float worth = (row_product(grad, x, B) - mean * sum) * inverse;
    gradients->weight[c] = worth;
    gradients->bias[c] = sum;
    const float scale = inverse * unit->weight[c];
    const float level = sum / B, slope = worth / B * inverse;
    for (Size s = 0; s < S; s += W)
      store(grad + s, (load(grad + s) - level - (load(x + s) - mean) * slope) * scale);
    clear_tail(grad, B, S);
  }
}

/* Rows (B, columns) to columns (columns, S) with zeros behind them, or back. */
static void to_columns(float *to, const float *from, Size B, Size S, Size columns) {
  for (Size c = 0; c < columns; c++)
    for (Size s = 0; s < S; s++) to[c * S + s] = s < B ? from[s * columns + c] : 0;
}

static void to_rows(float *to, const float *from, Size B, Size S, Size columns) {
  for (Size s = 0; s < B; s++)
    for (Size c = 0; c < columns; c++) to[s * columns + c] = from[c * S + s];
}

/* Weights (K, S) of logits (K, S). */
static void softmax(const Net *net, const float *logits, float *weights) {
  const Size S = net->S;
  for (Size s = 0; s < S; s += W) {
    vec most = load(logits + s), sum = {0};
    for (Size k = 1; k < net->K; k++) {
      const vec other = load(logits + k * S + s);
      const mask more = other > most;
      most = (vec)((more & (mask)other) | (~more & (mask)most));
    }
    for (Size k = 0; k < net->K; k++) {
      const vec power = exp_of((load(logits + k * S + s) - most) / net->temperature);
      store(weights + k * S + s, power);
      sum += power;
    }
    for (Size k = 0; k < net->K; k++)
      store(weights + k * S + s, load(weights + k * S + s) / sum);
  }
}

/* -- The network --------------------------------------------------------------------- */

/* Floats of what is kept: of units and the end, outputs of blocks, logits, weights. */
static Size kept_size(const Net *net) {
  const Size map = net->C * net->S, units = net->training ? net->blocks * net->units + 1 : 1;
  const Size blocks = net->training ? net->blocks : 1;
  return units * (3 * map + 2 * net->C) + blocks * map + map + 2 * net->K * net->S;
}

/* The place of a unit; in evaluation all have the same. */
static Kept kept_of(const Net *net, float *buffer, Size unit) {
  const Size map = net->C * net->S;
  float *at = buffer + (net->training ? unit : 0) * (3 * map + 2 * net->C);
  const Kept kept = {at, at + map, at + 2 * map, at + 3 * map, at + 3 * map + net->C};
  return kept;
}

static void forward(const Net *net, const Unit *units, float *const *alphas, const float *g,
                    float *buffer, float *weights) {
  const Size S = net->S, C = net->C, map = C * S, last = net->blocks * net->units;
  float *mapped = buffer + (net->training ? last + 1 : 1) * (3 * map + 2 * C);
  float *h = mapped + (net->training ? net->blocks : 1) * map, *logits = h + map;
  to_columns(h, g, net->B, S, C);
  for (Size b = 0, n = 0; b < net->blocks; b++) {
    float *u = mapped + (net->training ? b : 0) * map;
    memcpy(kept_of(net, buffer, n).x, h, map * sizeof(float));
    for (Size unit = 0; unit < net->units; unit++, n++) {
      const Kept kept = kept_of(net, buffer, n);
      normalize(net, units + n, &kept, 1);
      float *to = unit + 1 < net->units ? kept_of(net, buffer, n + 1).x : u;
      product(S, kept.active, units[n].kernel, C, 1, C, units[n].shift, to, C);
    }
    const float alpha = alphas[b] ? *alphas[b] : 1.0f;
    for (Size i = 0; i < map; i += W) store(h + i, load(h + i) + load(u + i) * alpha);
  }
  const Kept kept = kept_of(net, buffer, last);
  memcpy(kept.x, h, map * sizeof(float));
  normalize(net, units + last, &kept, 0);
  product(S, kept.normed, units[last].kernel, C, 1, C, units[last].shift, logits, net->K);
  softmax(net, logits, logits + net->K * S);
  to_rows(weights, logits + net->K * S, net->B, S, net->K);
}

/* Gradients of contexts, parameters, residual weights and temperature. */
static void backward(const Net *net, const Unit *units, float *const *alphas, float *buffer,
                     const float *grad, float *grad_g, const Unit *gradients,
                     float *const *grad_alphas, float *grad_temperature, float *scratch) {
  const Size S = net->S, B = net->B, C = net->C, K = net->K, map = C * S;
  const Size last = net->blocks * net->units;
  float *mapped = buffer + (last + 1) * (3 * map + 2 * C);
  float *logits = mapped + (net->blocks + 1) * map, *weights = logits + K * S;
  float *gh = scratch, *gu = gh + map, *ga = gu + map, *gl = ga + map;
  float *turned = gl + K * S;
  to_columns(gl, grad, B, S, K);
  float slope = 0;
  for (Size s = 0; s < B; s++) {
    float mean = 0;
    for (Size k = 0; k < K; k++) mean += gl[k * S + s] * weights[k * S + s];
    for (Size k = 0; k < K; k++) {
      gl[k * S + s] = weights[k * S + s] * (gl[k * S + s] - mean) / net->temperature;
      slope -= gl[k * S + s] * logits[k * S + s];
    }
  }
  *grad_temperature = slope / net->temperature;
  Kept kept = kept_of(net, buffer, last);
  product_grad(net, kept.normed, gl, gradients[last].kernel, gradients[last].shift, C, K,
               turned);
  product(S, gl, units[last].kernel, 1, C, K, NULL, gh, C);
  normalize_grad(net, units + last, &kept, 0, gh, gradients + last);
  for (Size b = net->blocks, n = last; b-- > 0;) {
    const float *u = mapped + b * map, alpha = alphas[b] ? *alphas[b] : 1.0f;
    *grad_alphas[b] = 0;
    for (Size c = 0; alphas[b] && c < C; c++)
      *grad_alphas[b] += row_product(gh + c * S, u + c * S, B);
    for (Size i = 0; i < map; i += W) store(gu + i, load(gh + i) * alpha);
    for (Size unit = 0; unit < net->units; unit++) {
      n--;
      kept = kept_of(net, buffer, n);
      product_grad(net, kept.active, gu, gradients[n].kernel, gradients[n].shift, C, C,
                   turned);
      product(S, gu, units[n].kernel, 1, C, C, NULL, ga, C);
      normalize_grad(net, units + n, &kept, 1, ga, gradients + n);
      float *other = gu;
      gu = ga;
      ga = other;
    }
    for (Size i = 0; i < map; i += W) store(gh + i, load(gh + i) + load(gu + i));
  }
  to_rows(grad_g, gh, B, S, C);
}

/* -- Python -------------------------------------------------------------------------- */

/* Sizes come as 64-bit integers in bytes: B, C, K, blocks, units, training. */
static Net net_of(const char *bytes, float share, float eps, Size temperature) {
  const long long *sizes = (const long long *)bytes;
  const Net net = {.B = sizes[0], .S = ceil_div(sizes[0], W) * W, .C = sizes[1],
                   .K = sizes[2], .blocks = sizes[3], .units = sizes[4],
                   .training = (int)sizes[5], .share = share, .eps = eps,
                   .temperature = temperature ? *(const float *)temperature : 1.0f};
  return net;
}

static PyObject *py_kept_size(PyObject *self, PyObject *args) {
  const char *sizes;
  Py_ssize_t length;
  if (!PyArg_ParseTuple(args, "y#", &sizes, &length)) return NULL;
  const Net net = net_of(sizes, 0, 0, 0);
  return PyLong_FromSsize_t(kept_size(&net));
}

static PyObject *py_forward(PyObject *self, PyObject *args) {
  const char *sizes, *units, *alphas;
  Py_ssize_t a, b, c, temperature, g, buffer, weights;
  float share, eps;
  if (!PyArg_ParseTuple(args, "y#ffny#y#nnn", &sizes, &a, &share, &eps, &temperature, &units,
                        &b, &alphas, &c, &g, &buffer, &weights))
    return NULL;
  const Net net = net_of(sizes, share, eps, temperature);
  Py_BEGIN_ALLOW_THREADS
  forward(&net, (const Unit *)units, (float *const *)alphas, (float *)g, (float *)buffer,
          (float *)weights);
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

static PyObject *py_backward(PyObject *self, PyObject *args) {
  const char *sizes, *units, *alphas, *gradients, *grad_alphas;
  Py_ssize_t a, b, c, d, e, temperature, buffer, grad, grad_g, grad_temperature;
  float eps;
  if (!PyArg_ParseTuple(args, "y#fny#y#y#y#nnnn", &sizes, &a, &eps, &temperature, &units, &b,
                        &alphas, &c, &gradients, &d, &grad_alphas, &e, &buffer, &grad,
                        &grad_g, &grad_temperature))
    return NULL;
  const Net net = net_of(sizes, 0, eps, temperature);
  Size each = net.S * 3 * W + 3 * net.C * net.S + net.K * net.S;
  float *scratch = scratch_of(1, &each);
  if (!scratch) return PyErr_NoMemory();
  Py_BEGIN_ALLOW_THREADS
  backward(&net, (const Unit *)units, (float *const *)alphas, (float *)buffer,
           (float *)grad, (float *)grad_g, (const Unit *)gradients,
           (float *const *)grad_alphas, (float *)grad_temperature, scratch);
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
