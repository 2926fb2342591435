#include "fovea/explain/faithfulness.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "fovea/base/error.h"
#include "fovea/data/permutation.h"
#include "fovea/infer/evaluator.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

constexpr int64_t kExplained = 64;  // images that are explained at a time
constexpr size_t kRankings = 3;

using Order = std::vector<int64_t>;  // tokens, first to go first
using Curve = std::vector<double>;   // of one image

// Runs images in full batches, whatever order they come in.
class Prober {
 public:
  Prober(Session& session, int64_t batch)
      : execution_(session.prepare({{"B", batch}})),
        batch_(static_cast<size_t>(batch)),
        classes_(static_cast<size_t>(execution_.output_type(kProbabilities).shape[1].constant())) {}

  // The probability of the class goes to *to, at the latest in flush().
  void push(std::span<const uint8_t> image, int32_t of, double* to) {
    std::memcpy(execution_.input(kImageInput).data() + wanted_.size() * image.size(), image.data(),
                image.size());
    wanted_.push_back({static_cast<size_t>(of), to});
    if (wanted_.size() == batch_) flush();
  }
  void flush() {
    if (wanted_.empty()) return;
    execution_.run();  // rows behind the last one hold older images, and nobody reads them
    const auto p = execution_.output_f32(kProbabilities);
    for (size_t i = 0; i < wanted_.size(); ++i)
      *wanted_[i].to = static_cast<double>(p[i * classes_ + wanted_[i].of]);
    wanted_.clear();
  }

 private:
  struct Wanted {
    size_t of = 0;
    double* to = nullptr;
  };
  Execution& execution_;
  size_t batch_, classes_;
  std::vector<Wanted> wanted_;
};

// The highest first, or the lowest; equals as the random order has them.
Order ranked(const std::vector<double>& shares, const Order& random, bool highest) {
  Order order = random;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double x = shares[static_cast<size_t>(a)], y = shares[static_cast<size_t>(b)];
    return highest ? x > y : x < y;
  });
  return order;
}

