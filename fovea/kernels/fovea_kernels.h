// The kernels for C: attention, softmax, norms and linear layers with their gradients, on raw
// memory. Plain C11; link with -lfovea-kernels (pkg-config fovea-kernels, or Fovea::kernels in
// CMake).
//
// Every kernel has two phases. fovea_X_plan() checks a problem (sizes, types, strides), picks the
// best kernel for this processor and takes the memory that it needs; fovea_X_run() works on
// pointers, allocates nothing and gives the same bits for any number of threads. A plan is run by
// one thread at a time; different plans may run at the same time. Memory that is handed in belongs
// to the caller and may be of any alignment that its elements have.
//
// Functions give FOVEA_OK or say what was wrong; fovea_message() explains it. A run checks that the
// pointers it needs are there, not where they point to.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Grows when functions or fields change their meaning or are taken away.
#define FOVEA_KERNELS_API 2

// What a call came to.
typedef enum fovea_status {
  FOVEA_OK = 0,
  FOVEA_INVALID_ARGUMENT = 1,  // a size, a type, a stride or a pointer is wrong
  FOVEA_UNSUPPORTED = 2,       // it makes sense, but no kernel does it
  FOVEA_OUT_OF_MEMORY = 3,     // a plan needs more memory than there is
  FOVEA_INTERNAL = 4,          // an error of ours
} fovea_status;

// Element types. FOVEA_BF16 is the upper half of an IEEE single, in uint16_t.
typedef enum fovea_type {
  FOVEA_F32 = 0,
  FOVEA_F64 = 1,
  FOVEA_BF16 = 2,
  FOVEA_I8 = 3,    // of a key/value cache, with scales
  FOVEA_SAME = 4,  // of a key/value cache: the type of the queries
} fovea_type;

// The library's version, such as "0.1.0".
const char* fovea_kernels_version(void);

// FOVEA_KERNELS_API of the library that was linked: the same as the header's, or do not go on.
int fovea_kernels_api(void);

// What was wrong in the last call of this thread that failed, with what was expected; "" if none
// has failed. Valid until this thread's next call that fails.
const char* fovea_message(void);

// Threads that the plans share. The thread that calls a run takes part in the work.
typedef struct fovea_pool fovea_pool;

// A pool of so many threads, the caller counted; 0: as many as the process may use.
fovea_status fovea_pool_create(int threads, fovea_pool** pool);
// Its threads end. No plan of the pool may be run after that. NULL is allowed.
void fovea_pool_destroy(fovea_pool* pool);
// How many threads work, the caller counted; 0 for NULL.
int fovea_pool_threads(const fovea_pool* pool);

// ---- Attention (Vaswani et al. 2017, equation 1) ----

// Where element (b, t, h, i) lies: b * batch + t * token + h * head + i, in elements.
typedef struct fovea_strides {
  int64_t batch;
  int64_t token;
  int64_t head;
} fovea_strides;

// Where element (b, h, i, j) of an array over links lies: b * batch + h * head + i * query + j, in
// elements. A stride of 0 repeats it.
typedef struct fovea_plane {
  int64_t batch;
  int64_t head;
  int64_t query;
} fovea_plane;

// Where query i stands among the keys: at i + tk - tq, so that the last query stands at the last
// key, or at i.
typedef enum fovea_align { FOVEA_LOWER_RIGHT = 0, FOVEA_UPPER_LEFT = 1 } fovea_align;

// Which coordinates of n that turn frequency i turns: 2 i and 2 i + 1, or i and i + n / 2.
typedef enum fovea_rotary_layout {
  FOVEA_ROTARY_PAIRS = 0,
  FOVEA_ROTARY_HALVES = 1
} fovea_rotary_layout;

// What makes weights p of a query's scores s; fovea/base/normaliser.h has the formulas and papers.
typedef enum fovea_normaliser {
  FOVEA_SOFTMAX = 0,
  FOVEA_TOP_K = 1,        // the softmax of the top_k largest scores
  FOVEA_SPARSEMAX = 2,    // the nearest point of the simplex
  FOVEA_ENTMAX15 = 3,     // 1.5-entmax
  FOVEA_HARD = 4,         // 1 for the largest; the gradient of softmax(s / softmax_temperature)
  FOVEA_GUMBEL = 5,       // softmax((s + Gumbel noise) / softmax_temperature)
  FOVEA_GUMBEL_HARD = 6,  // 1 for the largest s + noise; the gradient of FOVEA_GUMBEL
} fovea_normaliser;

