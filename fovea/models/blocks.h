// The blocks that models are made of.
#pragma once

#include <vector>

#include "fovea/graph/graph.h"
#include "fovea/models/attention.h"

namespace fovea {

// What differs between building for training and for inference.
struct BuildContext {
  bool training = false;
  Value rng;  // i32 [3], read by dropout and noise; needed when training with them
  // Of training: where what the loss is to have added is put, f32 [] each. Null: nobody asks.
  std::vector<Value>* penalties = nullptr;
};

struct EncoderOptions {  // of a stack of transformer blocks
  int64_t layers = 4;    // blocks
  int64_t width = 64;    // of a token: C
  int64_t heads = 4;     // of attention, each of width / heads
  int64_t mlp = 128;     // width of the hidden layer
  double dropout = 0.0;  // on the results of attention and of the hidden layer
  AttentionOptions attention = {};
};

// x where not training or the rate is 0.
Value maybe_dropout(Graph& g, Value x, double rate, const BuildContext& context,
                    std::string_view name);

// The hidden layer with GELU: x [B,T,C] -> [B,T,C].
Value feed_forward(Graph& g, Value x, const EncoderOptions& options);

// Pre-norm transformer encoder (Vaswani et al. 2017; pre-norm: Xiong et al. 2020), with a last
// norm: x [B,T,C] -> [B,T,C]. Nodes are named enc.0.attn and so on; lengths as in self_attention.
// Throws Error when the options do not fit.
Value encoder(Graph& g, Value x, const EncoderOptions& options, const BuildContext& context,
              Value lengths = {});

}  // namespace fovea
