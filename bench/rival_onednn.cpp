// A rival for `fovea bench`: attention made of oneDNN's products and softmax, as one who knows the
// library writes it. Heads lie apart beforehand, [B,H,N,D]; memory and primitives are made
// beforehand as well. A run takes some rows of queries at a time, so that their scores stay in a
// cache; how many, whether keys and values are packed first (within the run) and in which type bf16
// keeps its scores is what was fastest in a trial at setup. Backward reads the probabilities, all
// of them, that forward has left, as LibTorch's does. rival.h says how it is driven.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "rival.h"

namespace {

using dnnl::memory;
using Type = memory::data_type;
using Dims = memory::dims;
using Strides = memory::dims;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

size_t size_of(Type type) { return type == Type::f32 ? 4 : 2; }

// 64-byte aligned, all zeros.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) {
    const size_t whole = (bytes + 63) / 64 * 64;
    data_.reset(static_cast<char*>(std::aligned_alloc(64, std::max<size_t>(whole, 64))));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, whole);
  }
  char* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
};

uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float from_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct Sizes {
  int64_t batch, heads, queries, keys, dim;
  Type type;
  bool backward;

  int64_t all_heads() const { return batch * heads; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(dim)); }
};

// [B,N,H*D] of f32 to [B,H,N,D] of the type, and back.
Buffer split_heads(const rival::RawTensor& tensor, const Sizes& s) {
  const int64_t rows = tensor.shape.at(1);
  const auto elements = static_cast<size_t>(s.all_heads() * rows * s.dim);
  if (tensor.dtype != "F32" || tensor.bytes.size() != elements * 4)
    throw std::runtime_error("q, k, v and dout must be f32 [B,N,H*D]");
  Buffer split(elements * size_of(s.type));
  const char* from = tensor.bytes.data();
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t h = 0; h < s.heads; ++h)
        for (int64_t d = 0; d < s.dim; ++d, from += 4) {
          const int64_t to = ((b * s.heads + h) * rows + n) * s.dim + d;
          float x;
          std::memcpy(&x, from, 4);
          if (s.type == Type::f32)
            reinterpret_cast<float*>(split.data())[to] = x;
          else
            reinterpret_cast<uint16_t*>(split.data())[to] = to_bf16(x);
        }
  return split;
}
void join_heads(const Buffer& split, int64_t rows, const Sizes& s, std::vector<float>& joined) {
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t h = 0; h < s.heads; ++h)
        for (int64_t d = 0; d < s.dim; ++d) {
          const int64_t at = ((b * s.heads + h) * rows + n) * s.dim + d;
          joined.push_back(s.type == Type::f32
                               ? reinterpret_cast<const float*>(split.data())[at]
                               : from_bf16(reinterpret_cast<const uint16_t*>(split.data())[at]));
        }
}

// A primitive with its memory objects, whose pointers are set before each execution.
class Step {
 public:
  void add(int argument, const memory::desc& desc) {
    arguments_[argument] = memory(desc, engine(), nullptr);
  }
  template <class PrimitiveDesc>
  void finish(const dnnl::primitive& primitive, const PrimitiveDesc& pd) {
    primitive_ = primitive;
    scratchpad_ = Buffer(pd.scratchpad_desc().get_size());
    arguments_[DNNL_ARG_SCRATCHPAD] = memory(pd.scratchpad_desc(), engine(), scratchpad_.data());
  }
  void run(const dnnl::stream& stream, std::initializer_list<std::pair<int, void*>> data) {
    for (const auto& [argument, pointer] : data) arguments_.at(argument).set_data_handle(pointer);
    primitive_.execute(stream, arguments_);
  }

 private:
  dnnl::primitive primitive_;
  std::unordered_map<int, memory> arguments_;
  Buffer scratchpad_;
};

dnnl::primitive_attr attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

struct Product {
  Step step;
  memory::desc weights;  // as the primitive wants them
  std::string name;