// Softmax(scale q k^T) v for each sequence and head, without the tq x tk matrix in memory. Query
// head h reads key/value head h / (heads / kv_heads). Query i at position p sees the keys j that
// meet all of these:
//   j < key_lengths[b]; i and j stand in one document, if there are documents; mask, if given, is
//   not 0; nor is the entry of their blocks, if there are blocks; and
//   j < prefix, or
//     j <= p if causal, and
//     (j < global_tokens, or p < global_tokens, or
//       p - window_left <= j <= p + window_right, each if not -1, and dilation divides p - j).
// The score of a link is scale temperature ((q + content bias) . k + (q + position bias) . relative
// key), held by soft_cap, then with bias and distance_bias added. With cosine, rows of q and k are
// divided by sqrt(|row|^2 + cosine_eps) first; with rotary, the angle of coordinates of theirs is
// then turned by position * rotary_base^(-2 i / rotary), i = 0 .. rotary / 2 - 1. A
// query that sees no key gives 0, log-sum-exp -infinity (that of its sink) and gradient 0. Begin
// with fovea_attention_problem_of(), which leaves all of this out.
typedef struct fovea_attention_problem {
  fovea_type type;       // of all arrays; with FOVEA_BF16 lse, biases and sinks are f32
  int64_t batch;         // sequences
  int64_t tq;            // queries in a sequence
  int64_t tk;            // keys in a sequence
  int64_t heads;         // of queries
  int64_t kv_heads;      // of keys and values; divides heads
  int64_t heads_kept;    // query heads from here on give output and gradient 0
  int64_t head_dim;      // of q and k
  int64_t value_dim;     // of v and out
  double scale;          // of the products of q and k
  int causal;            // not 0: no query sees a later key
  int64_t window_left;   // -1: no limit
  int64_t window_right;  // -1: no limit
  fovea_align align;
  int64_t dilation;       // of the window; at least 1
  int64_t global_tokens;  // beside the window
  int64_t prefix;         // keys that all queries see
  int64_t documents;      // packed in each row, one behind the other (tq == tk); 0: no borders
  int mask;               // not 0: links.mask is given
  fovea_plane mask_plane;
  int64_t block;            // side of the blocks of links.blocks, a multiple of 16; 0: none
  fovea_plane block_plane;  // counts blocks in place of tokens
  int bias;                 // not 0: links.bias is given
  fovea_plane bias_plane;
  int distance_bias;  // not 0: links.distance_bias is given
  int sink;           // not 0: links.sinks is given
  double soft_cap;    // c tanh(score / c); 0: none
  int cosine;         // not 0: rows of q and k by their norms
  double cosine_eps;  // at least 1e-30
  int64_t rotary;     // coordinates that turn, even, at most head_dim; 0: none
  double rotary_base;
  fovea_rotary_layout rotary_layout;
  int temperature;    // not 0: links.temperatures is given
  int relative_keys;  // not 0: links.relative_keys is given, in place of rotary and cosine;
  int content_bias;   // and with it links.content_biases,
  int position_bias;  // and links.position_biases
  int span;           // not 0: links.spans is given: exp(score) is multiplied by
  double span_ramp;   // clamp((span_ramp + span - |p - j|) / span_ramp, 0, 1)
  double dropout;     // share of the weights that become 0, below 1; above 0: links.rng is given
  fovea_normaliser normaliser;
  int64_t top_k;               // of FOVEA_TOP_K
  double softmax_temperature;  // of FOVEA_HARD and the two with noise; else 1
  uint64_t stream;             // of the random numbers of dropout and noise: any number
  int want_entropy;            // what forward reads off beside: see fovea_attention_args
  int want_mass;
  int64_t top_links;               // strongest links of each query, at most 1024
  fovea_strides q, k, v, out;      // see fovea_attention_dense()
  fovea_strides dq, dk, dv, dout;  // for the gradient only
  // Forward only: k and v as a cache of another type, FOVEA_I8 with a scale for each row of each
  // head, and in pages of so many tokens (0: none). `batch` of the strides of k, v and their scales
  // then leads from one page of the pool to the next, `token` from one token of a page to the next.
  fovea_type kv_type;
  fovea_strides k_scale, v_scale;
  int int8_products;  // not 0, with FOVEA_I8: queries and probabilities may be rounded to 8 bits
                      // too
  int64_t page_tokens;
  int64_t page_columns;  // of the table of pages; 0: as many as tk tokens need
} fovea_attention_problem;

