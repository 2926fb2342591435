// The kernels' C header, from C: results against sums written out here, gradients against
// differences, and every kind of refusal. Ends with 1 and says where when something is wrong.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fovea/kernels/fovea_kernels.h"

static int failures = 0;

static void check(int holds, const char* what, int line) {
  if (holds) return;
  fprintf(stderr, "kernels_c_test.c:%d: %s (message: %s)\n", line, what, fovea_message());
  ++failures;
}
#define CHECK(x) check((x), #x, __LINE__)
#define NEAR(a, b, tolerance) \
  check(fabs((double)(a) - (double)(b)) <= (tolerance), #a " near " #b, __LINE__)

static void fill(float* x, int n, unsigned seed) {
  for (int i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
  }
}

enum { B = 2, T = 5, H = 2, D = 8, N = B * T * H * D };

// One query row, written out: heads first, [B, H, T, D].
static void attend(const float* q, const float* k, const float* v, int causal, double* out) {
  for (int bh = 0; bh < B * H; ++bh)
    for (int i = 0; i < T; ++i) {
      double p[T], sum = 0;
      const int keys = causal ? i + 1 : T;
      for (int j = 0; j < keys; ++j) {
        double dot = 0;
        for (int d = 0; d < D; ++d)
          dot += (double)q[(bh * T + i) * D + d] * (double)k[(bh * T + j) * D + d];
        sum += p[j] = exp(dot / sqrt(D));
      }
      for (int d = 0; d < D; ++d) {
        double value = 0;
        for (int j = 0; j < keys; ++j) value += p[j] / sum * (double)v[(bh * T + j) * D + d];
        out[(bh * T + i) * D + d] = value;
      }
    }
}

static void test_attention(fovea_pool* pool) {
  float q[N], k[N], v[N], out[N], lse[B * H * T];
  fill(q, N, 1);
  fill(k, N, 2);
  fill(v, N, 3);
  for (int causal = 0; causal < 2; ++causal) {
    fovea_attention_problem problem = fovea_attention_problem_of(B, T, H, D, FOVEA_HEAD_MAJOR);
    problem.causal = causal;
    fovea_attention* plan = NULL;
    CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_OK);
    fovea_attention_args args = {.q = q, .k = k, .v = v, .out = out, .lse = lse};
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    CHECK(strlen(fovea_attention_kernel(plan)) > 0);
    double expected[N];
    attend(q, k, v, causal, expected);
    for (int i = 0; i < N; ++i) NEAR(out[i], expected[i], 1e-5);

    // The log-sum-exp is not needed for the result.
    float again[N];
    args.out = again;
    args.lse = NULL;
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    CHECK(memcmp(out, again, sizeof out) == 0);
    fovea_attention_destroy(plan);

    // The gradient of sum(weight * out), against central differences of it.
    float weight[N], dq[N], dk[N], dv[N];
    fill(weight, N, 4);
    fovea_attention_backward* backward = NULL;
    CHECK(fovea_attention_backward_plan(&problem, pool, &backward) == FOVEA_OK);
    const fovea_attention_backward_args back = {.q = q,
                                                .k = k,
                                                .v = v,
                                                .out = out,
                                                .lse = lse,
                                                .dout = weight,
                                                .dq = dq,
                                                .dk = dk,
                                                .dv = dv};
    CHECK(fovea_attention_backward_run(backward, &back) == FOVEA_OK);
    CHECK(strlen(fovea_attention_backward_kernel(backward)) > 0);
    fovea_attention_backward_destroy(backward);
    float* inputs[3] = {q, k, v};
    const float* gradients[3] = {dq, dk, dv};
    for (int which = 0; which < 3; ++which)
      for (int at = 0; at < N; at += 7) {
        const float kept = inputs[which][at];
        double sums[2];
        const float step = 0.01f;
        for (int side = 0; side < 2; ++side) {
          inputs[which][at] = kept + (side ? step : -step);
          double moved[N];
          attend(q, k, v, causal, moved);
          sums[side] = 0;
          for (int i = 0; i < N; ++i) sums[side] += (double)weight[i] * moved[i];
        }
        inputs[which][at] = kept;
        NEAR(gradients[which][at], (sums[1] - sums[0]) / (2 * (double)step), 2e-4);
      }
  }
}

