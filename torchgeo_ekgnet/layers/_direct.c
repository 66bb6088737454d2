/* Copyright (c) torchgeo_ekgnet contributors.
 * Licensed under the MIT License.
 *
 * Kernels for processors with AVX2: the two convolutions of a dense layer in float32.
 *
 *   conv       3x3x3, stride 1, padding 1, thin groups: each output a sum over the taps
 *              that lie inside, nothing unrolled and no zeros multiplied
 *   conv_grad  its gradient with respect to the kernels
 *   experts    1x1x1 kernels mixed for some samples, a tile of them at a time, and applied
 *   dense      both, and the ReLU between them, for evaluation
 *   experts_grad  gradients of the experts with respect to shares and kernels
 *   experts_norm, experts_norm_grad  experts, batch normalization and ReLU in training
 *
 * Maps are (B, C, P, Q, L) with the last axis in vectors. A tile of sums, some outputs by
 * some vectors, stays in registers; what it reads is copied into scratch first, rows
 * padded to whole vectors, so that no tile has to look where a row ends. direct.py checks
 * what comes here and says which kernel is taken. Threads are PyTorch's own: the symbols
 * of OpenMP are those that torch has loaded.
 */

#include "_conv.h"
#include "_experts.h"
#include "_norm.h"

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
               .shift = (float *)bias, .shift_batch = O, .x_batch = x_batch, .x_row = N,
               .K = K, .O = O, .I = I, .N = N, .positive = (int)positive};
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = experts(&m, (float *)y, B, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_dense(PyObject *self, PyObject *args) {
  Size x, x_batch, shares, weight, bias, shift, k, y, y_batch, B, K, O, I, G, outputs;
  Size P, Q, L, threads;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnnnnnnnn", &x, &x_batch, &shares, &weight,
                        &bias, &shift, &k, &y, &y_batch, &B, &K, &O, &I, &G, &outputs, &P,
                        &Q, &L, &threads))
    return NULL;
  Mixture m = {.x = (float *)x, .shares = (float *)shares, .weight = (float *)weight,
               .bias = (float *)bias, .shift = (float *)shift, .x_batch = x_batch,
               .x_row = P * Q * L, .K = K, .O = O, .I = I, .N = P * Q * L, .positive = 1};
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
  Shares s = {.x = (float *)x, .shares = (float *)shares, .weight = (float *)weight,
              .x_batch = x_batch, .K = K, .O = O, .I = I, .N = N, .grad = (float *)grad,
              .grad_batch = grad_batch, .grad_row = N};
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = experts_grad(&s, (float *)grad_shares, (float *)grad_weight, B, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_experts_norm(PyObject *self, PyObject *args) {
  Size x, x_batch, shares, weight, bias, scale, shift, y, z, mean, variance;
  Size B, K, O, I, N, threads;
  float eps;
  if (!PyArg_ParseTuple(args, "nnnnnnnfnnnnnnnnnn", &x, &x_batch, &shares, &weight, &bias,
                        &scale, &shift, &eps, &y, &z, &mean, &variance, &B, &K, &O, &I, &N,
                        &threads))
    return NULL;
  Mixture m = {.x = (float *)x, .shares = (float *)shares, .weight = (float *)weight,
               .bias = (float *)bias, .x_batch = x_batch, .x_row = N, .K = K, .O = O,
               .I = I, .N = N};
  const Norm norm = {(float *)scale, (float *)shift, (float *)mean, (float *)variance, eps};
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = experts_norm(&m, &norm, (float *)y, (float *)z, B, threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyObject *py_experts_norm_grad(PyObject *self, PyObject *args) {
  Size grad, grad_batch, x, x_batch, y, shares, weight, turned, bias, scale, shift, mean;
  Size variance, gx, grad_shares, grad_weight, grad_bias, grad_scale, grad_shift;
  Size B, K, O, I, N, threads;
  float eps;
  if (!PyArg_ParseTuple(args, "nnnnnnnnnnnnnfnnnnnnnnnnnn", &grad, &grad_batch, &x,
                        &x_batch, &y, &shares, &weight, &turned, &bias, &scale, &shift,
                        &mean, &variance, &eps, &gx, &grad_shares, &grad_weight,
                        &grad_bias, &grad_scale, &grad_shift, &B, &K, &O, &I, &N,
                        &threads))
    return NULL;
  const Norm norm = {(float *)scale, (float *)shift, (float *)mean, (float *)variance, eps};
  Shares s = {.x = (float *)x, .shares = (float *)shares, .weight = (float *)weight,
              .x_batch = x_batch, .K = K, .O = O, .I = I, .N = N, .grad = (float *)grad,
              .grad_batch = grad_batch};
  const NormGrad to = {(float *)gx, (float *)grad_shares, (float *)grad_weight,
                       (float *)grad_bias, (float *)grad_scale, (float *)grad_shift};
  int done;
  Py_BEGIN_ALLOW_THREADS
  done = experts_norm_grad(&s, &norm, (float *)y, (float *)turned, (float *)bias, &to, B,
                           threads);
  Py_END_ALLOW_THREADS
  return answer(done);
}

static PyMethodDef methods[] = {{"conv", py_conv, METH_VARARGS, NULL},
                                {"conv_grad", py_conv_grad, METH_VARARGS, NULL},
                                {"experts", py_experts, METH_VARARGS, NULL},
                                {"dense", py_dense, METH_VARARGS, NULL},
                                {"experts_grad", py_experts_grad, METH_VARARGS, NULL},
                                {"experts_norm", py_experts_norm, METH_VARARGS, NULL},
                                {"experts_norm_grad", py_experts_norm_grad, METH_VARARGS,
                                 NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_direct", NULL, -1, methods};

PyMODINIT_FUNC PyInit__direct(void) { return PyModule_Create(&module); }