void copy_patch(std::span<const uint8_t> from, std::span<uint8_t> to, const TokenGrid::Box& box,
                const ImageDataset& shape) {
  const int64_t width = (box.right - box.left) * shape.channels;
  for (int64_t y = box.top; y < box.bottom; ++y) {
    const int64_t at = (y * shape.width + box.left) * shape.channels;
    std::copy_n(from.begin() + at, width, to.begin() + at);
  }
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

// Curves of all images as one.
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

// The mean of area(a) - area(b) over images.
Estimate difference(const std::vector<Curve>& a, const std::vector<Curve>& b) {
  std::vector<double> values;
  for (size_t i = 0; i < a.size(); ++i) values.push_back(area_of(a[i]) - area_of(b[i]));
  return estimate(values);
}

void check(const Graph& model, const ImageDataset& dataset, std::span<const uint8_t> removed,
           const FaithfulnessOptions& o) {
  const auto fail = [](const std::string& what) {
    throw Error{ErrorCode::invalid_argument, "[faithfulness] " + what};
  };
  check_image_input(model, dataset.height, dataset.width, dataset.channels,
                    fmt::format("[faithfulness] an image of {}", dataset.source));
  if (dataset.size() == 0)
    fail(fmt::format("{}: there are no images (take another split)", dataset.source));
  if (static_cast<int64_t>(removed.size()) != dataset.image_size())
    fail(fmt::format("expected what replaces patches to be an image of {} bytes, got {}",
                     dataset.image_size(), removed.size()));
  if (o.random_orders < 1 || o.most_steps < 1 || o.batch < 1)
    fail("expected at least one random order, one step and one image at a time");
}

// The curves of all images, and how they are made.
class Measurement {
 public:
  Measurement(Session& model, const ImageDataset& dataset, std::span<const uint8_t> removed,
              const TokenGrid& grid, const FaithfulnessOptions& options)
      : dataset_(dataset),
        removed_(removed),
        grid_(grid),
        options_(options),
        prober_(model, options.batch),
        steps_(std::min(options.most_steps, grid.tokens())) {
    // Room for all, so that the prober's pointers stay.
    const auto n = static_cast<size_t>(dataset.size());
    const Curve empty(static_cast<size_t>(steps_) + 1);
    random_.assign(n * static_cast<size_t>(options.random_orders), empty);
    for (auto* curves : {&highest_, &lowest_})
      for (auto& of_ranking : *curves) of_ranking.assign(n, empty);
  }

  void add(int64_t image, const Explanation& e) {
    const auto i = static_cast<size_t>(image), orders = static_cast<size_t>(options_.random_orders);
    Order random;
    for (size_t r = 0; r < orders; ++r) {
      philox_permutation(grid_.tokens(), options_.seed, "explain.faithfulness", i * orders + r,
                         random);
      remove(image, random, e.predicted, random_[i * orders + r]);
    }
    const std::vector<double>* shares[kRankings] = {&e.rollout, &e.gradient_rollout, &e.last_layer};
    for (size_t k = 0; k < kRankings; ++k) {
      remove(image, ranked(*shares[k], random, true), e.predicted, highest_[k][i]);
      remove(image, ranked(*shares[k], random, false), e.predicted, lowest_[k][i]);
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
  // Fills the curve of one order.
  void remove(int64_t image, const Order& order, int32_t of, Curve& curve) {
    const auto whole = dataset_.image(image);
    std::vector<uint8_t> pixels(whole.begin(), whole.end());
    size_t gone = 0;
    for (int64_t k = 0; k <= steps_; ++k) {
      const auto until = static_cast<size_t>(k * grid_.tokens() / steps_);
      for (; gone < until; ++gone)
        copy_patch(removed_, pixels, grid_.box(order[gone], dataset_.height, dataset_.width),
                   dataset_);
      prober_.push(pixels, of, &curve[static_cast<size_t>(k)]);
    }
  }

  std::vector<Curve> mean_over_orders() const {
    const auto orders = static_cast<size_t>(options_.random_orders);
    std::vector<Curve> means;
    for (size_t first = 0; first < random_.size(); first += orders) {
      Curve mean(static_cast<size_t>(steps_) + 1);
      for (size_t r = 0; r < orders; ++r)
        for (size_t k = 0; k < mean.size(); ++k)
          mean[k] += random_[first + r][k] / static_cast<double>(orders);
      means.push_back(std::move(mean));
    }
    return means;
  }

  const ImageDataset& dataset_;
  std::span<const uint8_t> removed_;
  TokenGrid grid_;
  const FaithfulnessOptions& options_;
  Prober prober_;
  int64_t steps_;
  std::vector<Curve> random_;                                   // [image * orders + order]
  std::array<std::vector<Curve>, kRankings> highest_, lowest_;  // [ranking][image]
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

Faithfulness measure_faithfulness(Session& model, Explainer& explainer, const ImageDataset& dataset,
                                  std::span<const uint8_t> removed,
                                  const FaithfulnessOptions& options) {
  check(model.graph(), dataset, removed, options);
  Measurement measurement(model, dataset, removed, explainer.grid(), options);
  const auto bytes = static_cast<size_t>(dataset.image_size());
  for (int64_t first = 0; first < dataset.size(); first += kExplained) {
    const int64_t n = std::min(kExplained, dataset.size() - first);
    const auto images =
        std::span(dataset.images)
            .subspan(static_cast<size_t>(first) * bytes, static_cast<size_t>(n) * bytes);
    const std::vector<Explanation> explained = explainer.explain(images);
    for (int64_t i = 0; i < n; ++i) {
      measurement.add(first + i, explained[static_cast<size_t>(i)]);
      if (options.progress)
        options.progress(static_cast<double>(first + i + 1) / static_cast<double>(dataset.size()));
    }
  }
  return measurement.result();
}

}  // namespace fovea