// Two kinds of tokens, in runs of a block: each sees its own kind.
static void test_blocks(fovea_pool* pool) {
  enum { TOKENS = 64, BLOCK = 16, BLOCKS = TOKENS / BLOCK };
  float x[TOKENS * D];
  for (int t = 0; t < TOKENS; ++t)
    for (int d = 0; d < D; ++d) x[t * D + d] = d == t / BLOCK % 2 ? 9.0f : 0.0f;
  fovea_attention_problem problem = fovea_attention_problem_of(1, TOKENS, 1, D, FOVEA_PACKED);
  fovea_attention_blocks* plan = NULL;
  CHECK(fovea_attention_blocks_plan(&problem, 0.9, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "block=0") != NULL);
  problem.block = BLOCK;
  problem.block_plane.query = BLOCKS;
  CHECK(fovea_attention_blocks_plan(&problem, 2, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(fovea_attention_blocks_plan(&problem, 0.9, pool, &plan) == FOVEA_OK);
  unsigned char blocks[BLOCKS * BLOCKS];
  CHECK(fovea_attention_blocks_run(plan, x, x, NULL, NULL) == FOVEA_INVALID_ARGUMENT);
  CHECK(fovea_attention_blocks_run(plan, x, x, NULL, blocks) == FOVEA_OK);
  for (int i = 0; i < BLOCKS; ++i)
    for (int j = 0; j < BLOCKS; ++j) CHECK(blocks[i * BLOCKS + j] == (i % 2 == j % 2));
  fovea_attention_blocks_destroy(plan);
  fovea_attention_blocks_destroy(NULL);
}

static void test_packed_attention_and_lengths(fovea_pool* pool) {
  // The same numbers with the heads inside the rows, and with half of the keys hidden.
  float q[N], k[N], v[N], major[N], packed[N], pq[N], pk[N], pv[N];
  fill(q, N, 1);
  fill(k, N, 2);
  fill(v, N, 3);
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < H; ++h)
      for (int t = 0; t < T; ++t)
        for (int d = 0; d < D; ++d) {
          const int from = ((b * H + h) * T + t) * D + d, to = ((b * T + t) * H + h) * D + d;
          pq[to] = q[from];
          pk[to] = k[from];
          pv[to] = v[from];
        }
  const int32_t lengths[B] = {T, 2};
  for (int layout = 0; layout < 2; ++layout) {
    const fovea_attention_problem problem =
        fovea_attention_problem_of(B, T, H, D, layout ? FOVEA_HEAD_MAJOR : FOVEA_PACKED);
    fovea_attention* plan = NULL;
    CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_OK);
    const fovea_attention_args args = {.q = layout ? q : pq,
                                       .k = layout ? k : pk,
                                       .v = layout ? v : pv,
                                       .out = layout ? major : packed,
                                       .links = {.key_lengths = lengths}};
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    fovea_attention_destroy(plan);
  }
  double all[N];
  attend(q, k, v, 0, all);
  int differ = 0;
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < H; ++h)
      for (int t = 0; t < T; ++t)
        for (int d = 0; d < D; ++d) {
          const int from = ((b * H + h) * T + t) * D + d, to = ((b * T + t) * H + h) * D + d;
          NEAR(major[from], packed[to], 1e-6);
          if (b == 0) NEAR(major[from], all[from], 1e-5);
          if (b == 1) differ += fabs((double)major[from] - all[from]) > 1e-3;
        }
  CHECK(differ > 0);
}

static void test_softmax(fovea_pool* pool) {
  enum { ROWS = 3, COLS = 7 };
  float x[ROWS * COLS], y[ROWS * COLS], dy[ROWS * COLS], dx[ROWS * COLS];
  fill(x, ROWS * COLS, 5);
  fill(dy, ROWS * COLS, 6);
  const fovea_softmax_problem problem = {FOVEA_F32, ROWS, COLS, 0};
  fovea_softmax* plan = NULL;
  fovea_softmax_backward* backward = NULL;
  CHECK(fovea_softmax_plan(&problem, pool, &plan) == FOVEA_OK);
  CHECK(fovea_softmax_backward_plan(&problem, pool, &backward) == FOVEA_OK);
  CHECK(fovea_softmax_run(plan, x, y) == FOVEA_OK);
  CHECK(fovea_softmax_backward_run(backward, y, dy, dx) == FOVEA_OK);
  for (int r = 0; r < ROWS; ++r) {
    double sum = 0, dot = 0;
    for (int c = 0; c < COLS; ++c) sum += exp((double)x[r * COLS + c]);
    for (int c = 0; c < COLS; ++c) dot += (double)y[r * COLS + c] * (double)dy[r * COLS + c];
    for (int c = 0; c < COLS; ++c) {
      const int i = r * COLS + c;
      NEAR(y[i], exp((double)x[i]) / sum, 1e-6);
      NEAR(dx[i], (double)y[i] * ((double)dy[i] - dot), 1e-6);
    }
  }
  fovea_softmax_destroy(plan);
  fovea_softmax_backward_destroy(backward);
}

