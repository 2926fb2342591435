#include "fovea/data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "fovea/base/error.h"
#include "fovea/data/permutation.h"

namespace fovea {
namespace {

constexpr int64_t kMaxPrefetch = 1024;
constexpr int kMaxThreads = 256;

void check_options(const LoaderOptions& options, const Dataset& dataset) {
  const auto refuse = [](const std::string& what) {
    throw Error{ErrorCode::invalid_argument, "[loader] " + what};
  };
  if (options.batch < 1) {
    refuse(fmt::format("expected a batch of at least 1 sample, got {}", options.batch));
  }
  if (options.prefetch < 1 || options.prefetch > kMaxPrefetch) {
    refuse(fmt::format("expected 1 to {} batches of prefetch, got {}", kMaxPrefetch,
                       options.prefetch));
  }
  if (options.threads < 0 || options.threads > kMaxThreads) {
    refuse(fmt::format("expected 0 to {} threads, got {}", kMaxThreads, options.threads));
  }
  if (options.drop_last && options.batch > dataset.size()) {
    refuse(fmt::format("with drop_last, expected a batch of at most the {} samples, got {}",
                       dataset.size(), options.batch));
  }
  if (dataset.size() == 0)
    refuse(fmt::format("{}: the data set is empty (take another split)", dataset.source));
  if (dataset.size() > int64_t{0xffffffff})
    refuse(fmt::format("expected less than 2^32 samples, got {}", dataset.size()));
}

}  // namespace

struct BatchLoader::State {
  // Batch b of the epoch lives in slot b % prefetch from its claim until next() takes it.
  struct Slot {
    Batch batch;
    bool ready = false;
    std::exception_ptr error;
  };

  State(const Dataset& d, const LoaderOptions& o) : dataset(d), options(o) {
    batches = options.drop_last ? dataset.size() / options.batch
                                : (dataset.size() - 1) / options.batch + 1;
    claimed = taken = batches;
    slots.resize(static_cast<size_t>(options.prefetch));
  }

  const Dataset& dataset;
  const LoaderOptions options;
  int64_t batches = 0;

  std::mutex mutex;
  std::condition_variable work;   // a batch may be claimed, or stop
  std::condition_variable ready;  // a slot became ready, or a thread idle
  std::vector<Slot> slots;
  std::vector<int64_t> order;  // of the epoch's samples; changes only while no thread is busy
  int64_t epoch = 0;
  int64_t claimed = 0;  // the next batch that a thread makes
  int64_t taken = 0;    // the next batch that next() gives
  int busy = 0;         // threads that make a batch
  bool stop = false;
  std::vector<std::thread> threads;

  Slot& slot(int64_t b) { return slots[static_cast<size_t>(b % options.prefetch)]; }

  void fill(Batch& batch, int64_t b) const {
    const int64_t first = b * options.batch;
    batch.size = std::min(options.batch, dataset.size() - first);
    const auto count = static_cast<size_t>(batch.size);
    // Room for a full batch at once: a buffer that begins with the short last one grows no more.
    const auto full = static_cast<size_t>(std::min(options.batch, dataset.size()));
    batch.labels.reserve(full);
    batch.ids.reserve(full);
    batch.labels.resize(count);
    batch.ids.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const int64_t id = order[static_cast<size_t>(first) + i];
      batch.labels[i] = dataset.labels[static_cast<size_t>(id)];
      batch.ids[i] = id;
    }
    batch.inputs.resize(dataset.inputs.size());
    for (size_t k = 0; k < dataset.inputs.size(); ++k) {
      const DataInput& input = dataset.inputs[k];
      const size_t bytes = input.sample_bytes();
      batch.inputs[k].reserve(full * bytes);
      batch.inputs[k].resize(count * bytes);
      for (size_t i = 0; i < count; ++i)
        fill_sample(input, batch.ids[i], std::span(batch.inputs[k]).subspan(i * bytes, bytes));
    }
  }

  void fill_sample(const DataInput& input, int64_t id, std::span<uint8_t> target) const {
    const std::span<const uint8_t> source = input.sample(id);
    if (input.name != kImageInput) {
      std::memcpy(target.data(), source.data(), source.size());
      return;
    }
    augment(source, target, {input.shape[0], input.shape[1], input.shape[2]}, options.augment,
            {options.seed, epoch, id});
  }

  void make_batches() {
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock,
                [&] { return stop || (claimed < batches && claimed < taken + options.prefetch); });
      if (stop) return;
      const int64_t b = claimed++;
      Slot& target = slot(b);
      ++busy;
      lock.unlock();
      std::exception_ptr error;
      try {
        fill(target.batch, b);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      --busy;
      target.error = error;
      target.ready = true;
      ready.notify_all();
    }
  }

  void end() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    work.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
};

BatchLoader::BatchLoader(const Dataset& dataset, const LoaderOptions& options) {
  check_augment(options.augment);
  check_options(options, dataset);
  check_dataset(dataset);
  state_ = std::make_unique<State>(dataset, options);
  try {
    for (int i = 0; i < options.threads; ++i) {
      state_->threads.emplace_back([state = state_.get()] { state->make_batches(); });
    }
  } catch (...) {  // the system gave some threads and no more
    state_->end();
    throw Error{ErrorCode::out_of_memory,
                fmt::format("[loader] cannot start {} threads (ask for fewer)", options.threads)};
  }
}

BatchLoader::~BatchLoader() { state_->end(); }

int64_t BatchLoader::batches() const { return state_->batches; }

void BatchLoader::start(int64_t epoch, int64_t first_batch) {
  State& s = *state_;
  if (epoch < 0 || first_batch < 0 || first_batch > s.batches) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[loader] expected a batch of 0 to {} of an epoch from 0, got batch {} "
                            "of epoch {}",
                            s.batches, first_batch, epoch)};
  }
  std::unique_lock lock(s.mutex);
  s.claimed = s.taken = s.batches;  // nobody begins another one
  s.ready.wait(lock, [&] { return s.busy == 0; });
  for (State::Slot& slot : s.slots) {
    slot.ready = false;
    slot.error = nullptr;
  }
  if (s.options.shuffle) {
    philox_permutation(s.dataset.size(), s.options.seed, "shuffle", static_cast<uint64_t>(epoch),
                       s.order);
  } else {
    s.order.resize(static_cast<size_t>(s.dataset.size()));
    std::iota(s.order.begin(), s.order.end(), int64_t{0});
  }
  s.epoch = epoch;
  s.claimed = s.taken = first_batch;
  lock.unlock();
  s.work.notify_all();
}

bool BatchLoader::next(Batch& batch) {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  if (s.taken == s.batches) return false;
  if (s.threads.empty()) {
    s.fill(batch, s.taken);
    ++s.taken;
    return true;
  }
  State::Slot& slot = s.slot(s.taken);
  s.ready.wait(lock, [&] { return slot.ready; });
  if (slot.error) std::rethrow_exception(slot.error);
  std::swap(batch, slot.batch);
  slot.ready = false;
  ++s.taken;
  lock.unlock();
  s.work.notify_one();
  return true;
}

}  // namespace fovea
