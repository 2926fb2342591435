#include "fovea/explain/faithfulness.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "fovea/base/error.h"
#include "fovea/data/permutation.h"
#include "fovea/explain/prober.h"
#include "fovea/infer/evaluator.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

constexpr int64_t kExplained = 64;  // examples that are explained at a time
constexpr size_t kRankings = 3;

using Order = std::vector<int64_t>;  // tokens, first to go first
using Curve = std::vector<double>;   // of one example

// The highest first, or the lowest; equals as the random order has them.
Order ranked(const std::vector<double>& shares, const Order& random, bool highest) {
  Order order = random;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double x = shares[static_cast<size_t>(a)], y = shares[static_cast<size_t>(b)];
    return highest ? x > y : x < y;
  });
  return order;
}

struct ByteRange {
  size_t first = 0, count = 0;
};

// Where a token lies in the bytes of a sample.
std::vector<ByteRange> bytes_of(int64_t token, const TokenGrid& grid, const DataInput& input) {
  const auto range = [](int64_t first, int64_t count) {
    return ByteRange{static_cast<size_t>(first), static_cast<size_t>(count)};
  };
  if (grid.kind == TokenKind::column) return {range(token * 4, 4)};  // of f32
  if (grid.kind == TokenKind::steps) {
    const int64_t step = input.shape[1] * 4, first = token * grid.steps;
    return {range(first * step, (std::min(first + grid.steps, input.shape[0]) - first) * step)};
  }
  const int64_t height = input.shape[0], width = input.shape[1], channels = input.shape[2];
  const TokenGrid::Box box = grid.box(token, height, width);
  std::vector<ByteRange> ranges;
  for (int64_t y = box.top; y < box.bottom; ++y)
    ranges.push_back(range((y * width + box.left) * channels, (box.right - box.left) * channels));
  return ranges;
}

double area_of(const Curve& curve) {
  double sum = -(curve.front() + curve.back()) / 2;
  for (const double p : curve) sum += p;
  return sum / static_cast<double>(curve.size() - 1);
}

Estimate estimate(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() < 2 ? 0 : std::sqrt(squares / (n - 1) / n)};
}

// Curves of all examples as one.
RemovalCurve summary(const std::vector<Curve>& curves) {
  RemovalCurve result;
  std::vector<double> values(curves.size());
  for (size_t k = 0; k < curves[0].size(); ++k) {
    for (size_t i = 0; i < curves.size(); ++i) values[i] = curves[i][k];
    result.probability.push_back(estimate(values));
  }
  for (size_t i = 0; i < curves.size(); ++i) values[i] = area_of(curves[i]);
  result.area = estimate(values);
  return result;
}

// The mean of area(a) - area(b) over examples.
Estimate difference(const std::vector<Curve>& a, const std::vector<Curve>& b) {
  std::vector<double> values;
  for (size_t i = 0; i < a.size(); ++i) values.push_back(area_of(a[i]) - area_of(b[i]));
  return estimate(values);
}

void check(const Graph& model, const Dataset& dataset, std::span<const uint8_t> removed,
           const FaithfulnessOptions& o) {
  const auto fail = [](const std::string& what) {
    throw Error{ErrorCode::invalid_argument, "[faithfulness] " + what};
  };
  check_inputs(
      model, dataset,
      fmt::format("[faithfulness] {}{}",
                  dataset.input(kImageInput) != nullptr ? "an image of " : "", dataset.source));
  if (dataset.size() == 0)
    fail(fmt::format("{}: there are no examples (take another split)", dataset.source));
  const size_t size = removable_input(dataset).sample_bytes();
  if (removed.size() != size)
    fail(fmt::format("expected what replaces tokens to be a sample of {} bytes, got {}", size,
                     removed.size()));
  if (o.random_orders < 1 || o.most_steps < 1 || o.batch < 1)
    fail("expected at least one random order, one step and one example at a time");
}

// The curves of all examples, and how they are made.
class Measurement {
 public:
  Measurement(Session& model, const Dataset& dataset, std::span<const uint8_t> removed,
              const TokenGrid& grid, const FaithfulnessOptions& options)
      : dataset_(dataset),
        removed_(removed),
        grid_(grid),
        options_(options),
        prober_(model, dataset, options.batch),
        steps_(std::min(options.most_steps, grid.tokens())),
        empty_(static_cast<size_t>(steps_) + 1) {
    // Room for all, so that the prober's pointers stay.
    random_.assign(samples() * static_cast<size_t>(options.random_orders), empty_);
    for (auto* curves : {&highest_, &lowest_})
      for (auto& of_ranking : *curves) of_ranking.assign(samples(), empty_);
    for (int64_t token = 0; token < grid.tokens(); ++token)
      bytes_.push_back(bytes_of(token, grid, removable_input(dataset)));
  }