static void test_norm(fovea_pool* pool) {
  enum { ROWS = 4, COLS = 12 };
  float x[ROWS * COLS], y[ROWS * COLS], dy[ROWS * COLS], dx[ROWS * COLS];
  float weight[COLS], bias[COLS], mean[ROWS], rstd[ROWS], dweight[COLS], dbias[COLS];
  fill(x, ROWS * COLS, 7);
  fill(dy, ROWS * COLS, 8);
  fill(weight, COLS, 9);
  fill(bias, COLS, 10);
  for (int rms = 0; rms < 2; ++rms) {
    const fovea_norm_problem problem = {FOVEA_F32, ROWS, COLS, 1e-5, rms};
    fovea_norm* plan = NULL;
    fovea_norm_backward* backward = NULL;
    CHECK(fovea_norm_plan(&problem, pool, &plan) == FOVEA_OK);
    CHECK(fovea_norm_backward_plan(&problem, pool, &backward) == FOVEA_OK);
    const fovea_norm_args args = {x, weight, rms ? NULL : bias, y, rms ? NULL : mean, rstd};
    CHECK(fovea_norm_run(plan, &args) == FOVEA_OK);
    const fovea_norm_backward_args back = {x,  weight, rms ? NULL : mean, rstd,
                                           dy, dx,     dweight,           rms ? NULL : dbias};
    CHECK(fovea_norm_backward_run(backward, &back) == FOVEA_OK);
    double column[COLS] = {0};
    for (int r = 0; r < ROWS; ++r) {
      double m = 0, square = 0;
      for (int c = 0; c < COLS; ++c) m += rms ? 0 : (double)x[r * COLS + c] / COLS;
      for (int c = 0; c < COLS; ++c) square += pow((double)x[r * COLS + c] - m, 2) / COLS;
      const double factor = 1 / sqrt(square + 1e-5);
      double g_mean = 0, gh_mean = 0;
      for (int c = 0; c < COLS; ++c) {
        const double h = ((double)x[r * COLS + c] - m) * factor;
        const double g = (double)dy[r * COLS + c] * (double)weight[c];
        NEAR(y[r * COLS + c], h * (double)weight[c] + (rms ? 0 : (double)bias[c]), 1e-5);
        g_mean += rms ? 0 : g / COLS;
        gh_mean += g * h / COLS;
        column[c] += (double)dy[r * COLS + c] * h;
      }
      for (int c = 0; c < COLS; ++c) {
        const double h = ((double)x[r * COLS + c] - m) * factor;
        const double g = (double)dy[r * COLS + c] * (double)weight[c];
        NEAR(dx[r * COLS + c], factor * (g - g_mean - h * gh_mean), 1e-5);
      }
    }
    for (int c = 0; c < COLS; ++c) NEAR(dweight[c], column[c], 1e-5);
    fovea_norm_destroy(plan);
    fovea_norm_backward_destroy(backward);
  }
}

