// The normalisers as an op of their own, and their gradient.
#include "fovea/base/visit.h"
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

Value rng_of(Graph& g, const NormaliseAttrs& a) {
  return is_random(a.normaliser) ? ops::input(g, "rng", DType::i32, {3}) : Value{};
}

void add(std::vector<OpRow>& rows, const std::string& label, const NormaliseAttrs& a,
         const Shape& shape, bool gradient) {
  const std::map<std::string, Range> ranges = {{"rng", {0, 1000, 1}}, {"x", {-2, 2}}};
  OpRow row{.op = "normalise",
            .label = label,
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              return {ops::normalise(g, ops::input(g, "x", t, shape), a, rng_of(g, a), "n")};
            },
            .ranges = ranges};
  // One link a row does not move with the scores.
  if (gradient && !is_hard(a.normaliser)) row.differentiable = {"x"};
  rows.push_back(std::move(row));
  rows.push_back(
      {.op = "normalise_grad",
       .label = label,
       .build = [=](Graph& g, DType t) -> std::vector<Value> {
         std::vector<Value> in = {ops::input(g, "x", t, shape), ops::input(g, "dy", t, shape)};
         if (const Value rng = rng_of(g, a)) in.push_back(rng);
         return {g.add("normalise_grad", in, a, "n")};
       },
       .ranges = ranges});
}

}  // namespace

std::vector<OpRow> normalise_rows() {
  const NormaliseAttrs all[] = {{.normaliser = Normaliser::softmax},
                                {.normaliser = Normaliser::top_k, .top_k = 3},
                                {.normaliser = Normaliser::sparsemax},
                                {.normaliser = Normaliser::entmax15},
                                {.normaliser = Normaliser::hard, .softmax_temperature = 0.5},
                                {.normaliser = Normaliser::gumbel, .softmax_temperature = 2},
                                {.normaliser = Normaliser::gumbel_hard}};
  std::vector<OpRow> rows;
  for (const NormaliseAttrs& a : all) {
    const std::string name(enum_name(a.normaliser));
    add(rows, name, a, {2, 3, 11}, true);
    add(rows, name + "_large", a, {60, 397}, false);
  }
  return rows;
}

}  // namespace fovea::harness
