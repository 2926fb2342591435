// Convolution through oneDNN in blocks of images. Its generated code wants the weight in a layout
// of its own choice: packed once a run into scratch (microseconds). Gradients of the weight are
// summed in that layout over a fixed number of parts of the batch, then unpacked.
#include <algorithm>

#include "fovea/kernels/conv2d.h"
#include "fovea/kernels/dnnl_support.h"

namespace fovea {
namespace {

using dnnl::memory;
using dnnl_support::aligned;
using dnnl_support::ceil_div;
using dnnl_support::Op;
using dnnl_support::Operand;
using dnnl_support::PrimitivePtr;

constexpr int64_t kBlockFlops = int64_t{1} << 22;     // work that a block of images is worth
constexpr int64_t kMaxParts = 16;                     // partial sums of the weight's gradient
constexpr int64_t kPartImages = 4;                    // fewest images in a part
constexpr int64_t kPartialFloats = int64_t{1} << 24;  // most scratch for partial sums
constexpr int64_t kAddBlock = 4096;                   // elements that one block adds up

// The same number of images in each piece, the last one smaller.
struct Pieces {
  int64_t images = 0, piece = 0, count = 0;

  Pieces() = default;
  Pieces(int64_t images_, int64_t piece_)
      : images(images_), piece(piece_), count(ceil_div(images_, piece_)) {}
  int64_t length(int64_t i) const { return std::min(piece, images - i * piece); }
  bool last(int64_t i) const { return i + 1 == count; }
};

// The maker of a primitive for images of the problem; layout is nullptr where oneDNN may choose the
// weight's. The weight is the operand 1.
using Maker = PrimitivePtr (*)(const Conv2dProblem& p, int64_t images, const memory::desc* layout);
constexpr size_t kWeight = 1;

memory::desc weight_desc(const Conv2dProblem& p, memory::format_tag tag) {
  return {{p.o, p.c, p.kh, p.kw}, memory::data_type::f32, tag};
}

struct Descs {
  memory::desc x, weight, bias, y;
  memory::dims stride, pad;