static void test_linear(fovea_pool* pool) {
  enum { ROWS = 6, K = 10, OUT = 4 };
  float x[ROWS * K], w[OUT * K], bias[OUT], residual[ROWS * OUT], y[ROWS * OUT], packed[ROWS * OUT];
  fill(x, ROWS * K, 11);
  fill(w, OUT * K, 12);
  fill(bias, OUT, 13);
  fill(residual, ROWS * OUT, 14);
  const fovea_linear_problem problem = {.x_type = FOVEA_F32,
                                        .w_type = FOVEA_F32,
                                        .y_type = FOVEA_F32,
                                        .rows = ROWS,
                                        .n = OUT,
                                        .k = K,
                                        .bias = 1,
                                        .residual = 1,
                                        .activation = FOVEA_RELU};
  fovea_linear* plan = NULL;
  CHECK(fovea_linear_plan(&problem, pool, &plan) == FOVEA_OK);
  fovea_linear_args args = {x, w, bias, residual, y};
  CHECK(fovea_linear_run(plan, &args) == FOVEA_OK);
  CHECK(strlen(fovea_linear_kernel(plan)) > 0);
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < OUT; ++n) {
      double h = (double)bias[n];
      for (int i = 0; i < K; ++i) h += (double)x[r * K + i] * (double)w[n * K + i];
      NEAR(y[r * OUT + n], fmax(h, 0) + (double)residual[r * OUT + n], 1e-5);
    }
  CHECK(fovea_linear_pack(plan, w, bias) == FOVEA_OK);
  args.y = packed;
  CHECK(fovea_linear_run(plan, &args) == FOVEA_OK);
  for (int i = 0; i < ROWS * OUT; ++i) NEAR(packed[i], y[i], 1e-6);
  args.residual = NULL;
  CHECK(fovea_linear_run(plan, &args) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "residual") != NULL);
  fovea_linear_destroy(plan);

  const fovea_linear_grad_weight_problem gradient = {FOVEA_F32, FOVEA_F32, ROWS, OUT, K, 1};
  fovea_linear_grad_weight* grad = NULL;
  float dw[OUT * K], db[OUT];
  CHECK(fovea_linear_grad_weight_plan(&gradient, pool, &grad) == FOVEA_OK);
  CHECK(fovea_linear_grad_weight_run(grad, residual, x, dw, db) == FOVEA_OK);
  for (int n = 0; n < OUT; ++n) {
    double sum = 0;
    for (int r = 0; r < ROWS; ++r) sum += (double)residual[r * OUT + n];
    NEAR(db[n], sum, 1e-5);
    for (int i = 0; i < K; ++i) {
      double product = 0;
      for (int r = 0; r < ROWS; ++r)
        product += (double)residual[r * OUT + n] * (double)x[r * K + i];
      NEAR(dw[n * K + i], product, 1e-5);
    }
  }
  CHECK(fovea_linear_grad_weight_run(grad, residual, x, dw, NULL) == FOVEA_INVALID_ARGUMENT);
  fovea_linear_grad_weight_destroy(grad);
}

