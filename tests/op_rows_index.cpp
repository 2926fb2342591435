// Rows of tables, dropout and the losses.
#include <cmath>

#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

void add_tables(std::vector<OpRow>& rows) {
  struct Table {
    std::string label;
    int64_t rows, columns;
    Shape indices;
    Range range;
    bool gradient = true;
  };
  const Table all[] = {
      {"some", 7, 3, {5}, {0, 6, 1}},
      {"repeated", 3, 4, {2, 6}, {0, 2, 1}},
      {"outside_too", 4, 3, {20}, {-2, 5, 1}},
      {"scalar_index", 5, 2, {}, {0, 4, 1}},
      {"large", 1000, 65, {40, 50}, {0, 999, 1}, false},
  };
  for (const Table& t : all) {
    OpRow gather{
        .op = "gather",
        .label = t.label,
        .build = [t](Graph& g, DType dtype) -> std::vector<Value> {
          return {ops::gather(g, ops::input(g, "table", dtype, {t.rows, t.columns}),
                              ops::input(g, "indices", DType::i32, t.indices))};
        },
        .ranges = {{"indices", t.range}},
        .expected = [t](const NumbersByName& in) -> std::vector<Numbers> {
          Numbers y;
          for (double i : in.at("indices"))
            for (int64_t c = 0; c < t.columns; ++c)
              y.push_back(
                  i < 0 || i >= static_cast<double>(t.rows)
                      ? 0
                      : in.at(
                            "table")[static_cast<size_t>(static_cast<int64_t>(i) * t.columns + c)]);
          return {y};
        }};
    if (t.gradient) gather.differentiable = {"table"};
    rows.push_back(std::move(gather));

    Shape updates = t.indices;
    updates.emplace_back(t.columns);
    OpRow scatter{
        .op = "scatter_add",
        .label = t.label,
        .build = [t, updates](Graph& g, DType dtype) -> std::vector<Value> {
          return {ops::scatter_add(g, ops::input(g, "updates", dtype, updates),
                                   ops::input(g, "indices", DType::i32, t.indices), t.rows)};
        },
        .ranges = {{"indices", t.range}},
        .expected = [t](const NumbersByName& in) -> std::vector<Numbers> {
          Numbers y(static_cast<size_t>(t.rows * t.columns));
          const Numbers& indices = in.at("indices");
          for (size_t i = 0; i < indices.size(); ++i) {
            if (indices[i] < 0 || indices[i] >= static_cast<double>(t.rows)) continue;
            const auto columns = static_cast<size_t>(t.columns);
            for (size_t c = 0; c < columns; ++c)
              y[static_cast<size_t>(indices[i]) * columns + c] += in.at("updates")[i * columns + c];
          }
          return {y};
        }};
    if (t.gradient) scatter.differentiable = {"updates"};
    rows.push_back(std::move(scatter));
  }
}

OpRow dropout_row(std::string label, Shape shape, double rate, bool gradient = true) {
  OpRow row{.op = "dropout",
            .label = std::move(label),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              // rng: seed, step, first sample.
              return {ops::dropout(g, ops::input(g, "x", t, shape),
                                   ops::input(g, "rng", DType::i32, {3}), rate, "drop")};
            },
            .ranges = {{"rng", {0, 1000, 1}}}};
  if (gradient) row.differentiable = {"x"};
  return row;
}

void add_dropout(std::vector<OpRow>& rows) {
  rows.push_back(dropout_row("half", {3, 17}, 0.5));
  rows.push_back(dropout_row("tenth", {2, 5, 7}, 0.1));
  rows.push_back(dropout_row("large", {300, 401}, 0.25, false));
  OpRow none = dropout_row("nothing_dropped", {3, 5}, 0);
  none.expected = [](const NumbersByName& in) { return std::vector<Numbers>{in.at("x")}; };
  rows.push_back(std::move(none));
  // The mask belongs to the sample's place in the global batch: four samples from the second on are
  // the last four of five from the first on.
  rows.push_back(
      {.op = "dropout",
       .label = "pieces_of_a_batch_agree",
       .build = [](Graph& g, DType t) -> std::vector<Value> {
         const Value x = ops::input(g, "x", t, {5, 9});
         const auto dropped = [&](Value v, double first) {
           const Value rng = ops::constant(g, {42, 3, first}, DType::i32, {3});
           return g.add("dropout", {v, rng}, DropoutAttrs{0.4, "same_stream"});
         };
         const Value whole = dropped(x, 7);
         const Value last = dropped(ops::slice(g, x, 0, 1, 4), 8);
         return {ops::sub(g, ops::slice(g, whole, 0, 1, 4), last)};
       },
       .expected = [](const NumbersByName&) { return std::vector<Numbers>{Numbers(36, 0.0)}; }});
}