// How the axes of arrays lie: [batch, tokens, heads * dim] or [batch, heads, tokens, dim].
typedef enum fovea_layout { FOVEA_PACKED = 0, FOVEA_HEAD_MAJOR = 1 } fovea_layout;

// Self-attention of `heads` heads over `tokens` tokens in f32, dense, without mask, with the scale
// 1 / sqrt(head_dim). Change its fields as needed; after sizes, call fovea_attention_dense().
fovea_attention_problem fovea_attention_problem_of(int64_t batch, int64_t tokens, int64_t heads,
                                                   int64_t head_dim, fovea_layout layout);
// Sets all strides to those of dense arrays of the problem's sizes. NULL is left alone.
void fovea_attention_dense(fovea_attention_problem* problem, fovea_layout layout);

// What says which links there are and what is added to their scores; NULL where the problem does
// not name it.
typedef struct fovea_attention_links {
  const int32_t* key_lengths;      // [batch]; NULL: all tk
  const int32_t* document_starts;  // [batch, documents + 1], rising from 0 to tk (cu_seqlens)
  const uint8_t* mask;             // in mask_plane; 0 hides the link
  const uint8_t* blocks;           // in block_plane; 0 hides the block
  const void* bias;                // in bias_plane
  const void* distance_bias;       // [heads, tq + tk - 1], for link (i, j) at j - i + tq - 1
  const void* sinks;               // [heads]: one more score of each query, whose value is 0
  const void* temperatures;        // [heads]
  const void*
      relative_keys;  // [kv_heads, tq + tk - 1, head_dim], for link (i, j) at j - i + tq - 1
  const void* content_biases;   // [heads, head_dim]: added to the queries that meet keys
  const void* position_biases;  // [heads, head_dim]: to those that meet relative keys
  const void* spans;            // [heads]
  const int32_t* rng;           // {seed, step, number of the first sample}, for dropout and noise
} fovea_attention_links;

// The arrays of one run.
typedef struct fovea_attention_args {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  void* lse;  // dense [batch, heads, tq], for the gradient; NULL: not wanted
  // What the problem asks for, typed like lse:
  void* entropy;            // [batch, heads, tq], in nats
  void* mass;               // [batch, heads, tk]: the sum over queries of what key j receives
  int32_t* top_keys;        // [batch, heads, tq, top_links], strongest first; -1 where there are
                            // no more
  void* top_probabilities;  // the same shape
  fovea_attention_links links;
  const float* k_scale;  // of a cache of FOVEA_I8: row j of k is k_scale[j] times what stands there
  const float* v_scale;
  const int32_t* pages;  // [batch, page_columns]: key j lies in page pages[b][j / page_tokens]
} fovea_attention_args;

// A planned attention.
typedef struct fovea_attention fovea_attention;
// The pool must outlive the plan.
fovea_status fovea_attention_plan(const fovea_attention_problem* problem, fovea_pool* pool,
                                  fovea_attention** plan);
// Writes out, and lse where it is given.
fovea_status fovea_attention_run(fovea_attention* plan, const fovea_attention_args* args);
// The kernel that was picked, such as "hwy_avx2".
const char* fovea_attention_kernel(const fovea_attention* plan);
// NULL is allowed.
void fovea_attention_destroy(fovea_attention* plan);

// The arrays of one run of the gradient.
typedef struct fovea_attention_backward_args {
  const void* q;
  const void* k;
  const void* v;
  const void* out;
  const void* lse;   // as the forward run wrote it
  const void* dout;  // the gradient that reaches out
  void* dq;          // this and the next two are overwritten
  void* dk;
  void* dv;
  fovea_attention_links links;  // as in the forward run
  // Gradients of what the problem names of links, like it (sums over what is repeated); NULL: not
  // wanted.
  void* dbias;
  void* ddistance_bias;
  void* dsinks;
  void* dtemperatures;
  void* drelative_keys;
  void* dcontent_biases;
  void* dposition_biases;
  void* dspans;
} fovea_attention_backward_args;

// A planned gradient of attention.
typedef struct fovea_attention_backward fovea_attention_backward;
// The pool must outlive the plan.
fovea_status fovea_attention_backward_plan(const fovea_attention_problem* problem, fovea_pool* pool,
                                           fovea_attention_backward** plan);
