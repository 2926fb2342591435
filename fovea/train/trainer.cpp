#include "fovea/train/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>

#include "fovea/base/philox.h"
#include "fovea/data/loader.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/folder_lock.h"
#include "fovea/infer/evaluator.h"
#include "fovea/runtime/compile.h"
#include "fovea/tasks/levels.h"
#include "fovea/train/checkpoint.h"
#include "fovea/train/event_recorder.h"
#include "fovea/train/metrics_file.h"
#include "fovea/train/run_folder.h"
#include "fovea/train/run_weights.h"
#include "fovea/train/schedule.h"
#include "fovea/train/step_graph.h"

namespace fovea {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int64_t kEvaluationBatch = 200;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Trainer {
 public:
  Trainer(TrainJob job, const TrainRequest& request) : request_(request) {
    check_train_options(job.options);
    check_augment(job.augment);
    check_record_options(job.record);
    check_data(job);
    if (job.train.input(kImageInput) == nullptr && changes_images(job.augment))
      throw Error(ErrorCode::invalid_argument,
                  "[augment] shift, flip and erase change images; the data are tables or sequences "
                  "of numbers (leave the section out)");
    options_ = job.options;
    augment_ = job.augment;
    record_ = job.record;
    settings_ = std::move(job.settings);
    levels_ = std::move(job.levels);
    train_data_ = std::move(job.train);
    validation_data_ = std::move(job.validation);
    test_data_ = std::move(job.test);
    task_ = std::move(job.task);
    for (const Metric& m : task_.metrics) summed_outputs_.insert({m.sum, m.count});
    if (settings_.empty()) settings_ = written_settings();
    state_.recipe = job.recipe.empty() ? written_recipe() : std::move(job.recipe);
    evaluation_graph_ = task_kind(task_.name).evaluation(task_.infer);
    if (!request_.pool) request_.pool = std::make_shared<ThreadPool>();
    // Read before anything is written: it may stand in the folder that is written over.
    if (!request_.init.empty()) init_ = load_bundle(request_.init);
  }

  TrainResult run() {
    lock_ = open_run_folder(request_);
    try {
      make_sessions();
      if (!begin()) {
        result_.interrupted = true;
        result_.saved = false;
        return result_;
      }
    } catch (const Error& e) {
      if (e.code() != ErrorCode::out_of_memory) throw;
      throw Error(e.code(), e.what() + what_needs_less());
    }
    start_observers();
    try {
      const auto start = Clock::now();
      bool interrupted = false;
      while (!state_.finished && !interrupted) interrupted = !run_epoch();
      result_.seconds = seconds_since(start);
      if (!interrupted) interrupted = !finish();
      result_.interrupted = interrupted;
    } catch (const std::exception& e) {
      const std::string error = e.what();
      tell([&](TrainObserver& o) { o.failed(error); });
      throw;
    }
    tell([&](TrainObserver& o) { o.ended(result_); });
    return result_;
  }

 private:
  // Data from code: what a reader of files would have refused.
  static void check_data(const TrainJob& job) {
    if (job.train.size() == 0)
      throw Error(
          ErrorCode::invalid_argument,
          "[train] expected examples to train on, got none (put them into TrainJob::train)");
    for (const Dataset* data : {&job.train, &job.validation, &job.test}) {
      if (data->size() == 0) continue;
      check_dataset(*data);
      check_inputs(job.task.infer, *data, "[train] " + data->source);
      if (data->class_names != job.train.class_names)
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("[train] {}: expected the classes of the training data in their "
                                "order, got others (give all splits the same class_names)",
                                data->source));
    }
  }

  // What a recipe can say of a job that code has put together.
  std::string written_recipe() const {
    std::string text = "[task]\nkind = \"" + task_.name + "\"\n[data]\nkind = \"memory\"\n";
    text += recipe_section("[train]", options_) + recipe_section("[augment]", augment_);
    text += recipe_section("[record]", record_) + levels_text(levels_);
    return RecipeTable::parse(text, "the recipe of a job in code").to_text();
  }

  // What resolved() gives for the recipe of such a job.
  std::map<std::string, std::string> written_settings() {
    RecipeTable table = RecipeTable::parse("", "");
    table.bind("train", options_);
    table.bind("augment", augment_);
    table.bind("record", record_);
    return table.resolved();
  }