void add_cross_entropy(std::vector<OpRow>& rows) {
  struct Case {
    std::string label;
    Shape labels;
    int64_t classes;
    double smoothing;
    Range range;  // of the labels; negative ones are ignored
    Range logits = {-3, 3};
    bool gradient = true;
  };
  const Case all[] = {
      {"plain", {6}, 5, 0, {0, 4, 1}},
      {"smoothed", {6}, 5, 0.1, {0, 4, 1}},
      {"some_ignored", {3, 7}, 4, 0.2, {-3, 3, 1}},
      {"far_apart", {30}, 9, 0, {0, 8, 1}, {-80, 80}, false},
      {"large", {900}, 150, 0.1, {-1, 149, 1}, {-3, 3}, false},
  };
  for (const Case& c : all) {
    Shape logits = c.labels;
    logits.emplace_back(c.classes);
    OpRow row{
        .op = "cross_entropy",
        .label = c.label,
        .build = [=](Graph& g, DType t) -> std::vector<Value> {
          return {ops::cross_entropy(g, ops::input(g, "logits", t, logits),
                                     ops::input(g, "labels", DType::i32, c.labels), {c.smoothing})};
        },
        .ranges = {{"labels", c.range}, {"logits", c.logits}},
        .expected = [c](const NumbersByName& in) -> std::vector<Numbers> {
          Numbers losses;
          const auto classes = static_cast<size_t>(c.classes);
          for (size_t r = 0; r < in.at("labels").size(); ++r) {
            const double* x = in.at("logits").data() + r * classes;
            const double label = in.at("labels")[r];
            double top = x[0], total = 0, loss = 0;
            for (size_t i = 0; i < classes; ++i) top = std::max(top, x[i]);
            for (size_t i = 0; i < classes; ++i) total += std::exp(x[i] - top);
            for (size_t i = 0; i < classes && label >= 0; ++i) {
              const double target = (static_cast<double>(i) == label ? 1 - c.smoothing : 0) +
                                    c.smoothing / static_cast<double>(classes);
              loss -= target * (x[i] - top - std::log(total));
            }
            losses.push_back(loss);
          }
          return {losses};
        }};
    if (c.gradient) row.differentiable = {"logits"};
    rows.push_back(std::move(row));
    rows.push_back({.op = "cross_entropy_grad",
                    .label = c.label,
                    .build = [=](Graph& g, DType t) -> std::vector<Value> {
                      return {g.add("cross_entropy_grad",
                                    {ops::input(g, "logits", t, logits),
                                     ops::input(g, "labels", DType::i32, c.labels),
                                     ops::input(g, "dloss", t, c.labels)},
                                    CrossEntropyAttrs{c.smoothing})};
                    },
                    .ranges = {{"labels", c.range}, {"logits", c.logits}}});
  }
}

void add_mean_squared_error(std::vector<OpRow>& rows) {
  const auto row = [](std::string label, std::vector<int64_t> shape) {
    return OpRow{.op = "mean_squared_error",
                 .label = std::move(label),
                 .build = [=](Graph& g, DType t) -> std::vector<Value> {
                   Shape s;
                   for (int64_t n : shape) s.emplace_back(n);
                   return {ops::mean_squared_error(g, ops::input(g, "prediction", t, s),
                                                   ops::input(g, "target", t, s))};
                 },
                 .differentiable = {"prediction", "target"},
                 .expected = [=](const NumbersByName& in) -> std::vector<Numbers> {
                   const Numbers &p = in.at("prediction"), &t = in.at("target");
                   const auto batch = static_cast<size_t>(shape[0]);
                   const size_t each = p.size() / batch;
                   Numbers y(batch);
                   for (size_t i = 0; i < p.size(); ++i)
                     y[i / each] += (p[i] - t[i]) * (p[i] - t[i]) / static_cast<double>(each);
                   return {y};
                 }};
  };
  rows.push_back(row("vectors", {4, 7}));
  rows.push_back(row("images", {2, 3, 2, 4}));
  rows.push_back(row("numbers", {6}));
}

}  // namespace

std::vector<OpRow> index_rows() {
  std::vector<OpRow> rows;
  add_tables(rows);
  add_dropout(rows);
  add_cross_entropy(rows);
  add_mean_squared_error(rows);
  return rows;
}

}  // namespace fovea::harness