  void add(int64_t sample, const Explanation& e) {
    const auto i = static_cast<size_t>(sample);
    const auto orders = static_cast<size_t>(options_.random_orders);
    const auto there = static_cast<int64_t>(e.rollout.size());
    Order random;
    for (size_t r = 0; r < orders; ++r) {
      philox_permutation(there, options_.seed, "explain.faithfulness", i * orders + r, random);
      remove(sample, random, e.predicted, random_[i * orders + r]);
    }
    const std::vector<double>* shares[kRankings] = {&e.rollout, &e.gradient_rollout, &e.last_layer};
    for (size_t k = 0; k < kRankings; ++k) {
      remove(sample, ranked(*shares[k], random, true), e.predicted, highest_[k][i]);
      remove(sample, ranked(*shares[k], random, false), e.predicted, lowest_[k][i]);
    }
  }

  Faithfulness result() {
    prober_.flush();
    Faithfulness f{dataset_.size(), grid_.tokens(), steps_, options_.random_orders, {}, {}};
    const std::vector<Curve> random = mean_over_orders();
    f.random = summary(random);
    for (size_t k = 0; k < kRankings; ++k)
      f.rankings.push_back({static_cast<Ranking>(k), summary(highest_[k]), summary(lowest_[k]),
                            difference(random, highest_[k]), difference(lowest_[k], random)});
    return f;
  }

 private:
  size_t samples() const { return static_cast<size_t>(dataset_.size()); }

  // Fills the curve of one order of the tokens that are there.
  void remove(int64_t sample, const Order& order, int32_t of, Curve& curve) {
    const auto whole = removable_input(dataset_).sample(sample);
    std::vector<uint8_t> left(whole.begin(), whole.end());
    const auto there = static_cast<int64_t>(order.size());
    size_t gone = 0;
    for (int64_t k = 0; k <= steps_; ++k) {
      const auto until = static_cast<size_t>(k * there / steps_);
      for (; gone < until; ++gone)
        for (const ByteRange& range : bytes_[static_cast<size_t>(order[gone])])
          std::memcpy(left.data() + range.first, removed_.data() + range.first, range.count);
      prober_.push(sample, left, of, &curve[static_cast<size_t>(k)]);
    }
  }

  std::vector<Curve> mean_over_orders() const {
    const auto orders = static_cast<size_t>(options_.random_orders);
    std::vector<Curve> means;
    for (size_t first = 0; first < random_.size(); first += orders) {
      Curve mean = empty_;
      for (size_t r = 0; r < orders; ++r)
        for (size_t k = 0; k < mean.size(); ++k)
          mean[k] += random_[first + r][k] / static_cast<double>(orders);
      means.push_back(std::move(mean));
    }
    return means;
  }

  const Dataset& dataset_;
  std::span<const uint8_t> removed_;
  TokenGrid grid_;
  const FaithfulnessOptions& options_;
  Prober prober_;
  int64_t steps_;
  Curve empty_;
  std::vector<std::vector<ByteRange>> bytes_;                   // by token
  std::vector<Curve> random_;                                   // [sample * orders + order]
  std::array<std::vector<Curve>, kRankings> highest_, lowest_;  // [ranking][sample]
};

}  // namespace

std::vector<uint8_t> mean_image(const ImageDataset& dataset) {
  const auto size = static_cast<size_t>(dataset.image_size());
  std::vector<int64_t> sums(size);
  for (size_t i = 0; i < dataset.images.size(); ++i) sums[i % size] += dataset.images[i];
  std::vector<uint8_t> mean;
  const int64_t n = std::max<int64_t>(dataset.size(), 1);
  for (const int64_t sum : sums) mean.push_back(static_cast<uint8_t>((sum + n / 2) / n));
  return mean;
}

std::vector<uint8_t> mean_series(const std::vector<double>& mean, int64_t steps) {
  std::vector<uint8_t> bytes;
  for (int64_t t = 0; t < steps; ++t)
    for (const double m : mean) {
      const auto v = static_cast<float>(m);
      const auto* first = reinterpret_cast<const uint8_t*>(&v);
      bytes.insert(bytes.end(), first, first + sizeof v);
    }
  return bytes;
}

Faithfulness measure_faithfulness(Session& model, Explainer& explainer, const Dataset& dataset,
                                  std::span<const uint8_t> removed,
                                  const FaithfulnessOptions& options) {
  check(model.graph(), dataset, removed, options);
  Measurement measurement(model, dataset, removed, explainer.grid(), options);
  for (int64_t first = 0; first < dataset.size(); first += kExplained) {
    const int64_t n = std::min(kExplained, dataset.size() - first);
    std::vector<int64_t> some(static_cast<size_t>(n));
    std::iota(some.begin(), some.end(), first);
    const std::vector<Explanation> explained = explainer.explain(select(dataset, some));
    for (int64_t i = 0; i < n; ++i) {
      measurement.add(first + i, explained[static_cast<size_t>(i)]);
      if (options.progress)
        options.progress(static_cast<double>(first + i + 1) / static_cast<double>(dataset.size()));
    }
  }
  return measurement.result();
}

}  // namespace fovea
