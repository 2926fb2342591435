// Decoding: one query against a long key/value cache, beside the speed of reading memory.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "cli/bench_attention.h"
#include "fovea/base/philox.h"
#include "fovea/formats/safetensors.h"

namespace fovea::cli {

namespace {

struct Decoding {
  int64_t heads, kv_heads, keys, dim;
  DType dtype;       // of the cache; queries are f32 or bf16
  int64_t page = 0;  // tokens of a page; 0: one piece

  int64_t elements() const { return kv_heads * keys * dim; }
  int64_t read_bytes() const {
    const int64_t scales = dtype == DType::i8 ? 2 * kv_heads * keys * 4 : 0;
    return 2 * elements() * static_cast<int64_t>(dtype_size(dtype)) + scales;
  }
  std::string name() const {
    return fmt::format("attention decode H{}/{} N{} D{} {}{}", heads, kv_heads, keys, dim,
                       dtype_name(dtype), page > 0 ? fmt::format(" pages of {}", page) : "");
  }
};

AttentionProblem problem_of(const Decoding& d) {
  AttentionProblem p;
  p.dtype = d.dtype == DType::f32 ? DType::f32 : DType::bf16;
  p.kv_dtype = d.dtype;
  p.tk = d.keys;
  p.heads = p.heads_kept = d.heads;
  p.kv_heads = d.kv_heads;
  p.head_dim = p.value_dim = d.dim;
  p.scale = 1 / std::sqrt(static_cast<double>(d.dim));
  p.page_tokens = d.page;
  set_dense_strides(p, /*packed=*/true);
  return p;
}

class OwnDecoding : public Competitor {
 public:
  OwnDecoding(const Decoding& d, const std::string& wanted, std::shared_ptr<ThreadPool> pool)
      : d_(d),
        dtype_(problem_of(d).dtype),
        pool_(std::move(pool)),
        q_(random_values(d.heads * d.dim, dtype_, "q")),
        k_(random_values(d.elements(), d.dtype, "k")),
        v_(random_values(d.elements(), d.dtype, "v")),
        out_(q_.size(), "output of attention"),
        planned_(plan_of(attention_kernels(), wanted, problem_of(d))),
        scratch_(*planned_.plan, *pool_) {
    implementation = "fovea";
    kernel = planned_.name;
    flops = 4 * d.heads * d.keys * d.dim;
    if (d.dtype == DType::i8) scales_.assign(static_cast<size_t>(d.kv_heads * d.keys), 1.0f / 127);
    if (d.page > 0) {
      pages_.resize(static_cast<size_t>((d.keys + d.page - 1) / d.page));
      std::iota(pages_.begin(), pages_.end(), 0);
      PhiloxStream random(1, stream_id("pages"));
      for (size_t i = pages_.size() - 1; i > 0; --i)
        std::swap(pages_[i], pages_[random.below(static_cast<uint32_t>(i + 1))]);
    }
  }

  std::vector<float> output() override {
    run_once();
    std::vector<float> all(static_cast<size_t>(d_.heads * d_.dim));
    for (size_t i = 0; i < all.size(); ++i)
      all[i] = dtype_ == DType::f32
                   ? reinterpret_cast<const float*>(out_.data())[i]
                   : static_cast<float>(reinterpret_cast<const bf16*>(out_.data())[i]);
    return all;
  }

  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { run_once(); });
  }

 private:
  void run_once() {
    planned_.plan->run({.q = q_.data(),
                        .k = k_.data(),
                        .v = v_.data(),
                        .out = out_.data(),
                        .k_scale = scales_.data(),
                        .v_scale = scales_.data(),
                        .pages = pages_.data()},
                       scratch_.context);
  }

  Decoding d_;
  DType dtype_;
  std::shared_ptr<ThreadPool> pool_;
  AlignedBuffer q_, k_, v_, out_;
  std::vector<float> scales_;
  std::vector<int32_t> pages_;
  Planned<AttentionArgs> planned_;
  Scratch<AttentionArgs> scratch_;
};

BenchCase case_of(const Decoding& d, const std::string& kernel) {
  BenchCase c;
  c.name = d.name();
  c.tolerance = 1e-4;
  c.read_bytes = d.read_bytes();
  c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
    std::vector<std::unique_ptr<Competitor>> own;
    own.push_back(std::make_unique<OwnDecoding>(d, kernel, pool));
    return own;
  };
  c.write_files = [=](const std::filesystem::path& folder) {
    std::vector<AlignedBuffer> data;
    std::vector<TensorView> tensors;
    for (const char* name : {"q", "k", "v"}) {
      const int64_t rows = *name == 'q' ? 1 : d.keys;
      data.push_back(random_values(rows * d.heads * d.dim, DType::f32, name));
      tensors.push_back({.name = name,
                         .shape = {1, rows, d.heads * d.dim},
                         .bytes = std::as_const(data.back()).bytes()});
    }
    write_safetensors(folder / "tensors.safetensors", tensors);
  };
  // The rivals know neither groups of heads nor other caches.
  c.setup = [=](std::string_view) -> std::string {
    if (d.dtype != DType::f32 || d.heads != d.kv_heads || d.page > 0) return {};
    return fmt::format("setup attention dtype=f32 tensors=tensors.safetensors heads={}", d.heads);
  };
  return c;
}

}  // namespace

std::vector<BenchCase> decode_cases(const std::string& kernel) {
  std::vector<BenchCase> cases;
  constexpr int64_t kKeys = 32768;
  for (const Decoding& d :
       {Decoding{8, 2, kKeys, 64, DType::bf16}, Decoding{8, 2, kKeys, 128, DType::bf16},
        Decoding{8, 2, kKeys, 64, DType::bf16, 16}, Decoding{8, 2, kKeys, 128, DType::bf16, 16},
        Decoding{8, 2, kKeys, 64, DType::f32}, Decoding{8, 2, kKeys, 128, DType::f32},
        Decoding{8, 2, kKeys, 64, DType::i8}, Decoding{8, 2, kKeys, 128, DType::i8},
        Decoding{8, 8, 8192, 64, DType::f32}})
    if (plan_of(attention_kernels(), kernel, problem_of(d)).plan)
      cases.push_back(case_of(d, kernel));
  return cases;
}

}  // namespace fovea::cli