  void run(const dnnl::stream& stream, void* a, void* b, void* c) {
    step.run(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
  }
};

struct ProductOptions {
  float scale = 1;
  bool adds = false;        // to what is there
  bool any_layout = false;  // of the weights
};

std::optional<Product> product(const memory::desc& a, const memory::desc& b, const memory::desc& c,
                               const ProductOptions& o) {
  dnnl::primitive_attr attr = attributes();
  if (o.scale != 1) attr.set_output_scales(0, {o.scale});
  if (o.adds) {
    dnnl::post_ops sum;
    sum.append_sum();
    attr.set_post_ops(sum);
  }
  const memory::desc weights =
      o.any_layout ? memory::desc(b.dims(), b.data_type(), memory::format_tag::any) : b;
  const dnnl::matmul::primitive_desc pd({a, weights, c}, attr, engine(), /*allow_empty=*/true);
  if (!pd) return std::nullopt;
  Product made{{}, pd.weights_desc(), pd.impl_info_str()};
  if (made.name.rfind("ref", 0) == 0) return std::nullopt;
  made.step.add(DNNL_ARG_SRC, a);
  made.step.add(DNNL_ARG_WEIGHTS, made.weights);
  made.step.add(DNNL_ARG_DST, c);
  made.step.finish(dnnl::matmul(pd), pd);
  return made;
}

// How a run is cut.
struct Way {
  int64_t heads;  // at a time; more than one only with all of their rows
  int64_t rows;   // of queries at a time
  bool packed;    // keys and values in oneDNN's own layout
  Type scores;

  std::string text(const std::string& products, bool backward) const {
    return products + (backward ? "/stored_probabilities" : "") + "/rows_" + std::to_string(rows) +
           (heads > 1 ? "/heads_" + std::to_string(heads) : "") + (packed ? "/packed" : "/plain") +
           (scores == Type::bf16 ? "/bf16_scores" : "");
  }
};

memory::desc rows_of(int64_t heads, int64_t rows, int64_t columns, Type type) {
  if (heads == 1) return {Dims{rows, columns}, type, Strides{columns, 1}};
  return {Dims{heads, rows, columns}, type, Strides{rows * columns, columns, 1}};
}
memory::desc transposed(int64_t heads, int64_t rows, int64_t columns, Type type) {
  if (heads == 1) return {Dims{columns, rows}, type, Strides{1, columns}};
  return {Dims{heads, columns, rows}, type, Strides{rows * columns, 1, columns}};
}

// What all workers read, and where they write.
struct Tensors {
  Buffer q, k, v, out, dout, dq, dk, dv;
  Buffer probabilities;  // [B,H,Nq,Nk], for backward
};

// One thread's primitives and memory for one height of a block of queries.
class Block {
 public:
  // Throws where oneDNN has no product for it but its slow reference.
  Block(const Sizes& s, const Way& way, int64_t rows) : s_(s) {
    const Type t = s.type;
    const auto q = rows_of(way.heads, rows, s.dim, t), k = rows_of(way.heads, s.keys, s.dim, t);
    const auto k_t = transposed(way.heads, s.keys, s.dim, t);
    const auto scores = rows_of(way.heads, rows, s.keys, way.scores);
    const auto p = rows_of(way.heads, rows, s.keys, t);
    const ProductOptions packs{1, false, way.packed};
    const auto make = [&](const memory::desc& a, const memory::desc& b, const memory::desc& c,
                          ProductOptions o) {
      auto made = product(a, b, c, o);
      if (!made) throw std::runtime_error("oneDNN has no fast product for this");
      return std::move(*made);
    };
    using dnnl::prop_kind;
    const auto accurate = dnnl::algorithm::softmax_accurate;
    const int axis = way.heads == 1 ? 1 : 2;
    if (!s.backward) {
      scores_ = make(q, k_t, scores, {s.scale(), false, way.packed});
      values_ = make(p, k, q, packs);
      const dnnl::softmax_v2_forward::primitive_desc pd(
          {prop_kind::forward_inference, accurate, scores, p, axis}, attributes(), engine());
      softmax_.add(DNNL_ARG_SRC, scores);
      softmax_.add(DNNL_ARG_DST, p);
      softmax_.finish(dnnl::softmax_v2_forward(pd), pd);
      return;
    }
    // dP = dO V^T; dS = softmax'(P, dP); dQ = dS K / sqrt(D); dK += dS^T Q / sqrt(D); dV += P^T dO.
    const auto p_t = transposed(way.heads, rows, s.keys, t);
    const bool adds = way.rows < s.queries;
    const auto sums = rows_of(way.heads, s.keys, s.dim, adds ? Type::f32 : t);
    scores_ = make(q, k_t, p, packs);
    values_ = make(p, k, q, {s.scale(), false, way.packed});
    dk_ = make(p_t, q, sums, {s.scale(), adds, false});
    dv_ = make(p_t, q, sums, {1, adds, false});
    const dnnl::softmax_v2_forward::primitive_desc forward(
        {prop_kind::forward_training, accurate, p, p, axis}, attributes(), engine());
    const dnnl::softmax_v2_backward::primitive_desc pd({accurate, p, p, p, axis}, attributes(),
                                                       engine(), forward);
    softmax_.add(DNNL_ARG_DST, p);
    softmax_.add(DNNL_ARG_DIFF_DST, p);
    softmax_.add(DNNL_ARG_DIFF_SRC, p);
    softmax_.finish(dnnl::softmax_v2_backward(pd), pd);
  }