// Each kind of link against the mask that says the same, a bias against the scores it changes, and
// a cache of int8 in pages against the numbers that it stands for.
static void test_links(fovea_pool* pool) {
  enum { TOKENS = 16, WIDTH = 2 * D, SIZE = TOKENS * WIDTH };
  float q[SIZE], k[SIZE], v[SIZE];
  fill(q, SIZE, 1);
  fill(k, SIZE, 2);
  fill(v, SIZE, 3);
  fovea_attention_problem dense = fovea_attention_problem_of(1, TOKENS, 2, D, FOVEA_PACKED);
  fovea_attention_problem problem = dense;
  problem.causal = 1;
  problem.window_left = 4;
  problem.dilation = 2;
  problem.global_tokens = 1;
  problem.prefix = 3;
  problem.documents = 2;
  const int32_t starts[3] = {0, 9, TOKENS};
  uint8_t mask[TOKENS * TOKENS];
  float bias[TOKENS * TOKENS], distance_bias[2 * (2 * TOKENS - 1)], sinks[2] = {-60, -60};
  for (int i = 0; i < TOKENS; ++i)
    for (int j = 0; j < TOKENS; ++j) {
      const int near = j <= i && (j < 1 || i < 1 || (i - j <= 4 && (i - j) % 2 == 0));
      mask[i * TOKENS + j] = (i < 9) == (j < 9) && (j < 3 || near);
      bias[i * TOKENS + j] = 0.1f * (float)(j - i);
    }
  for (int n = 0; n < 2 * TOKENS - 1; ++n)
    distance_bias[n] = distance_bias[n + 2 * TOKENS - 1] = 0.1f * (float)(n - TOKENS + 1);
  float by_rule[SIZE], by_mask[SIZE];
  for (int step = 0; step < 2; ++step) {
    fovea_attention_problem p = step ? dense : problem;
    const uint8_t block = 1;
    p.sink = 1;  // so low that they change nothing
    if (step) {
      p.mask = p.bias = 1;
      p.mask_plane.query = p.bias_plane.query = TOKENS;
    } else {
      p.distance_bias = 1;
      p.block = 16;
      p.block_plane.query = 1;
    }
    fovea_attention* plan = NULL;
    CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
    fovea_attention_args args = {.q = q, .k = k, .v = v, .out = step ? by_mask : by_rule};
    CHECK(fovea_attention_run(plan, &args) == FOVEA_INVALID_ARGUMENT);
    CHECK(strstr(fovea_message(), step ? "links.mask with mask" : "links.document_starts") != NULL);
    args.links.sinks = sinks;
    if (step) {
      args.links.mask = mask;
      args.links.bias = bias;
    } else {
      args.links.document_starts = starts;
      args.links.distance_bias = distance_bias;
      args.links.blocks = &block;
    }
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    fovea_attention_destroy(plan);
  }
  for (int i = 0; i < SIZE; ++i) NEAR(by_rule[i], by_mask[i], 1e-5);

  // Pages of four tokens in reverse order.
  int8_t k8[SIZE], v8[SIZE];
  float k_scale[2 * TOKENS], v_scale[2 * TOKENS], k_wide[SIZE], v_wide[SIZE];
  int32_t pages[4] = {3, 2, 1, 0};
  for (int t = 0; t < TOKENS; ++t) {
    const int from = (3 - t / 4) * 4 + t % 4;  // where the cache has it
    for (int h = 0; h < 2; ++h) {
      k_scale[from * 2 + h] = v_scale[from * 2 + h] = 1.0f / 127;
      for (int d = 0; d < D; ++d) {
        const int at = t * WIDTH + h * D + d, in_cache = from * WIDTH + h * D + d;
        k8[in_cache] = (int8_t)lrintf(k[at] * 127);
        v8[in_cache] = (int8_t)lrintf(v[at] * 127);
        k_wide[at] = (float)k8[in_cache] / 127;
        v_wide[at] = (float)v8[in_cache] / 127;
      }
    }
  }
  float from_cache[WIDTH], expected[WIDTH];
  for (int step = 0; step < 2; ++step) {
    fovea_attention_problem p = dense;
    p.tq = 1;
    p.kv_type = step ? FOVEA_SAME : FOVEA_I8;
    p.page_tokens = step ? 0 : 4;
    fovea_attention_dense(&p, FOVEA_PACKED);
    fovea_attention* plan = NULL;
    CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
    fovea_attention_args args = {.q = q,
                                 .k = step ? (const void*)k_wide : (const void*)k8,
                                 .v = step ? (const void*)v_wide : (const void*)v8,
                                 .out = step ? expected : from_cache};
    if (!step) {
      args.pages = pages;
      CHECK(fovea_attention_run(plan, &args) == FOVEA_INVALID_ARGUMENT);
      CHECK(strstr(fovea_message(), "k_scale with a cache of i8") != NULL);
      args.k_scale = k_scale;
      args.v_scale = v_scale;
    }
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    fovea_attention_destroy(plan);
  }
  for (int i = 0; i < WIDTH; ++i) NEAR(from_cache[i], expected[i], 1e-4);

  // The gradient of a sink and of a distance: what changes when they move.
  fovea_attention_problem p = dense;
  p.sink = p.distance_bias = 1;
  p.causal = 1;
  sinks[0] = 0.3f;
  sinks[1] = -0.2f;
  float lse[2 * TOKENS], dq[SIZE], dk[SIZE], dv[SIZE], dsinks[2], ddistance[2 * (2 * TOKENS - 1)];
  const fovea_attention_links links = {.distance_bias = distance_bias, .sinks = sinks};
  fovea_attention* plan = NULL;
  fovea_attention_backward* backward = NULL;
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
  CHECK(fovea_attention_backward_plan(&p, pool, &backward) == FOVEA_OK);
  fovea_attention_args args = {.q = q, .k = k, .v = v, .out = by_rule, .lse = lse, .links = links};
  CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
  const fovea_attention_backward_args back = {.q = q,
                                              .k = k,
                                              .v = v,
                                              .out = by_rule,
                                              .lse = lse,
                                              .dout = v,  // any weights
                                              .dq = dq,
                                              .dk = dk,
                                              .dv = dv,
                                              .links = links,
                                              .ddistance_bias = ddistance,
                                              .dsinks = dsinks};
  CHECK(fovea_attention_backward_run(backward, &back) == FOVEA_OK);
  float* moved[2] = {&sinks[1], &distance_bias[TOKENS - 3]};
  const float gradient[2] = {dsinks[1], ddistance[TOKENS - 3]};
  for (int which = 0; which < 2; ++which) {
    const float kept = *moved[which], h = 0.02f;
    double sums[2] = {0, 0};
    for (int side = 0; side < 2; ++side) {
      *moved[which] = kept + (side ? h : -h);
      CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
      for (int i = 0; i < SIZE; ++i) sums[side] += (double)v[i] * (double)by_rule[i];
    }
    *moved[which] = kept;
    NEAR(gradient[which], (sums[1] - sums[0]) / (2 * (double)h), 1e-3);
  }
  fovea_attention_destroy(plan);
  fovea_attention_backward_destroy(backward);
}