  Descs(const Conv2dProblem& p, int64_t images, const memory::desc* layout)
      : x({images, p.c, p.h, p.w}, memory::data_type::f32, memory::format_tag::nhwc),
        weight(layout ? *layout : weight_desc(p, memory::format_tag::any)),
        y({images, p.o, p.out_h(), p.out_w()}, memory::data_type::f32, memory::format_tag::nhwc),
        stride{p.stride_h, p.stride_w},
        pad{p.pad_h, p.pad_w} {
    if (p.bias) bias = memory::desc({p.o}, memory::data_type::f32, memory::format_tag::a);
  }
};

dnnl::convolution_forward::primitive_desc describe_forward(const Descs& d) {
  return {{dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct, d.x, d.weight,
           d.bias, d.y, d.stride, d.pad, d.pad},
          dnnl_support::user_scratchpad(),
          dnnl_support::engine()};
}

PrimitivePtr make_forward(const Conv2dProblem& p, int64_t images, const memory::desc* layout) {
  const auto pd = describe_forward(Descs(p, images, layout));
  if (!dnnl_support::is_fast(pd)) return nullptr;
  std::vector<Operand> operands = {{DNNL_ARG_SRC, pd.src_desc()},
                                   {DNNL_ARG_WEIGHTS, pd.weights_desc()},
                                   {DNNL_ARG_DST, pd.dst_desc()}};
  if (p.bias) operands.push_back({DNNL_ARG_BIAS, pd.bias_desc()});
  return std::make_shared<dnnl_support::Primitive>(dnnl::convolution_forward(pd),
                                                   pd.scratchpad_desc(), std::move(operands));
}

PrimitivePtr make_grad_input(const Conv2dProblem& p, int64_t images, const memory::desc* layout) {
  const Descs d(p, images, layout);
  const dnnl::convolution_backward_data::primitive_desc pd(
      {dnnl::algorithm::convolution_direct, d.x, d.weight, d.y, d.stride, d.pad, d.pad},
      dnnl_support::user_scratchpad(), dnnl_support::engine(),
      describe_forward(Descs(p, images, nullptr)));
  if (!dnnl_support::is_fast(pd)) return nullptr;
  return std::make_shared<dnnl_support::Primitive>(
      dnnl::convolution_backward_data(pd), pd.scratchpad_desc(),
      std::vector<Operand>{{DNNL_ARG_DIFF_DST, pd.diff_dst_desc()},
                           {DNNL_ARG_WEIGHTS, pd.weights_desc()},
                           {DNNL_ARG_DIFF_SRC, pd.diff_src_desc()}});
}

PrimitivePtr make_grad_weight(const Conv2dProblem& p, int64_t images, const memory::desc* layout) {
  const Descs d(p, images, layout);
  const dnnl::convolution_backward_weights::primitive_desc pd(
      {dnnl::algorithm::convolution_direct, d.x, d.weight, d.bias, d.y, d.stride, d.pad, d.pad},
      dnnl_support::user_scratchpad(), dnnl_support::engine(),
      describe_forward(Descs(p, images, nullptr)));
  if (!dnnl_support::is_fast(pd)) return nullptr;
  std::vector<Operand> operands = {{DNNL_ARG_DIFF_DST, pd.diff_dst_desc()},
                                   {DNNL_ARG_DIFF_WEIGHTS, pd.diff_weights_desc()},
                                   {DNNL_ARG_SRC, pd.src_desc()}};
  if (p.bias) operands.push_back({DNNL_ARG_DIFF_BIAS, pd.diff_bias_desc()});
  return std::make_shared<dnnl_support::Primitive>(dnnl::convolution_backward_weights(pd),
                                                   pd.scratchpad_desc(), std::move(operands));
}

PrimitivePtr make_reorder(const memory::desc& from, const memory::desc& to) {
  const dnnl::reorder::primitive_desc pd(dnnl_support::engine(), from, dnnl_support::engine(), to,
                                         dnnl_support::user_scratchpad());
  return std::make_shared<dnnl_support::Primitive>(
      dnnl::reorder(pd), pd.scratchpad_desc(),
      std::vector<Operand>{{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

// The batch in pieces, the primitives for a full and the last piece, and the copy of the weight
// between our layout and the one that both share.
struct Convolution {
  Pieces pieces;
  PrimitivePtr full, last, repack;

  // False: oneDNN is no help here.
  bool make(const Conv2dProblem& p, Op op, Maker maker, int64_t piece) {
    pieces = Pieces(p.batch, piece);
    const auto find = [&](int64_t images, const memory::desc* layout) {
      const int64_t key[] = {images, piece,      p.h,        p.w,     p.c,     p.o,   p.kh,
                             p.kw,   p.stride_h, p.stride_w, p.pad_h, p.pad_w, p.bias};
      return dnnl_support::cached(op, key, [&] { return maker(p, images, layout); });
    };
    full = find(piece, nullptr);
    if (!full) return false;
    const memory::desc& layout = full->desc(kWeight);
    const int64_t rest = pieces.length(pieces.count - 1);
    last = rest == piece ? full : find(rest, &layout);
    if (!last) return false;
    const bool unpack = op == Op::conv_grad_weight;
    const int64_t key[] = {static_cast<int64_t>(op),
                           piece,
                           p.h,
                           p.w,
                           p.c,
                           p.o,
                           p.kh,
                           p.kw,
                           p.stride_h,
                           p.stride_w,
                           p.pad_h,
                           p.pad_w,
                           p.bias};
    repack = dnnl_support::cached(Op::repack, key, [&] {
      const memory::desc ours = weight_desc(p, memory::format_tag::ohwi);
      return unpack ? make_reorder(layout, ours) : make_reorder(ours, layout);
    });
    return repack != nullptr;
  }

  size_t weight_bytes() const { return full->desc(kWeight).get_size(); }
  size_t scratchpad_bytes() const {
    return std::max(
        {full->scratchpad_bytes(), last->scratchpad_bytes(), repack->scratchpad_bytes()});
  }
  const dnnl_support::Primitive& compute(int64_t i) const { return pieces.last(i) ? *last : *full; }
};

// Images in a block: enough work to be worth a call, but blocks for 8 threads where the batch
// allows it.
int64_t images_in_block(const Conv2dProblem& p) {
  const int64_t flops = 2 * p.out_h() * p.out_w() * p.o * p.kh * p.kw * p.c;
  return std::clamp<int64_t>(kBlockFlops / flops, 1, ceil_div(p.batch, 8));
}

// Images in one partial sum of the weight's gradient: as above, and no more parts than scratch
// allows.
int64_t images_in_part(const Conv2dProblem& p) {
  const int64_t weights = p.o * p.kh * p.kw * p.c;
  const int64_t affordable = std::max<int64_t>(1, kPartialFloats / weights);
  const int64_t least = std::max(images_in_block(p), kPartImages);
  return std::max(least, ceil_div(p.batch, std::min(kMaxParts, affordable)));
}

class Forward : public KernelPlan<Conv2dArgs> {
 public:
  bool make(const Conv2dProblem& p) {
    if (!conv_.make(p, Op::conv_forward, make_forward, images_in_block(p)) &&
        !conv_.make(p, Op::conv_forward, make_forward, 1))
      return false;
    bias_ = p.bias;
    x_size_ = p.h * p.w * p.c;
    y_size_ = p.out_h() * p.out_w() * p.o;
    scratch_bytes = conv_.weight_bytes();
    worker_scratch_bytes = conv_.scratchpad_bytes();
    return true;
  }

  void run(const Conv2dArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(1, [&](int64_t, int worker) {
      conv_.repack->run({args.weight, context.scratch}, context.worker<void>(worker));
    });
    context.pool->parallel_for(conv_.pieces.count, [&](int64_t i, int worker) {
      const float* x = static_cast<const float*>(args.x) + i * conv_.pieces.piece * x_size_;
      float* y = static_cast<float*>(args.y) + i * conv_.pieces.piece * y_size_;
      void* scratch = context.worker<void>(worker);
      if (bias_)
        conv_.compute(i).run({x, context.scratch, y, args.bias}, scratch);
      else
        conv_.compute(i).run({x, context.scratch, y}, scratch);
    });
  }

 private:
  Convolution conv_;
  bool bias_ = false;
  int64_t x_size_ = 0, y_size_ = 0;  // of an image
};

class GradInput : public KernelPlan<Conv2dGradInputArgs> {
 public:
  bool make(Conv2dProblem p) {
    p.bias = false;
    if (!conv_.make(p, Op::conv_grad_input, make_grad_input, images_in_block(p)) &&
        !conv_.make(p, Op::conv_grad_input, make_grad_input, 1))
      return false;
    x_size_ = p.h * p.w * p.c;
    y_size_ = p.out_h() * p.out_w() * p.o;
    scratch_bytes = conv_.weight_bytes();
    worker_scratch_bytes = conv_.scratchpad_bytes();
    return true;
  }

  void run(const Conv2dGradInputArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(1, [&](int64_t, int worker) {
      conv_.repack->run({args.weight, context.scratch}, context.worker<void>(worker));
    });
    context.pool->parallel_for(conv_.pieces.count, [&](int64_t i, int worker) {
      const float* dy = static_cast<const float*>(args.dy) + i * conv_.pieces.piece * y_size_;
      float* dx = static_cast<float*>(args.dx) + i * conv_.pieces.piece * x_size_;
      conv_.compute(i).run({dy, context.scratch, dx}, context.worker<void>(worker));
    });
  }

 private:
  Convolution conv_;
  int64_t x_size_ = 0, y_size_ = 0;
};

class GradWeight : public KernelPlan<Conv2dGradWeightArgs> {
 public:
  bool make(const Conv2dProblem& p) {
    if (!conv_.make(p, Op::conv_grad_weight, make_grad_weight, images_in_part(p)) &&
        !conv_.make(p, Op::conv_grad_weight, make_grad_weight, p.batch))
      return false;
    outputs_ = p.bias ? p.o : 0;
    x_size_ = p.h * p.w * p.c;
    y_size_ = p.out_h() * p.out_w() * p.o;
    weight_floats_ = static_cast<int64_t>(aligned(conv_.weight_bytes()) / sizeof(float));
    bias_floats_ = static_cast<int64_t>(aligned(static_cast<size_t>(outputs_) * sizeof(float)) /
                                        sizeof(float));
    scratch_bytes =
        static_cast<size_t>(conv_.pieces.count * (weight_floats_ + bias_floats_)) * sizeof(float);
    worker_scratch_bytes = conv_.scratchpad_bytes();
    return true;
  }

  void run(const Conv2dGradWeightArgs& args, const KernelContext& context) const noexcept override {
    const Pieces& parts = conv_.pieces;
    float* weights = reinterpret_cast<float*>(context.scratch);
    float* biases = weights + parts.count * weight_floats_;
    context.pool->parallel_for(parts.count, [&](int64_t i, int worker) {
      const float* dy = static_cast<const float*>(args.dy) + i * parts.piece * y_size_;
      const float* x = static_cast<const float*>(args.x) + i * parts.piece * x_size_;
      void* scratch = context.worker<void>(worker);
      if (outputs_ > 0)
        conv_.compute(i).run({dy, weights + i * weight_floats_, x, biases + i * bias_floats_},
                             scratch);
      else
        conv_.compute(i).run({dy, weights + i * weight_floats_, x}, scratch);
    });
    const int64_t used = static_cast<int64_t>(conv_.weight_bytes() / sizeof(float));
    if (parts.count > 1) {
      context.pool->parallel_for(ceil_div(used, kAddBlock), [&](int64_t block, int) {
        const int64_t first = block * kAddBlock;
        add_parts(weights + first, weight_floats_, std::min(kAddBlock, used - first));
      });
    }
    context.pool->parallel_for(1, [&](int64_t, int worker) {
      conv_.repack->run({weights, args.dweight}, context.worker<void>(worker));
      if (outputs_ == 0) return;
      add_parts(biases, bias_floats_, outputs_);
      std::copy_n(biases, outputs_, static_cast<float*>(args.dbias));
    });
  }

 private:
  // Adds the later parts, stride apart, to the first, in index order.
  void add_parts(float* first, int64_t stride, int64_t count) const {
    for (int64_t part = 1; part < conv_.pieces.count; ++part) {
      const float* from = first + part * stride;
      for (int64_t i = 0; i < count; ++i) first[i] += from[i];
    }
  }

  Convolution conv_;
  int64_t outputs_ = 0;  // of the bias
  int64_t x_size_ = 0, y_size_ = 0;
  int64_t weight_floats_ = 0, bias_floats_ = 0;  // of one part
};

template <class Plan, class Args>
std::unique_ptr<KernelPlan<Args>> plan(const Conv2dProblem& p) {
  conv2d_detail::check(p);
  if (p.dtype != DType::f32) return nullptr;
  auto made = std::make_unique<Plan>();
  if (!made->make(p)) return nullptr;
  return made;
}

}  // namespace

namespace conv2d_detail {

std::unique_ptr<KernelPlan<Conv2dArgs>> plan_dnnl(const Conv2dProblem& problem) {
  return plan<Forward, Conv2dArgs>(problem);
}
std::unique_ptr<KernelPlan<Conv2dGradInputArgs>> plan_grad_input_dnnl(
    const Conv2dProblem& problem) {
  return plan<GradInput, Conv2dGradInputArgs>(problem);
}
std::unique_ptr<KernelPlan<Conv2dGradWeightArgs>> plan_grad_weight_dnnl(
    const Conv2dProblem& problem) {
  return plan<GradWeight, Conv2dGradWeightArgs>(problem);
}

}  // namespace conv2d_detail
}  // namespace fovea
