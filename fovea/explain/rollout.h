// What attention says about tokens: how much each of them counts for the answer. Numbers are
// multiples of an even share: their mean is 1.
#pragma once

#include <cstdint>
#include <vector>

#include "fovea/infer/attention_maps.h"

namespace fovea {

// The models take the mean over all tokens as their last step, so each function begins with an even
// weight on every token at the end and follows it back to the tokens at the beginning. All give
// [tokens] for one image of the batch, and throw Error (unsupported) where a layer's queries and
// keys are not the tokens of the layer before. Of a sequence that is shorter than others only the
// first `there` tokens count, and the result has so many; 0: all.

// Attention rollout (Abnar and Zuidema 2020, "Quantifying attention flow in transformers",
// equation 1): the product over the layers of 0.5 A + 0.5 I, with A the mean over the heads. The
// halves stand for what passes by the attention in the residual. Rows that see no key count as I.
std::vector<double> attention_rollout(const AttentionMaps& maps, int64_t image, int64_t there = 0);

// Gradient-weighted rollout of the class whose gradients the maps hold (Chefer, Gur and Wolf 2021,
// "Generic attention-model explainability for interpreting bi-modal and encoder-decoder
// transformers", equations 5 and 6): R <- R + A R, with A the mean over the heads of the positive
// part of gradient * probability. The identity with which R begins is the same for all tokens, and
// is left out. Where nothing is positive, all shares are even. FOVEA_ASSERT that there are
// gradients.
std::vector<double> gradient_rollout(const AttentionMaps& maps, int64_t image, int64_t there = 0);

// The attention that tokens receive in the last layer, mean over heads and queries.
std::vector<double> last_layer_attention(const AttentionMaps& maps, int64_t image,
                                         int64_t there = 0);

// The attention that tokens receive from one head, mean over queries.
std::vector<double> head_attention(const AttentionMap& map, int64_t image, int64_t head,
                                   int64_t there = 0);

}  // namespace fovea