// Positions, cosines, temperatures and relative keys.
static void test_rows(fovea_pool* pool) {
  enum { TOKENS = 6, WIDTH = 2 * D, SIZE = TOKENS * WIDTH, KEYS = 2 * TOKENS - 1 };
  float q[SIZE], k[SIZE], v[SIZE], out[SIZE], other[SIZE];
  for (int i = 0; i < SIZE; ++i) {
    q[i] = 0.3f * (float)(i % 7) - 0.7f;
    k[i] = 0.2f * (float)(i % 11) - 1.0f;
    v[i] = 0.1f * (float)(i % 13);
  }
  fovea_attention_problem p = fovea_attention_problem_of(1, TOKENS, 2, D, FOVEA_PACKED);
  p.cosine = 1;
  p.rotary = 4;
  p.rotary_layout = FOVEA_ROTARY_HALVES;
  fovea_attention* plan = NULL;
  fovea_attention_backward* backward = NULL;
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
  fovea_attention_args args = {.q = q, .k = k, .v = v, .out = out};
  CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
  // Cosines do not change with the lengths of rows, but positions count.
  for (int i = 0; i < SIZE; ++i) q[i] *= 3;
  args.out = other;
  CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
  fovea_attention_destroy(plan);
  for (int i = 0; i < SIZE; ++i) NEAR(other[i], out[i], 1e-5);
  p.rotary = 0;
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
  CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
  fovea_attention_destroy(plan);
  float change = 0;
  for (int i = 0; i < SIZE; ++i) change += fabsf(other[i] - out[i]);
  CHECK(change > 1e-2f);
  p.rotary = 5;
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "rotary=5") != NULL);

  p.rotary = p.cosine = 0;
  p.temperature = p.relative_keys = p.content_bias = p.position_bias = 1;
  float temperatures[2] = {0.5f, 1.5f}, relative[2 * KEYS * D], content[WIDTH], position[WIDTH];
  for (int i = 0; i < 2 * KEYS * D; ++i) relative[i] = 0.1f * (float)(i % 5) - 0.2f;
  for (int i = 0; i < WIDTH; ++i) {
    content[i] = 0.1f * (float)(i % 3);
    position[i] = 0.2f - 0.1f * (float)(i % 4);
  }
  float lse[2 * TOKENS], dq[SIZE], dk[SIZE], dv[SIZE];
  float dtemperatures[2], drelative[2 * KEYS * D], dcontent[WIDTH], dposition[WIDTH];
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
  CHECK(fovea_attention_backward_plan(&p, pool, &backward) == FOVEA_OK);
  CHECK(fovea_attention_run(plan, &args) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "links.temperatures with temperature") != NULL);
  args.lse = lse;
  args.links.temperatures = temperatures;
  args.links.relative_keys = relative;
  args.links.content_biases = content;
  args.links.position_biases = position;
  CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
  const fovea_attention_backward_args back = {.q = q,
                                              .k = k,
                                              .v = v,
                                              .out = other,
                                              .lse = lse,
                                              .dout = v,  // any weights
                                              .dq = dq,
                                              .dk = dk,
                                              .dv = dv,
                                              .links = args.links,
                                              .dtemperatures = dtemperatures,
                                              .drelative_keys = drelative,
                                              .dcontent_biases = dcontent,
                                              .dposition_biases = dposition};
  CHECK(fovea_attention_backward_run(backward, &back) == FOVEA_OK);
  float* moved[4] = {&temperatures[1], &relative[KEYS * D + 9], &content[3], &position[WIDTH - 1]};
  const float gradient[4] = {dtemperatures[1], drelative[KEYS * D + 9], dcontent[3],
                             dposition[WIDTH - 1]};
  for (int which = 0; which < 4; ++which) {
    const float kept = *moved[which], h = 0.02f;
    double sums[2] = {0, 0};
    for (int side = 0; side < 2; ++side) {
      *moved[which] = kept + (side ? h : -h);
      CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
      for (int i = 0; i < SIZE; ++i) sums[side] += (double)v[i] * (double)other[i];
    }
    *moved[which] = kept;
    NEAR(gradient[which], (sums[1] - sums[0]) / (2 * (double)h), 1e-3);
  }
  fovea_attention_destroy(plan);
  fovea_attention_backward_destroy(backward);
}