// Probabilities are computed again from lse (Dao et al. 2022, algorithm 4).
fovea_status fovea_attention_backward_run(fovea_attention_backward* plan,
                                          const fovea_attention_backward_args* args);
// The kernel that was picked.
const char* fovea_attention_backward_kernel(const fovea_attention_backward* plan);
// NULL is allowed.
void fovea_attention_backward_destroy(fovea_attention_backward* plan);

// A planned list of the blocks of links that carry an attention, for links.blocks: of each row of
// blocks those of the largest mass, as many as it takes to reach the share `mass` (above 0, at most
// 1) of it, and those in which its queries stand. The masses are estimated from means of 16 queries
// and of 16 keys. The problem is the attention's, with block and a block_plane that gives each
// sample, head and row of blocks a place of its own; rotary, cosine, temperature, soft_cap,
// relative_keys, biases, span, mask, dilation and normalisers, of which the estimate does not know,
// are refused.
typedef struct fovea_attention_blocks fovea_attention_blocks;
// The pool must outlive the plan.
fovea_status fovea_attention_blocks_plan(const fovea_attention_problem* problem, double mass,
                                         fovea_pool* pool, fovea_attention_blocks** plan);
// Writes blocks, in block_plane: 1 for those that are kept. links: lengths and documents, or NULL.
fovea_status fovea_attention_blocks_run(fovea_attention_blocks* plan, const void* q, const void* k,
                                        const fovea_attention_links* links, uint8_t* blocks);
// NULL is allowed.
void fovea_attention_blocks_destroy(fovea_attention_blocks* plan);

// ---- Softmax ----

// Over the last axis of dense [rows, cols] arrays of f32 or f64. A row that is wholly -infinity
// gives zeros (log: -infinity).
typedef struct fovea_softmax_problem {
  fovea_type type;
  int64_t rows;
  int64_t cols;
  int log;  // not 0: the logarithm of softmax
} fovea_softmax_problem;

// A planned softmax.
typedef struct fovea_softmax fovea_softmax;
// The pool must outlive the plan.
fovea_status fovea_softmax_plan(const fovea_softmax_problem* problem, fovea_pool* pool,
                                fovea_softmax** plan);
// y may be x.
fovea_status fovea_softmax_run(fovea_softmax* plan, const void* x, void* y);
// NULL is allowed.
void fovea_softmax_destroy(fovea_softmax* plan);

// A planned gradient of softmax.
typedef struct fovea_softmax_backward fovea_softmax_backward;
// The pool must outlive the plan.
fovea_status fovea_softmax_backward_plan(const fovea_softmax_problem* problem, fovea_pool* pool,
                                         fovea_softmax_backward** plan);
// y is the result of the forward run; dx may be dy.
fovea_status fovea_softmax_backward_run(fovea_softmax_backward* plan, const void* y, const void* dy,
                                        void* dx);
// NULL is allowed.
void fovea_softmax_backward_destroy(fovea_softmax_backward* plan);

// ---- Norms ----

// layer_norm (Ba, Kiros and Hinton 2016) or rms_norm (Zhang and Sennrich 2019) over the last axis
// of dense [rows, cols] arrays of f32 or f64.
typedef struct fovea_norm_problem {
  fovea_type type;
  int64_t rows;
  int64_t cols;
  double epsilon;  // added to the variance, or to the mean square; 1e-5 is usual
  int rms;         // not 0: rms_norm
} fovea_norm_problem;

// The arrays of one run: y = (x - mean) rstd weight + bias.
typedef struct fovea_norm_args {
  const void* x;
  const void* weight;  // [cols]; NULL: ones
  const void* bias;    // [cols]; NULL: zeros; rms_norm does not read it
  void* y;             // may be x
  void* mean;          // [rows], for the gradient; NULL: not wanted; rms_norm does not write it
  void* rstd;          // [rows], for the gradient; NULL: not wanted
} fovea_norm_args;

// A planned norm.
typedef struct fovea_norm fovea_norm;
// The pool must outlive the plan.
fovea_status fovea_norm_plan(const fovea_norm_problem* problem, fovea_pool* pool,
                             fovea_norm** plan);
// Writes y, and mean and rstd where they are given.
fovea_status fovea_norm_run(fovea_norm* plan, const fovea_norm_args* args);
// NULL is allowed.
void fovea_norm_destroy(fovea_norm* plan);