  std::string name() const { return scores_.name; }
  const memory::desc& first_weights() const { return scores_.weights; }
  const memory::desc& second_weights() const { return values_.weights; }

  // keys, values: those of the head, packed or as they are.
  void forward(const dnnl::stream& stream, const Tensors& t, int64_t head, int64_t row, void* keys,
               void* values, char* scores, char* p) {
    scores_.run(stream, at(t.q, head, row, s_.queries), keys, scores);
    softmax_.run(stream, {{DNNL_ARG_SRC, scores}, {DNNL_ARG_DST, p}});
    values_.run(stream, p, values, at(t.out, head, row, s_.queries));
  }
  // values_t: values for dO V^T; keys: for dS K. dk and dv: those of the head.
  void backward(const dnnl::stream& stream, const Tensors& t, int64_t head, int64_t row,
                void* values_t, void* keys, char* ds, char* dk, char* dv) {
    char* dout = at(t.dout, head, row, s_.queries);
    char* q = at(t.q, head, row, s_.queries);
    char* dq = at(t.dq, head, row, s_.queries);
    char* p = t.probabilities.data() +
              static_cast<size_t>((head * s_.queries + row) * s_.keys) * size_of(s_.type);
    scores_.run(stream, dout, values_t, ds);
    dv_.run(stream, p, dout, dv);
    softmax_.run(stream, {{DNNL_ARG_DST, p}, {DNNL_ARG_DIFF_DST, ds}, {DNNL_ARG_DIFF_SRC, ds}});
    values_.run(stream, ds, keys, dq);
    dk_.run(stream, ds, q, dk);
  }

  char* at(const Buffer& x, int64_t head, int64_t row, int64_t rows) const {
    return x.data() + static_cast<size_t>((head * rows + row) * s_.dim) * size_of(s_.type);
  }

 private:
  Sizes s_;
  Product scores_, values_, dk_, dv_;
  Step softmax_;
};

// Everything that one thread needs.
class Worker {
 public:
  Worker(const Sizes& s, const Way& way)
      : s_(s), way_(way), stream_(engine()), whole_(s, way, way.rows) {
    if (s.queries % way.rows != 0) rest_.emplace(s, way, s.queries % way.rows);
    const auto elements = static_cast<size_t>(way.heads * way.rows * s.keys);
    scores_ = Buffer(elements * size_of(way.scores));
    if (way.scores != s.type) p_ = Buffer(elements * size_of(s.type));
    if (sums_in_f32()) {
      const auto rows = rows_of(1, s.keys, s.dim, s.type);
      const auto sums = rows_of(1, s.keys, s.dim, Type::f32);
      for (Buffer* x : {&dk_, &dv_}) *x = Buffer(sums.get_size());
      packs(round_, sums, rows);
    }
    if (!way.packed) return;
    // K of the first product and V of the second; of backward V and K.
    first_packed_ = Buffer(whole_.first_weights().get_size());
    second_packed_ = Buffer(whole_.second_weights().get_size());
    packs(pack_first_, transposed(1, s.keys, s.dim, s.type), whole_.first_weights());
    packs(pack_second_, rows_of(1, s.keys, s.dim, s.type), whole_.second_weights());
    if (rest_ && (rest_->first_weights() != whole_.first_weights() ||
                  rest_->second_weights() != whole_.second_weights()))
      throw std::runtime_error("the last rows want another layout");
  }

