/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * 1x1x1 experts, the batch normalization of a training batch behind them and its ReLU.
 */

#pragma once

#include "_experts.h"
#include "_shares.h"

/* Scales, shifts, means and biased variances of channels, (O). */
typedef struct {
  const float *scale, *shift;
  float *mean, *variance;
  float eps;
} Norm;

/* What a normalization does to a channel: (y - mean) * factor + shift. Its gradient takes
 * `level` off and `slope` times the deviation. */
typedef struct {
  float mean, inverse, factor, shift, level, slope;
} Channel;

INLINE Channel channel_of(const Norm *norm, Size o) {
  const float inverse = 1.0f / sqrtf(norm->variance[o] + norm->eps);
  const Channel c = {norm->mean[o], inverse, inverse * norm->scale[o], norm->shift[o], 0, 0};
  return c;
}

INLINE vec normalized(const Channel *c, vec y) {
  return (y - c->mean) * c->factor + c->shift;
}

/* Mean and variance of a channel of moments (units, O, 2). */
static void join_moments(const Mixture *m, const Norm *norm, Size B, Size o) {
  const Size units = B * m->parts, last = m->N - (m->parts - 1) * m->columns;
  const double count = (double)B * m->N;
  double mean = 0, squares = 0;
  for (Size u = 0; u < units; u++)
    mean += (double)((u + 1) % m->parts ? m->columns : last) * m->moments[(u * m->O + o) * 2];
  mean /= count;
  for (Size u = 0; u < units; u++) {
    const float *at = m->moments + (u * m->O + o) * 2;
    const double off = at[0] - mean;
    squares += at[1] + (double)((u + 1) % m->parts ? m->columns : last) * off * off;
  }
  norm->mean[o] = (float)mean;
  norm->variance[o] = (float)(squares / count);
}

static void activate_row(const Channel *c, const float *y, Size N, float *to) {
  if (N < W) {
    store_some(to, relu(normalized(c, load_some(y, N))), N);
    return;
  }
  for (Size n = 0; n < N; n += W) {
    const Size at = LEAST(n, N - W); /* the last vector overlaps the one before */
    store(to + at, relu(normalized(c, load(y + at))));
  }
}

/* y (B, O, N) of the experts to z of the same shape, normalized and positive. */
static int experts_norm(Mixture *m, const Norm *norm, float *y, float *z, Size B,
                        Size threads) {
  const Size N = m->N;
  plan_threads(m, B, threads);
  Size each = m->scratch;
  float *scratch = scratch_of(threads, &each);
  Channel *channels = malloc((size_t)m->O * sizeof(Channel));
  m->moments = malloc((size_t)(B * m->parts * m->O * 2) * sizeof(float));
  if (scratch && channels && m->moments) {
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
      apply_all(m, scratch, each, y, B);
#pragma omp for schedule(static)
      for (Size o = 0; o < m->O; o++) {
        join_moments(m, norm, B, o);
        channels[o] = channel_of(norm, o);
      }
#pragma omp for schedule(static)
      for (Size r = 0; r < B * m->O; r++)
        activate_row(channels + r % m->O, y + r * N, N, z + r * N);
    }
  }
  const int done = scratch && channels && m->moments;
  free(scratch);
  free(channels);
  free(m->moments);
  return done;
}

/* Where gradients are written to. */
typedef struct {
  float *x, *shares, *weight, *bias, *scale, *shift;
} NormGrad;

/* Adds to two sums of a channel: of the gradients behind the normalization, and of these
 * times deviations. */
static void add_row(const Channel *c, const float *grad, const float *y, Size N,
                    double *sums) {
  vec sum = {0}, products = {0};
  for (Size n = 0; n < N; n += W) {
    const vec values = load_some(y + n, N - n);
    const vec open = passed(load_some(grad + n, N - n), normalized(c, values));
    sum += open;
    products += open * (values - c->mean);
  }
  sums[0] += sum_of(sum);
  sums[1] += sum_of(products);
}