  fs::path checkpoint_path() const { return request_.out / kCheckpointFile; }

  void make_sessions() {
    variables_ = std::make_shared<VariableStore>();
    const auto seed = static_cast<uint64_t>(options_.seed);
    const auto session = [&](StepPart part, const LevelOptions* level) {
      return std::make_unique<Session>(
          make_step(task_, options_, {.part = part, .level = level}).after, variables_,
          request_.pool, SessionOptions{.seed = seed, .arena = arena_});
    };
    const auto add_step = [&](const LevelOptions* level) {
      LevelStep step;
      if (options_.accumulate == 1) {
        step.apply = session(StepPart::whole, level);
      } else {
        step.accumulate = session(StepPart::accumulate, level);
        step.apply = session(StepPart::apply, level);
      }
      steps_.push_back(std::move(step));
    };
    add_step(nullptr);
    for (const LevelOptions& level : levels_)
      if (level.share > 0) {
        add_step(&level);
        steps_.back().share = level.share;
      }
    evaluation_variables_ = std::make_shared<VariableStore>();
    evaluator_ = evaluator_at(nullptr);
    for (auto& [name, v] : variables_->all())
      if (v.kind == VariableKind::weight)
        result_.parameters += static_cast<int64_t>(v.data.size() / dtype_size(v.dtype));
  }