// Statistics against a sum written out, top-k against a mask of the k largest scores, a span wide
// enough to change nothing, and dropout: the same links again, others at another step.
static void test_extras(fovea_pool* pool) {
  enum { TOKENS = 12, SIZE = TOKENS * D };
  float q[SIZE], k[SIZE], v[SIZE], out[SIZE], plain[SIZE];
  fill(q, SIZE, 1);
  fill(k, SIZE, 2);
  fill(v, SIZE, 3);
  const fovea_attention_problem dense = fovea_attention_problem_of(1, TOKENS, 1, D, FOVEA_PACKED);
  const float wide = 1000;
  float entropy[TOKENS], mass[TOKENS], shares[2 * TOKENS];
  int32_t keys[2 * TOKENS];
  fovea_attention_problem p = dense;
  p.want_entropy = p.want_mass = p.span = 1;
  p.span_ramp = 8;
  p.top_links = 2;
  fovea_attention* plan = NULL;
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
  fovea_attention_args args = {.q = q, .k = k, .v = v, .out = plain, .links = {.spans = &wide}};
  CHECK(fovea_attention_run(plan, &args) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "entropy with want_entropy") != NULL);
  args.entropy = entropy;
  args.mass = mass;
  args.top_keys = keys;
  args.top_probabilities = shares;
  CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
  fovea_attention_destroy(plan);
  uint8_t kept[TOKENS * TOKENS] = {0};
  double received[TOKENS] = {0};
  for (int i = 0; i < TOKENS; ++i) {
    double prob[TOKENS], sum = 0, h = 0;
    for (int j = 0; j < TOKENS; ++j) {
      double dot = 0;
      for (int d = 0; d < D; ++d) dot += (double)q[i * D + d] * (double)k[j * D + d];
      sum += prob[j] = exp(dot / sqrt(D));
    }
    int first = 0, second = -1;
    for (int j = 0; j < TOKENS; ++j) {
      prob[j] /= sum;
      h -= prob[j] * log(prob[j]);
      received[j] += prob[j];
      if (prob[j] > prob[first]) first = j;
    }
    for (int j = 0; j < TOKENS; ++j)
      if (j != first && (second < 0 || prob[j] > prob[second])) second = j;
    NEAR(entropy[i], h, 1e-5);
    CHECK(keys[2 * i] == first && keys[2 * i + 1] == second);
    NEAR(shares[2 * i], prob[first], 1e-6);
    kept[i * TOKENS + first] = kept[i * TOKENS + second] = 1;
  }
  for (int j = 0; j < TOKENS; ++j) NEAR(mass[j], received[j], 1e-5);

  float by_top_k[SIZE], by_mask[SIZE];
  for (int step = 0; step < 2; ++step) {
    p = dense;
    if (step) {
      p.mask = 1;
      p.mask_plane.query = TOKENS;
    } else {
      p.normaliser = FOVEA_TOP_K;
      p.top_k = 2;
    }
    CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
    args = (fovea_attention_args){.q = q, .k = k, .v = v, .out = step ? by_mask : by_top_k};
    args.links.mask = kept;
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    fovea_attention_destroy(plan);
  }
  for (int i = 0; i < SIZE; ++i) NEAR(by_top_k[i], by_mask[i], 1e-5);

  p = dense;
  p.dropout = 0.5;
  p.stream = 7;
  CHECK(fovea_attention_plan(&p, pool, &plan) == FOVEA_OK);
  args = (fovea_attention_args){.q = q, .k = k, .v = v, .out = out};
  CHECK(fovea_attention_run(plan, &args) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "links.rng with dropout") != NULL);
  float again[SIZE];
  for (int step = 0; step < 3; ++step) {
    const int32_t rng[3] = {1, step == 2 ? 5 : 4, 0};
    args.links.rng = rng;
    args.out = step == 1 ? again : out;
    CHECK(fovea_attention_run(plan, &args) == FOVEA_OK);
    if (step == 1) CHECK(memcmp(out, again, sizeof out) == 0);
    if (step == 2) CHECK(memcmp(out, again, sizeof out) != 0);
    CHECK(memcmp(out, plain, sizeof out) != 0);
  }
  fovea_attention_destroy(plan);
}