/* Gradients before the normalization of a row; their sum. */
static float row_before(const Channel *c, const float *grad, const float *y, Size N,
                        float *to) {
  vec sum = {0};
  for (Size n = 0; n < N; n += W) {
    const vec values = load_some(y + n, N - n);
    const vec open = passed(load_some(grad + n, N - n), normalized(c, values));
    const vec before = (open - c->level - (values - c->mean) * c->slope) * c->factor;
    const vec kept = keep_some(before, N - n);
    sum += kept;
    store(to + n, kept);
  }
  return sum_of(sum);
}

/* The sums of all threads to the gradients of a channel's scale and shift. */
static void join_sums(Channel *channels, const double *sums, Size O, Size o, Size threads,
                      double count, const NormGrad *to) {
  double sum = 0, product = 0;
  for (Size t = 0; t < threads; t++) {
    sum += sums[(t * O + o) * 2];
    product += sums[(t * O + o) * 2 + 1];
  }
  Channel *c = channels + o;
  to->shift[o] = (float)sum;
  to->scale[o] = (float)(product * c->inverse);
  c->level = (float)(sum / count);
  c->slope = (float)(product * c->inverse * c->inverse / count);
}

/* Gradients of experts_norm. s->grad: of z. turned: experts, (K, I, O). */
static int experts_norm_grad(Shares *s, const Norm *norm, const float *y,
                             const float *turned, const float *bias, const NormGrad *to,
                             Size B, Size threads) {
  const Size K = s->K, O = s->O, N = s->N, row = ceil_div(N, W) * W;
  const float *grad = s->grad;
  const Size grad_batch = s->grad_batch;
  Mixture m = {.shares = s->shares, .weight = turned, .x_batch = O * row, .x_row = row,
               .K = K, .O = s->I, .I = O, .N = N};
  plan(&m, N + PANEL - 1, ceil_div(B, threads));
  const Size planned = plan_shares(s, B, threads);
  Size each = planned > m.scratch ? planned : m.scratch;
  float *scratch = scratch_of(threads, &each);
  float *sums = calloc((size_t)sums_of(s, B, threads), sizeof(float));
  double *products = calloc((size_t)(threads * O * 2), sizeof(double));
  Channel *channels = malloc((size_t)O * sizeof(Channel));
  float *before = malloc((size_t)(B * O * row + B * O) * sizeof(float));
  float *totals = before + B * O * row; /* of a sample's channels: gradients of biases */
  if (scratch && sums && products && channels && before) {
    for (Size o = 0; o < O; o++) channels[o] = channel_of(norm, o);
    m.x = s->grad = before;
    s->grad_batch = O * row;
    s->grad_row = row;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
      double *mine = products + omp_get_thread_num() * O * 2;
      float *own = scratch + omp_get_thread_num() * each;
#pragma omp for schedule(static)
      for (Size r = 0; r < B * O; r++)
        add_row(channels + r % O, grad + r / O * grad_batch + r % O * N, y + r * N, N,
                mine + r % O * 2);
#pragma omp for schedule(static)
      for (Size o = 0; o < O; o++)
        join_sums(channels, products, O, o, threads, (double)B * N, to);
#pragma omp for schedule(static)
      for (Size task = 0; task < ceil_div(B, m.some); task++) {
        const Size first = task * m.some, last = LEAST(first + m.some, B);
        for (Size r = first * O; r < last * O; r++)
          totals[r] = row_before(channels + r % O, grad + r / O * grad_batch + r % O * N,
                                 y + r * N, N, before + r * row);
        for (Size u = first * m.parts; u < last * m.parts; u += m.some)
          apply_units(&m, own, u, LEAST(u + m.some, last * m.parts),
                      to->x + u / m.parts * m.O * N);
      }
      share_all(s, scratch, each, sums, B, to->shares, to->weight, threads);
      if (bias) {
#pragma omp for schedule(static)
        for (Size at = 0; at < B * K; at++)
          to->shares[at] += row_product(totals + at / K * O, bias + at % K * O, O);
#pragma omp for schedule(static)
        for (Size at = 0; at < K * O; at++) {
          float sum = 0;
          for (Size b = 0; b < B; b++)
            sum += s->shares[b * K + at / O] * totals[b * O + at % O];
          to->bias[at] = sum;
        }
      }
    }
  }
  const int done = scratch && sums && products && channels && before;
  free(scratch);
  free(sums);
  free(products);
  free(channels);
  free(before);
  return done;
}