  // From a bundle, from a checkpoint, or from the initial weights. False when it was interrupted
  // before the first save: the folder is as it was.
  bool begin() {
    const bool going_on = request_.resume && fs::exists(checkpoint_path());
    if (init_ && !going_on) take_initial_weights();
    // What does not fit into memory must fail before anything is thrown away or saved.
    const int64_t micro = options_.batch / options_.accumulate;
    for (const LevelStep& step : steps_)
      for (auto* session : {step.accumulate.get(), step.apply.get()})
        if (session) session->prepare({{"B", std::min(micro, train_data_.size())}});
    if (going_on) {
      if (checkpoint_recipe(checkpoint_path()) != state_.recipe)
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("[train] the run in {} began with another recipe; go on with the same "
                        "recipe, --set and --seed, or choose another --out",
                        request_.out.string()));
      state_ = load_checkpoint(checkpoint_path(), *variables_);
    } else {
      // What is overwritten goes piece by piece, each when its successor is whole: the checkpoint
      // here, the bundle at the end.
      if (stop_asked()) return false;
      save();
    }
    LoaderOptions loader;
    loader.batch = options_.batch;
    loader.seed = static_cast<uint64_t>(options_.seed);
    loader.drop_last = train_data_.size() >= options_.batch;
    loader.augment = augment_;
    loader_ = std::make_unique<BatchLoader>(train_data_, loader);
    if (state_.batch > loader_->batches())
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[train] {}: expected a batch of 0 to {}, as the data have, got {}; "
                              "they are fewer than when the run began (bring them back, or begin "
                              "anew with --overwrite)",
                              checkpoint_path().string(), loader_->batches(), state_.batch));
    total_steps_ = options_.epochs * loader_->batches();
    steps_here_ = state_.step;
    started_ = Clock::now();
    return true;
  }

  void take_initial_weights() {
    result_.initialised = take_weights(*init_, *variables_);
    if (result_.initialised == 0)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[train] --init {}: no weight there has a name and shape of this "
                              "model (take a bundle of the same [model], or leave out --init)",
                              request_.init.string()));
  }

  std::string what_needs_less() const {
    return fmt::format(
        ". In the recipe: a smaller train.batch (now {}), a larger train.accumulate (now {}), "
        "train.memory_mb (activations are computed again), train.precision = \"bf16\", or a "
        "smaller "
        "[model]",
        options_.batch, options_.accumulate);
  }

  void start_observers() {
    observers_ = request_.observers;
    if (record_.tensorboard) {
      events_ = std::make_unique<EventRecorder>(record_);
      observers_.push_back(events_.get());
    }
    const TrainStart start{.out = request_.out,
                           .recipe = state_.recipe,
                           .settings = settings_,
                           .options = options_,
                           .task = task_,
                           .examples = validation_data_.size() > 0 ? validation_data_ : train_data_,
                           .pool = request_.pool,
                           .parameters = result_.parameters,
                           .total_steps = total_steps_,
                           .resumed = request_.resume,
                           .step = state_.step,
                           .finished = state_.finished};
    tell([&](TrainObserver& o) { o.started(start); });
    started_ = Clock::now();
  }

  // What watches must not stop what it watches: an observer that throws is dropped with a warning.
  template <class Call>
  void tell(Call&& call) {
    std::erase_if(observers_, [&](TrainObserver* observer) {
      try {
        call(*observer);
        return false;
      } catch (const std::exception& e) {
        if (request_.warn)
          request_.warn(fmt::format("{} could not be written; the training goes on without: {}",
                                    observer->what(), e.what()));
        return true;
      }
    });
  }

  void save() { save_checkpoint(checkpoint_path(), *variables_, state_); }

  bool stop_asked() const { return request_.stop && request_.stop->load(); }

  // False when it was interrupted; the state is saved then.
  bool run_epoch() {
    loader_->start(state_.epoch, state_.batch);
    Batch batch;
    while (loader_->next(batch)) {
      run_step(batch);
      ++state_.batch;
      ++state_.step;
      report(false, {});
      tell_step(batch.size);
      if (stop_asked()) {
        save();
        return false;
      }
      const bool last = state_.batch == loader_->batches();
      if (state_.step % options_.checkpoint_every == 0 && !last) save();
    }
    return finish_epoch();
  }

  void run_step(const Batch& batch) {
    for (auto& [name, sum] : step_sums_) sum = 0;
    for_each_micro_batch(batch, [&](Execution& e, bool last) {
      e.run();
      if (!std::isfinite(e.output_f32(kObjectiveSum)[0]) ||
          (last && !std::isfinite(e.output_f32(kGradientNorm)[0])))
        fail_as_not_finite(batch);
      for (const std::string& name : summed_outputs_) {
        const auto value = static_cast<double>(e.output_f32(name)[0]);
        state_.sums[name] += value;
        step_sums_[name] += value;
      }
      if (last) gradient_norm_ = static_cast<double>(e.output_f32(kGradientNorm)[0]);
    });
  }

  // The metrics of what was summed; 0 where nothing was counted.
  std::map<std::string, double> metrics_of(const std::map<std::string, double>& sums) const {
    std::map<std::string, double> metrics;
    for (const Metric& m : task_.metrics) {
      const auto sum = sums.find(m.sum), count = sums.find(m.count);
      const bool known = sum != sums.end() && count != sums.end() && count->second != 0;
      metrics[m.name] = known ? sum->second / count->second : 0.0;
    }
    return metrics;
  }

  void tell_step(int64_t examples) {
    if (observers_.empty()) return;
    const std::map<std::string, double> metrics = metrics_of(step_sums_);
    const TrainStep step{.step = state_.step,
                         .epoch = state_.epoch + 1,
                         .examples = examples,
                         .learning_rate = learning_rate(options_, state_.step - 1, total_steps_),
                         .gradient_norm = gradient_norm_,
                         .metrics = metrics};
    tell([&](TrainObserver& o) { o.stepped(step); });
  }

  // Each step is made at one level, drawn by their shares from (seed, step).
  size_t level_of_step() const {
    double unit = PhiloxStream(static_cast<uint64_t>(options_.seed), stream_id("train.level"),
                               static_cast<uint64_t>(state_.step))
                      .unit();
    for (size_t i = 1; i < steps_.size(); ++i) {
      unit -= steps_[i].share;
      if (unit < 0) return i;
    }
    return 0;
  }

  // Calls body(execution, whether it is the last) with the inputs written.
  template <class F>
  void for_each_micro_batch(const Batch& batch, F&& body) {
    const int64_t micro = options_.batch / options_.accumulate;
    const LevelStep& step = steps_[level_of_step()];
    for (int64_t first = 0; first < batch.size; first += micro) {
      const int64_t count = std::min(micro, batch.size - first);
      const bool last = first + micro >= batch.size;
      Execution& e = (last ? step.apply : step.accumulate)->prepare({{"B", count}});
      const auto at = static_cast<size_t>(first), rows = static_cast<size_t>(count);
      std::vector<InputBytes> inputs;
      for (size_t k = 0; k < batch.inputs.size(); ++k) {
        const DataInput& input = train_data_.inputs[k];
        const size_t size = input.sample_bytes();
        inputs.push_back({input.name, std::span(batch.inputs[k]).subspan(at * size, rows * size)});
      }
      feed_batch(e, inputs, std::span(batch.labels).subspan(at, rows), count);
      write_inputs(e, first, last);
      body(e, last);
    }
  }

  void write_inputs(Execution& e, int64_t first, bool last) {
    if (e.has_input(kRngInput)) {
      const int32_t rng[3] = {static_cast<int32_t>(options_.seed),
                              static_cast<int32_t>(state_.step), static_cast<int32_t>(first)};
      std::memcpy(e.input(kRngInput).data(), rng, sizeof rng);
    }
    if (last) {
      const auto rate = static_cast<float>(learning_rate(options_, state_.step, total_steps_));
      std::memcpy(e.input(kRateInput).data(), &rate, sizeof rate);
    }
  }

  // A step whose gradients are not finite leaves the weights as they were, so it is run again, from
  // clean sums, to find the node.
  [[noreturn]] void fail_as_not_finite(const Batch& batch) {
    for (auto& [name, v] : variables_->all())
      if (name.starts_with(kAccumulatedPrefix))
        std::memset(variables_->get(name).data.data(), 0, v.data.size());
    std::string node;
    for_each_micro_batch(batch, [&](Execution& e, bool) {
      if (node.empty()) node = e.run_looking_for_non_finite();
    });
    throw Error(
        ErrorCode::non_finite,
        fmt::format("[train] step {}: the loss or its gradient is not finite; the first node that "
                    "made it so is {}. A lower learning_rate or a smaller clip helps most; the "
                    "last good checkpoint is {}",
                    state_.step + 1, node.empty() ? "not found again" : "'" + node + "'",
                    checkpoint_path().string()));
  }

  // False when it was interrupted while it measured: the epoch is then finished when the run goes
  // on.
  bool finish_epoch() {
    std::map<std::string, HostTensorPtr> weights = current_weights(*variables_);
    std::map<std::string, double> validation;
    try {
      if (validation_data_.size() > 0) validation = evaluate(weights, validation_data_);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::interrupted) throw;
      save();
      return false;
    }
    report(true, validation);
    tell_epoch(validation, weights);
    const Metric& first = task_.metrics.at(0);
    const double value = validation.empty() ? 0 : validation.at(first.name);
    const bool better = validation.empty() || state_.best_epoch < 0 ||
                        (first.higher_is_better ? value > state_.best : value < state_.best);
    if (better) {
      state_.best = value;
      state_.best_epoch = state_.epoch;
      state_.validation = validation;
      state_.epochs_without_gain = 0;
      state_.best_weights = std::move(weights);
    } else {
      ++state_.epochs_without_gain;
    }
    state_.sums.clear();
    state_.batch = 0;
    ++state_.epoch;
    state_.finished = state_.epoch >= options_.epochs ||
                      (options_.patience > 0 && state_.epochs_without_gain >= options_.patience);
    save();
    return state_.finished || !stop_asked();
  }

  void tell_epoch(const std::map<std::string, double>& validation,
                  const std::map<std::string, HostTensorPtr>& weights) {
    const std::map<std::string, double> training = metrics_of(state_.sums);
    const TrainEpoch epoch{.epoch = state_.epoch + 1,
                           .step = state_.step,
                           .training = training,
                           .validation = validation,
                           .weights = weights};
    tell([&](TrainObserver& o) { o.epoch_ended(epoch); });
  }

  std::unique_ptr<Evaluator> evaluator_at(const LevelOptions* options) {
    PassContext context;
    Level level;
    if (options) {
      level = make_level(*options, evaluation_graph_);
      context.level = &level;
    }
    return std::make_unique<Evaluator>(compile(evaluation_graph_, context), task_.metrics,
                                       evaluation_variables_, request_.pool);
  }

  std::map<std::string, double> evaluate(const std::map<std::string, HostTensorPtr>& weights,
                                         const Dataset& data) {
    set_weights(weights);
    return evaluator_->run(data, kEvaluationBatch, request_.stop).metrics;
  }
  void set_weights(const std::map<std::string, HostTensorPtr>& weights) {
    for (auto& [name, t] : weights)
      if (evaluation_variables_->has(name))
        evaluation_variables_->set(name, t->dtype, t->shape, t->bytes);
  }

  void report(bool epoch_done, const std::map<std::string, double>& validation) {
    if (!request_.progress) return;
    TrainProgress p;
    p.epoch = state_.epoch + 1;
    p.epochs = options_.epochs;
    p.step = state_.batch;
    p.steps = loader_->batches();
    p.total_step = state_.step;
    p.total_steps = total_steps_;
    const std::map<std::string, double> means = metrics_of(state_.sums);
    if (const auto loss = means.find("loss"); loss != means.end()) p.loss = loss->second;
    p.accuracy = means.at(task_.metrics.front().name);
    const double seconds = seconds_since(started_);
    const auto made = static_cast<double>(state_.step - steps_here_);
    if (seconds > 0 && made > 0) {
      p.examples_per_second = made * static_cast<double>(options_.batch) / seconds;
      p.seconds_left = static_cast<double>(total_steps_ - state_.step) * seconds / made;
    }
    p.epoch_done = epoch_done;
    p.validation = validation;
    request_.progress(p);
  }

  // False when it was interrupted; the checkpoint is that of a finished run then.
  bool finish() {
    try {
      measure();
    } catch (const Error& e) {
      if (e.code() != ErrorCode::interrupted) throw;
      return false;
    }
    Bundle bundle;
    bundle.graph = task_.infer;
    bundle.weights = state_.best_weights;
    bundle.recipe = state_.recipe;
    bundle.labels = train_data_.class_names;
    bundle.metrics_json = metrics_json(task_.name, options_, result_);
    save_bundle(request_.out, bundle);
    return true;
  }

  void measure() {
    result_.epochs = state_.epoch;
    result_.best_epoch = state_.best_epoch + 1;
    result_.stopped_early = state_.epoch < options_.epochs;
    result_.validation = state_.validation;
    if (test_data_.size() > 0) {
      result_.test = evaluate(state_.best_weights, test_data_);
      for (const LevelOptions& level : levels_)
        result_.levels[level.name] =
            evaluator_at(&level)->run(test_data_, kEvaluationBatch, request_.stop).metrics;
    }
  }

  TrainRequest request_;
  FolderLock lock_;  // of request_.out
  TrainOptions options_;
  AugmentOptions augment_;
  Task task_;
  Graph evaluation_graph_;
  std::optional<Bundle> init_;
  Dataset train_data_, validation_data_, test_data_;
  std::shared_ptr<VariableStore> variables_, evaluation_variables_;
  // The sessions of a step at one level; the first is the model as it stands.
  struct LevelStep {
    double share = 0;
    std::unique_ptr<Session> accumulate, apply;  // accumulate only where micro-batches add up
  };
  std::vector<LevelOptions> levels_;
  std::vector<LevelStep> steps_;
  std::shared_ptr<Arena> arena_ = std::make_shared<Arena>();  // of all steps
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<BatchLoader> loader_;
  RunState state_;
  TrainResult result_;
  RecordOptions record_;
  std::map<std::string, std::string> settings_;  // of the recipe
  std::vector<TrainObserver*> observers_;        // without those that failed
  std::unique_ptr<EventRecorder> events_;
  std::map<std::string, double> step_sums_;  // as state_.sums, of one step
  double gradient_norm_ = 0;
  std::set<std::string> summed_outputs_;  // of the metrics; several may share one
  int64_t total_steps_ = 0;
  int64_t steps_here_ = 0;  // steps made before this process began
  Clock::time_point started_;
};

}  // namespace

TrainResult train(TrainJob job, const TrainRequest& request) {
  return Trainer(std::move(job), request).run();
}

TrainResult train(RecipeTable& recipe, const TrainRequest& request) {
  return train(read_job(recipe), request);
}

}  // namespace fovea