static void test_refusals(fovea_pool* pool) {
  fovea_attention* plan = (fovea_attention*)&failures;
  fovea_attention_problem problem = fovea_attention_problem_of(1, 4, 3, 8, FOVEA_PACKED);
  problem.kv_heads = 2;
  CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(plan == NULL);
  CHECK(strstr(fovea_message(), "multiple of kv_heads") != NULL);
  CHECK(fovea_attention_plan(NULL, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "expected a problem") != NULL);
  CHECK(fovea_attention_plan(&problem, NULL, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(fovea_attention_plan(&problem, pool, NULL) == FOVEA_INVALID_ARGUMENT);
  problem = fovea_attention_problem_of(1, 4, 2, 8, FOVEA_PACKED);
  problem.type = (fovea_type)9;
  CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "fovea_type, got 9") != NULL);
  problem.type = FOVEA_I8;
  CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "expected f32, f64 or bf16") != NULL);
  problem.type = FOVEA_F32;
  problem.align = (fovea_align)7;
  CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "fovea_align, got 7") != NULL);
  problem = fovea_attention_problem_of(1, 4, 2, 8, FOVEA_PACKED);
  problem.normaliser = (fovea_normaliser)7;
  CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "fovea_normaliser, got 7") != NULL);
  problem.normaliser = FOVEA_SPARSEMAX;
  problem.dropout = 0.1;
  CHECK(fovea_attention_plan(&problem, pool, &plan) == FOVEA_INVALID_ARGUMENT);
  CHECK(strstr(fovea_message(), "no dropout with normaliser=sparsemax") != NULL);
  fovea_attention_dense(&problem, FOVEA_HEAD_MAJOR);
  fovea_attention_dense(NULL, FOVEA_PACKED);

  const fovea_softmax_problem bf16 = {FOVEA_BF16, 2, 2, 0};
  fovea_softmax* softmax = NULL;
  CHECK(fovea_softmax_plan(&bf16, pool, &softmax) == FOVEA_UNSUPPORTED);
  const fovea_softmax_problem negative = {FOVEA_F32, -1, 2, 0};
  CHECK(fovea_softmax_plan(&negative, pool, &softmax) == FOVEA_INVALID_ARGUMENT);
  const fovea_norm_problem epsilon = {FOVEA_F32, 1, 2, NAN, 0};
  fovea_norm* norm = NULL;
  CHECK(fovea_norm_plan(&epsilon, pool, &norm) == FOVEA_INVALID_ARGUMENT);
  fovea_linear* linear = NULL;
  const fovea_linear_problem types = {
      .x_type = FOVEA_F64, .w_type = FOVEA_F32, .y_type = FOVEA_F32, .rows = 1, .n = 1, .k = 1};
  CHECK(fovea_linear_plan(&types, pool, &linear) == FOVEA_INVALID_ARGUMENT);

  fovea_pool* none = NULL;
  CHECK(fovea_pool_create(-1, &none) == FOVEA_INVALID_ARGUMENT);
  CHECK(none == NULL);
  CHECK(fovea_pool_create(1, NULL) == FOVEA_INVALID_ARGUMENT);
  CHECK(fovea_pool_threads(NULL) == 0);
  fovea_pool_destroy(NULL);
  fovea_attention_destroy(NULL);
}

int main(void) {
  CHECK(fovea_kernels_api() == FOVEA_KERNELS_API);
  CHECK(strchr(fovea_kernels_version(), '.') != NULL);
  CHECK(strcmp(fovea_message(), "") == 0);
  fovea_pool* pool = NULL;
  if (fovea_pool_create(2, &pool) != FOVEA_OK) return 1;
  CHECK(fovea_pool_threads(pool) == 2);
  test_attention(pool);
  test_packed_attention_and_lengths(pool);
  test_links(pool);
  test_extras(pool);
  test_blocks(pool);
  test_softmax(pool);
  test_norm(pool);
  test_linear(pool);
  test_rows(pool);
  test_refusals(pool);
  fovea_pool_destroy(pool);
  return failures == 0 ? 0 : 1;
}