  std::string name() const { return whole_.name(); }

  // As many heads as the way takes at a time.
  void run(const Tensors& t, int64_t head) {
    const Buffer& first_source = s_.backward ? t.v : t.k;
    const Buffer& second_source = s_.backward ? t.k : t.v;
    void* first = whole_.at(first_source, head, 0, s_.keys);
    void* second = whole_.at(second_source, head, 0, s_.keys);
    if (way_.packed) {
      pack_first_.run(stream_, {{DNNL_ARG_FROM, first}, {DNNL_ARG_TO, first_packed_.data()}});
      pack_second_.run(stream_, {{DNNL_ARG_FROM, second}, {DNNL_ARG_TO, second_packed_.data()}});
      first = first_packed_.data();
      second = second_packed_.data();
    }
    char *dk = nullptr, *dv = nullptr;
    if (s_.backward) {
      dk = sums_in_f32() ? dk_.data() : whole_.at(t.dk, head, 0, s_.keys);
      dv = sums_in_f32() ? dv_.data() : whole_.at(t.dv, head, 0, s_.keys);
      if (adds())
        for (char* x : {dk, dv}) std::memset(x, 0, static_cast<size_t>(s_.keys * s_.dim) * 4);
    }
    char* p = way_.scores != s_.type ? p_.data() : scores_.data();
    for (int64_t row = 0; row < s_.queries; row += way_.rows) {
      Block& block = row + way_.rows <= s_.queries ? whole_ : *rest_;
      if (s_.backward)
        block.backward(stream_, t, head, row, first, second, scores_.data(), dk, dv);
      else
        block.forward(stream_, t, head, row, first, second, scores_.data(), p);
    }
    if (!sums_in_f32()) return;
    for (const auto& [sum, to] : {std::pair(dk, &t.dk), std::pair(dv, &t.dv)})
      round_.run(stream_, {{DNNL_ARG_FROM, sum}, {DNNL_ARG_TO, whole_.at(*to, head, 0, s_.keys)}});
  }

 private:
  // Blocks of queries add to dK and dV, in f32 also where these are bf16.
  bool adds() const { return s_.backward && way_.rows < s_.queries; }
  bool sums_in_f32() const { return adds() && s_.type != Type::f32; }

  static void packs(Step& step, const memory::desc& from, const memory::desc& to) {
    const dnnl::reorder::primitive_desc pd(engine(), from, engine(), to, attributes());
    step.add(DNNL_ARG_FROM, from);
    step.add(DNNL_ARG_TO, to);
    step.finish(dnnl::reorder(pd), pd);
  }

  Sizes s_;
  Way way_;
  dnnl::stream stream_;
  Block whole_;
  std::optional<Block> rest_;
  Buffer scores_, p_, first_packed_, second_packed_, dk_, dv_;
  Step pack_first_, pack_second_, round_;
};

std::vector<Way> ways(const Sizes& s) {
  std::vector<Way> all;
  std::vector<Type> types = {s.type};
  if (s.type == Type::bf16 && !s.backward) types.push_back(Type::f32);
  for (const Type scores : types) {
    for (int64_t rows : {32, 64, 128, 256, 512})
      if (rows < s.queries)
        for (const bool packed : {false, true}) all.push_back({1, rows, packed, scores});
    // All rows, of one head or several, as long as their scores take no more than a gigabyte.
    for (int64_t heads = 1; heads <= s.all_heads(); heads *= 4)
      if (s.all_heads() % heads == 0 && heads * s.queries * s.keys <= int64_t{1} << 28)
        for (const bool packed : {false, true})
          if (heads == 1 || !packed) all.push_back({heads, s.queries, packed, scores});
  }
  return all;
}

class Attention : public rival::Problem {
 public:
  Attention(const std::map<std::string, rival::RawTensor>& tensors, const rival::Options& options,
            bool backward)
      : threads_(std::stoi(options.at("threads"))) {
    const auto& q = tensors.at("q");
    s_.batch = q.shape.at(0);
    s_.heads = std::stoll(options.at("heads"));
    s_.queries = q.shape.at(1);
    s_.keys = tensors.at("k").shape.at(1);
    s_.dim = q.shape.at(2) / s_.heads;
    s_.type = options.at("dtype") == "bf16" ? Type::bf16 : Type::f32;
    s_.backward = false;
    t_.q = split_heads(q, s_);
    t_.k = split_heads(tensors.at("k"), s_);
    t_.v = split_heads(tensors.at("v"), s_);
    t_.out = like(s_.queries);
    if (backward) {
      t_.dout = split_heads(tensors.at("dout"), s_);
      t_.dq = like(s_.queries);
      t_.dk = like(s_.keys);
      t_.dv = like(s_.keys);
      keep_probabilities();
      s_.backward = true;
    }
    choose();
  }