// The arrays of one run of the gradient.
typedef struct fovea_norm_backward_args {
  const void* x;
  const void* weight;  // NULL: ones
  const void* mean;    // as the forward run wrote it; rms_norm does not read it
  const void* rstd;    // as the forward run wrote it
  const void* dy;      // the gradient that reaches y
  void* dx;            // [rows, cols]; this and the next two: NULL if not wanted
  void* dweight;       // [cols]
  void* dbias;         // [cols]; rms_norm does not write it
} fovea_norm_backward_args;

// A planned gradient of a norm.
typedef struct fovea_norm_backward fovea_norm_backward;
// The pool must outlive the plan.
fovea_status fovea_norm_backward_plan(const fovea_norm_problem* problem, fovea_pool* pool,
                                      fovea_norm_backward** plan);
// Overwrites dx, dweight and dbias where they are given.
fovea_status fovea_norm_backward_run(fovea_norm_backward* plan,
                                     const fovea_norm_backward_args* args);
// NULL is allowed.
void fovea_norm_backward_destroy(fovea_norm_backward* plan);

// ---- Linear layers ----

// What a linear layer's result goes through.
typedef enum fovea_activation {
  FOVEA_NONE = 0,
  FOVEA_RELU = 1,
  FOVEA_SILU = 2,
  FOVEA_GELU = 3,
} fovea_activation;

// y [rows, n] = activation(x [rows, k] w^T + bias) + residual, dense. w is [n, k], or [k, n] if
// transposed: the same weight then gives the gradient of the layer's input.
typedef struct fovea_linear_problem {
  fovea_type x_type;  // f64 for all, or f32, or where w is bf16 either f32 or bf16
  fovea_type w_type;  // f32, f64 or bf16; with bf16 the product is computed in bf16, sums in f32
  fovea_type y_type;  // as x_type; bias is f64 or f32
  int64_t rows;
  int64_t n;
  int64_t k;
  int transposed;
  int bias;      // not 0: there is one
  int residual;  // not 0: there is one, of y's type
  fovea_activation activation;
} fovea_linear_problem;

// The arrays of one run.
typedef struct fovea_linear_args {
  const void* x;
  const void* w;
  const void* bias;      // [n]
  const void* residual;  // [rows, n]; may be y
  void* y;               // lies apart from the other inputs
} fovea_linear_args;

// A planned linear layer.
typedef struct fovea_linear fovea_linear;
// The pool must outlive the plan.
fovea_status fovea_linear_plan(const fovea_linear_problem* problem, fovea_pool* pool,
                               fovea_linear** plan);
// Brings a weight that stays the same into the kernel's own order, for the runs that follow; they
// must be given the same w and bias. A weight that has changed is packed again. Not needed, but
// faster.
fovea_status fovea_linear_pack(fovea_linear* plan, const void* w, const void* bias);
// Writes y.
fovea_status fovea_linear_run(fovea_linear* plan, const fovea_linear_args* args);
// The kernel that was picked, such as "dnnl".
const char* fovea_linear_kernel(const fovea_linear* plan);
// NULL is allowed.
void fovea_linear_destroy(fovea_linear* plan);

// The gradient of a weight: dw [n, k] = dy [rows, n]^T x [rows, k]; with bias db [n], the sum of dy
// over the rows. All f64, all f32, or dy and x of f32 and bf16, not both f32: dw and db are then
// f32.
typedef struct fovea_linear_grad_weight_problem {
  fovea_type dy_type;
  fovea_type x_type;
  int64_t rows;
  int64_t n;
  int64_t k;
  int bias;  // not 0: db is wanted
} fovea_linear_grad_weight_problem;

// A planned gradient of a weight.
typedef struct fovea_linear_grad_weight fovea_linear_grad_weight;
// The pool must outlive the plan.
fovea_status fovea_linear_grad_weight_plan(const fovea_linear_grad_weight_problem* problem,
                                           fovea_pool* pool, fovea_linear_grad_weight** plan);
// Overwrites dw, and db (NULL without bias).
fovea_status fovea_linear_grad_weight_run(fovea_linear_grad_weight* plan, const void* dy,
                                          const void* x, void* dw, void* db);
// NULL is allowed.
void fovea_linear_grad_weight_destroy(fovea_linear_grad_weight* plan);

#ifdef __cplusplus
}
#endif
