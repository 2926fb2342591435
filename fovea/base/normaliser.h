// What makes weights of the scores of a row: the choice that attention and the op `normalise`
// share.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace fovea {

// p_j for the scores s_j of a row; those of -infinity are not there. Gradients, for the gradient g
// of p (S is the support, where p > 0):
enum class Normaliser {
  softmax,      // exp(s) / sum exp(s); ds = p (g - sum p g)
  top_k,        // softmax of the k largest scores, of equal ones those that come first; the same
  sparsemax,    // the nearest point of the simplex, max(0, s - tau) (Martins and Astudillo 2016);
                // ds = g - mean over S of g, on S
  entmax15,     // max(0, s / 2 - tau)^2 with sum 1 (1.5-entmax, Peters, Niculae, Martins 2019);
                // ds = r (g - sum r g / sum r) with r = sqrt(p)
  hard,         // 1 for the largest score, the first of equal ones; straight through (Bengio et al.
                // 2013): the gradient of softmax(s / softmax_temperature)
  gumbel,       // softmax((s + noise) / softmax_temperature) with Gumbel noise (Jang et al. 2017;
                // Maddison et al. 2017): a sample that sharpens as it falls
  gumbel_hard,  // 1 for the largest s + noise, straight through: the gradient of gumbel
};
inline std::span<const std::string_view> enum_names(Normaliser) {
  static constexpr std::array<std::string_view, 7> kNames = {
      "softmax", "top_k", "sparsemax", "entmax15", "hard", "gumbel", "gumbel_hard"};
  return kNames;
}

// Whether it draws noise.
inline bool is_random(Normaliser n) {
  return n == Normaliser::gumbel || n == Normaliser::gumbel_hard;
}
// Whether the forward result is one link a row, and backward that of a softmax.
inline bool is_hard(Normaliser n) { return n == Normaliser::hard || n == Normaliser::gumbel_hard; }
// Whether it has a temperature.
inline bool has_temperature(Normaliser n) { return is_random(n) || is_hard(n); }

// What does not go together, naming both options, as "expected .., got .."; nothing where all is
// well.
std::optional<std::string> fault_of(Normaliser n, int64_t top_k, double softmax_temperature);

}  // namespace fovea