  void run() override {
    const int64_t pieces = s_.all_heads() / way_.heads;
#pragma omp parallel num_threads(threads_)
    {
      // Each thread is one of oneDNN's.
      omp_set_num_threads(1);
      Worker& worker = *workers_[static_cast<size_t>(omp_get_thread_num())];
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < pieces; ++i) worker.run(t_, i * way_.heads);
    }
  }

  std::vector<float> output() override {
    run();
    std::vector<float> joined;
    if (!s_.backward) {
      join_heads(t_.out, s_.queries, s_, joined);
    } else {
      join_heads(t_.dq, s_.queries, s_, joined);
      join_heads(t_.dk, s_.keys, s_, joined);
      join_heads(t_.dv, s_.keys, s_, joined);
    }
    return joined;
  }

  std::string description() const override {
    const dnnl_version_t* v = dnnl_version();
    return "version=" + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
           std::to_string(v->patch) + " kernel=" + way_.text(workers_[0]->name(), s_.backward);
  }

 private:
  Buffer like(int64_t rows) const {
    return Buffer(static_cast<size_t>(s_.all_heads() * rows * s_.dim) * size_of(s_.type));
  }

  // The probabilities of forward, in the order of the scores.
  void keep_probabilities() {
    const auto of_head = static_cast<size_t>(s_.queries * s_.keys) * size_of(s_.type);
    t_.probabilities = Buffer(static_cast<size_t>(s_.all_heads()) * of_head);
    const Way whole{1, s_.queries, false, s_.type};
    Block block(s_, whole, s_.queries);
    const dnnl::stream stream(engine());
    for (int64_t head = 0; head < s_.all_heads(); ++head) {
      char* p = t_.probabilities.data() + static_cast<size_t>(head) * of_head;
      block.forward(stream, t_, head, 0, block.at(t_.k, head, 0, s_.keys),
                    block.at(t_.v, head, 0, s_.keys), p, p);
    }
  }

  // The way that was fastest for one head; a trial takes a piece of the whole.
  void choose() {
    double best = std::numeric_limits<double>::infinity();
    std::string last_error = "oneDNN has no product for this";
    for (const Way& way : ways(s_)) {
      try {
        omp_set_num_threads(1);
        Worker worker(s_, way);
        double fastest = std::numeric_limits<double>::infinity();
        for (int i = 0; i < 3; ++i) {
          const auto start = std::chrono::steady_clock::now();
          worker.run(t_, 0);
          const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
          fastest = std::min(fastest, taken.count() / static_cast<double>(way.heads));
        }
        if (fastest >= best) continue;
        best = fastest;
        way_ = way;
      } catch (const std::exception& e) {
        last_error = e.what();
      }
    }
    if (best == std::numeric_limits<double>::infinity()) throw std::runtime_error(last_error);
    for (int i = 0; i < threads_; ++i) workers_.push_back(std::make_unique<Worker>(s_, way_));
  }

  int threads_;
  Sizes s_{};
  Tensors t_;
  Way way_{};
  std::vector<std::unique_ptr<Worker>> workers_;
};

std::unique_ptr<rival::Problem> make_problem(const std::string& kind, rival::Options& options) {
  if (kind != "attention" && kind != "attention_backward")
    throw std::runtime_error("unknown problem " + kind);
  return std::make_unique<Attention>(rival::read_tensors(options.at("tensors")), options,
                                     kind == "attention_backward");
}

}  // namespace

int main() { return rival::serve(make_problem); }
