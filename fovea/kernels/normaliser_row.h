// The normalisers on one row in double, as their papers write them: for the reference kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "fovea/base/philox.h"
#include "fovea/kernels/normalise.h"

namespace fovea::normaliser_detail {

inline double gumbel_noise(const NormaliserOptions& o, const int32_t* rng, uint64_t element) {
  const uint64_t group = element / 4;
  const Philox4 block =
      philox4x32({static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32),
                  static_cast<uint32_t>(o.stream), static_cast<uint32_t>(o.stream >> 32)},
                 static_cast<uint32_t>(rng[0]), static_cast<uint32_t>(rng[1]));
  return -std::log(-std::log((static_cast<double>(block[element % 4] >> 9) + 0.5) * 0x1p-23));
}

// exp((s - max) factor) / sum, of the scores s with s > -infinity among the first n.
inline void softmax_row(const double* s, int64_t n, double factor, double* p) {
  const double top = *std::max_element(s, s + n);
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += p[j] = std::exp((s[j] - top) * factor);
  for (int64_t j = 0; j < n; ++j) p[j] /= sum;
}

// Martins and Astudillo 2016, algorithm 1. order: of the `seen` scores above -infinity, the largest
// first.
inline void sparsemax_row(const double* s, int64_t n, const int32_t* order, int64_t seen,
                          double* p) {
  const double top = s[order[0]];
  double sum = 0, tau = 0;
  for (int64_t k = 0; k < seen; ++k) {
    const double z = s[order[k]] - top;
    if (1 + static_cast<double>(k + 1) * z <= sum + z) break;
    sum += z;
    tau = (sum - 1) / static_cast<double>(k + 1);
  }
  for (int64_t j = 0; j < n; ++j) p[j] = std::max(0.0, s[j] - top - tau);
}

// Peters, Niculae, Martins 2019, algorithm 2, with the same order.
inline void entmax15_row(const double* s, int64_t n, const int32_t* order, int64_t seen,
                         double* p) {
  const double top = s[order[0]];
  double sum = 0, squares = 0, tau = 0;
  for (int64_t k = 0; k < seen; ++k) {
    const double z = (s[order[k]] - top) / 2, count = static_cast<double>(k + 1);
    if (!(z > -1)) break;
    sum += z;
    squares += z * z;
    const double mean = sum / count, spread = squares - sum * mean;
    if (spread > 1) break;
    const double t = mean - std::sqrt((1 - spread) / count);
    if (t > z) break;
    tau = t;
  }
  for (int64_t j = 0; j < n; ++j) {
    const double r = std::max(0.0, (s[j] - top) / 2 - tau);
    p[j] = r * r;
  }
}

// p from scores s that have their noise already. soft: where backward is that of a softmax, its
// weights. order: room for n numbers.
inline void normalise_row(const NormaliserOptions& o, const double* s, int64_t n, bool soft,
                          int32_t* order, double* p) {
  std::fill_n(p, n, 0.0);
  int32_t seen = 0;
  bool broken = false;
  for (int64_t j = 0; j < n; ++j) {
    broken = broken || !(s[j] < INFINITY);
    if (s[j] != -INFINITY) order[seen++] = static_cast<int32_t>(j);
  }
  if (broken) return static_cast<void>(std::fill_n(p, n, NAN));
  if (seen == 0) return;
  const auto first = [s](int32_t a, int32_t b) { return s[a] != s[b] ? s[a] > s[b] : a < b; };
  switch (o.kind) {
    case Normaliser::softmax:
    case Normaliser::gumbel:
      return softmax_row(s, n, 1 / o.softmax_temperature, p);
    case Normaliser::hard:
    case Normaliser::gumbel_hard:
      if (soft) return softmax_row(s, n, 1 / o.softmax_temperature, p);
      p[*std::min_element(order, order + seen, first)] = 1;
      return;
    case Normaliser::top_k: {
      const auto kept = static_cast<int32_t>(std::min<int64_t>(o.top_k, seen));
      std::nth_element(order, order + kept - 1, order + seen, first);
      double top = -INFINITY, sum = 0;
      for (int32_t k = 0; k < kept; ++k) top = std::max(top, s[order[k]]);
      for (int32_t k = 0; k < kept; ++k) sum += p[order[k]] = std::exp(s[order[k]] - top);
      for (int32_t k = 0; k < kept; ++k) p[order[k]] /= sum;
      return;
    }
    case Normaliser::sparsemax:
      std::sort(order, order + seen, first);
      return sparsemax_row(s, n, order, seen, p);
    case Normaliser::entmax15:
      std::sort(order, order + seen, first);
      return entmax15_row(s, n, order, seen, p);
  }
}

// ds, from the weights that normalise_row(.., soft = true) gives and the gradient dp of p. ds may
// lie where dp lies.
inline void normalise_grad_row(const NormaliserOptions& o, const double* p, const double* dp,
                               int64_t n, double* ds) {
  const auto slope = [&](int64_t j) {
    if (o.kind == Normaliser::sparsemax) return p[j] > 0 ? 1.0 : 0.0 * p[j];
    return o.kind == Normaliser::entmax15 ? std::sqrt(p[j]) : p[j];
  };
  double sum = 0, dot = 0;
  for (int64_t j = 0; j < n; ++j) {
    const double r = slope(j);
    if (r == 0) continue;
    sum += r;
    dot += r * dp[j];
  }
  // Weights of a softmax add up to 1, that of a sink beside them included.
  const bool whole = o.kind != Normaliser::sparsemax && o.kind != Normaliser::entmax15;
  const double mean = whole ? dot : sum == 0 ? 0 : dot / sum;
  for (int64_t j = 0; j < n; ++j) {
    const double r = slope(j);
    ds[j] = r == 0 ? 0 : r * (dp[j] - mean) / o.softmax_temperature;
  }
}

}  // namespace fovea::normaliser_detail
