// The kernels take their sizes from one operand, so a shape rule must refuse every other operand
// that does not agree: model.graph may hold anything.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "fovea/graph/graph.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op.h"

namespace fovea {
namespace {

struct Wrong {
  std::string what;  // "x0", "x1", .. for an input's type, or an attribute
  std::string text;  // what stands there instead
  std::string message;
};
struct Case {
  std::string op;
  std::map<std::string, std::string> attrs;
  std::vector<std::string> types;  // of the inputs x0, x1, ..
  std::string result;
  std::vector<Wrong> wrong;
};

// The node as it stands in model.graph.
std::string text_of(const Case& c) {
  std::string text = "fovea.graph 1\nops\n", arguments;
  for (size_t i = 0; i < c.types.size(); ++i) {
    text += fmt::format("x{} = input(type={})\n", i, c.types[i]);
    arguments += fmt::format("{}%x{}", i == 0 ? "" : ", ", i);
  }
  for (auto& [name, value] : c.attrs) arguments += fmt::format(", {}={}", name, value);
  return text + fmt::format("y = {}({}) : {}\n", c.op, arguments, c.result);
}

Case with(Case c, const Wrong& wrong) {
  if (wrong.what[0] == 'x')
    c.types.at(std::stoul(wrong.what.substr(1))) = wrong.text;
  else
    c.attrs[wrong.what] = wrong.text;
  return c;
}

std::string error_of(const std::string& text) {
  try {
    verify(parse_graph(text));
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

std::vector<Case> cases() {
  const Case softmax_grad = {"softmax_grad",
                             {},
                             {"f32[2,3,4]", "f32[2,3,4]"},
                             "f32[2,3,4]",
                             {{"x1", "f32[2,3,5]", "the sizes of the result and its gradient"},
                              {"x1", "f32[1,3,4]", "the sizes of the result and its gradient"},
                              {"x1", "f32[3,4]", "the result and its gradient alike"},
                              {"x1", "f64[2,3,4]", "the result and its gradient alike"}}};
  Case log_softmax_grad = softmax_grad;
  log_softmax_grad.op = "log_softmax_grad";
  const Case adamw = {"adamw",
                      {},
                      {"f32[3]", "f32[3]", "f32[3]", "f32[3]", "f32[]", "i32[]", "f32[]"},
                      "f32[3], f32[3], f32[3]",
                      {{"x1", "f32[2]", "the sizes of weight, gradient and moments"},
                       {"x3", "f64[3]", "weight, gradient and moments alike"},
                       {"x4", "i32[]", "a learning rate f32[]"},
                       {"x4", "f64[]", "a learning rate f32[]"},
                       {"x4", "f32[1]", "a learning rate f32[]"},
                       {"x5", "f32[]", "a step i32[]"},
                       {"x6", "i32[]", "a factor f32[]"}}};
  return {
      softmax_grad,
      log_softmax_grad,
      {"normalise",
       {{"normaliser", "gumbel"}},
       {"f32[2,3,4]", "i32[3]"},
       "f32[2,3,4]",
       {{"x1", "i32[2]", "rng i32[3]"},
        {"x0", "f32[4]", "the batch before the last axis with normaliser=gumbel"},
        {"x0", "f32[]", "at least one axis"},
        {"normaliser", "sparsemax", "no rng with normaliser=sparsemax"},
        {"top_k", "3", "no top_k with normaliser=gumbel, got top_k=3"},
        {"softmax_temperature", "-1", "softmax_temperature between"}}},
      {"normalise_grad",
       {{"normaliser", "top_k"}, {"top_k", "2"}},
       {"f32[2,3,4]", "f32[2,3,4]"},
       "f32[2,3,4]",
       {{"x1", "f32[2,3,5]", "the sizes of the scores and the gradient"},
        {"x1", "f64[2,3,4]", "the scores and the gradient alike"},
        {"normaliser", "gumbel_hard", "no top_k with normaliser=gumbel_hard"},
        {"top_k", "0", "top_k between 1 and"}}},
      {"layer_norm_grad",
       {},
       {"f32[2,3,4]", "f32[4]", "f32[2,3]", "f32[2,3]", "f32[2,3,4]"},
       "f32[2,3,4], f32[4], f32[4]",
       {{"x0", "f32[]", "at least one axis"},
        {"x1", "f32[5]", "the sizes of rows and weights"},
        {"x1", "f64[4]", "a weight"},
        {"x1", "f32[]", "a weight"},
        {"x2", "f32[2,2]", "the sizes of rows and their statistics"},
        {"x3", "f32[2]", "rows and their statistics alike"},
        {"x3", "f64[2,3]", "rows and their statistics alike"},
        {"x4", "f32[2,2,4]", "the sizes of x and its gradient"}}},
      {"rms_norm_grad",
       {},
       {"f32[2,3,4]", "f32[4]", "f32[2,3]", "f32[2,3,4]"},
       "f32[2,3,4], f32[4]",
       {{"x1", "f32[3]", "the sizes of rows and weights"},
        {"x2", "f32[1,3]", "the sizes of rows and their statistics"},
        {"x3", "f32[2,3,3]", "the sizes of x and its gradient"}}},
      {"cross_entropy_grad",
       {},
       {"f32[2,3,5]", "i32[2,3]", "f32[2,3]"},
       "f32[2,3,5]",
       {{"x1", "i32[2,2]", "the sizes of logits and labels"},
        {"x1", "f32[2,3]", "i32 labels"},
        {"x2", "f32[2,2]", "the sizes of the loss and its gradient"},
        {"x2", "f32[2]", "the loss and its gradient alike"},
        {"x2", "f64[2,3]", "the loss and its gradient alike"},
        {"smoothing", "2", "a smoothing"}}},
      {"conv2d",
       {},
       {"f32[2,7,8,3]", "f32[5,3,3,3]", "f32[5]"},
       "f32[2,5,6,5]",
       {{"x2", "f32[4]", "the sizes of weight and bias"},
        {"x2", "f64[5]", "a bias [O]"},
        {"pad_h", "9223372036854775807", "padding below the size"}}},
      {"conv2d_grad_input",
       {{"pad_h", "1"}, {"shape", "[2,7,8,3]"}, {"stride_h", "2"}},
       {"f32[2,4,6,5]", "f32[5,3,3,3]"},
       "f32[2,7,8,3]",
       {{"x0", "f32[1,4,6,5]", "the sizes of the result"},
        {"x0", "f32[2,3,6,5]", "the sizes of the result"},
        {"x0", "f32[2,4,7,5]", "the sizes of the result"},
        {"x0", "f32[2,4,6,6]", "the sizes of the result"},
        {"x0", "f32[2,4,6]", "the result and its gradient alike"},
        {"x1", "f32[5,3,3,4]", "the channels"},
        {"x1", "f64[5,3,3,3]", "one floating type"},
        {"shape", "[2,7,8]", "x [B,H,W,C]"},
        {"shape", "[2,9,8,3]", "the sizes of the result"},
        {"shape", "[2,-7,8,3]", "as large as the window"},
        {"stride_h", "0", "at least 1"}}},
      {"conv2d_grad_weight",
       {{"pad_h", "1"}, {"shape", "[5,3,3,3]"}, {"stride_h", "2"}},
       {"f32[2,4,6,5]", "f32[2,7,8,3]"},
       "f32[5,3,3,3]",
       {{"x0", "f32[2,4,6,4]", "the sizes of the result"},
        {"x1", "f32[2,9,8,3]", "the sizes of the result"},
        {"x1", "f32[2,7,8,4]", "the channels"},
        {"x1", "f64[2,7,8,3]", "one floating type"},
        {"shape", "[5,3,4,3]", "the sizes of the result"},
        {"shape", "[5,3,K,3]", "a known kernel size"}}},
      {"max_pool_grad",
       {{"shape", "[2,5,6,3]"}},
       {"f32[2,2,3,3]", "i32[2,2,3,3]"},
       "f32[2,5,6,3]",
       {{"x0", "f32[2,3,3,3]", "the sizes of the result"},
        {"x1", "i32[2,2,3,2]", "the sizes of i32 indices"},
        {"x1", "i32[2,2,3]", "i32 indices and the gradient alike"},
        {"x1", "f32[2,2,3,3]", "i32 indices and the gradient alike"},
        {"shape", "[2,5,8,3]", "the sizes of the result"}}},
      {"avg_pool_grad",
       {{"shape", "[2,5,6,3]"}},
       {"f32[2,2,3,3]"},
       "f32[2,5,6,3]",
       {{"x0", "f32[2,2,3,4]", "the sizes of the result"},
        {"x0", "i32[2,2,3,3]", "a floating type"},
        {"shape", "[2,5]", "an image [B,H,W,C]"},
        {"size_h", "9223372036854775807", "padding below the size"}}},
      {"attention_grad",
       {{"heads", "2"}, {"kv_heads", "1"}},
       {"f32[2,5,8]", "f32[2,6,4]", "f32[2,6,3]", "f32[2,5,6]", "f32[2,2,5]", "f32[2,5,6]"},
       "f32[2,5,8], f32[2,6,4], f32[2,6,3]",
       {{"x3", "f32[2,5]", "q, k, v and the result alike"},
        {"x3", "f64[2,5,6]", "q, k, v and the result alike"},
        {"x3", "f32[2,4,6]", "the sizes of q, k, v and the result"},
        {"x4", "f32[2,1,5]", "the sizes of q and the log-sum-exp"},
        {"x4", "f32[2,2,4]", "the sizes of q and the log-sum-exp"},
        {"x4", "f64[2,2,5]", "q and the log-sum-exp [B,H,Tq] alike"},
        {"x5", "f32[]", "the result and its gradient alike"},
        {"x5", "f32[2,5,8]", "the sizes of the result and its gradient"}}},
      {"linear_attention_grad",
       {{"heads", "2"}, {"kv_heads", "1"}},
       {"f32[2,5,8]", "f32[2,6,4]", "f32[2,6,3]", "f32[2,5,6]"},
       "f32[2,5,8], f32[2,6,4], f32[2,6,3]",
       {{"x0", "f32[2,5]", "expected q [B,Tq,H*D]"},
        {"x1", "f32[2,6,5]", "one head size"},
        {"x2", "f32[2,7,3]", "the lengths of k and v"},
        {"x3", "f32[2,5,8]", "the sizes of the result and its gradient"},
        {"x3", "f64[2,5,6]", "the result and its gradient alike"},
        {"kv_heads", "3", "a multiple of kv_heads"}}},
      {"additive_attention_grad",
       {{"heads", "2"}, {"kv_heads", "1"}},
       {"f32[2,5,8]", "f32[2,6,4]", "f32[2,6,3]", "f32[8]", "f32[2,5,6]", "f32[2,2,5]",
        "f32[2,5,6]"},
       "f32[2,5,8], f32[2,6,4], f32[2,6,3], f32[8]",
       {{"x3", "f32[4]", "the sizes of q's rows and the weights"},
        {"x3", "f64[8]", "weights [H*D] in the type of q"},
        {"x4", "f32[2,4,6]", "the sizes of q, k, v and the result"},
        {"x5", "f32[2,2,4]", "the sizes of q and the log-sum-exp"},
        {"x6", "f32[2,5,8]", "the sizes of the result and its gradient"}}},
      adamw,
      {"sgd",
       {},
       {"f32[3]", "f32[3]", "f32[3]", "f32[]", "f32[]"},
       "f32[3], f32[3]",
       {{"x2", "f32[4]", "the sizes of weight, gradient and moments"},
        {"x3", "i32[]", "a learning rate f32[]"},
        {"x4", "i32[]", "a factor f32[]"}}},
  };
}

TEST(ShapeRules, OperandsThatAgreeAreTaken) {
  for (const Case& c : cases()) EXPECT_EQ(error_of(text_of(c)), "") << text_of(c);
}

TEST(ShapeRules, AnOperandThatDoesNotAgreeIsAnError) {
  for (const Case& c : cases())
    for (const Wrong& wrong : c.wrong) {
      const std::string text = text_of(with(c, wrong));
      const std::string message = error_of(text);
      EXPECT_NE(message.find("[" + c.op + " y]"), std::string::npos) << text << message;
      EXPECT_NE(message.find(wrong.message), std::string::npos) << text << message;
    }
}

// What is not known yet is taken, and checked when the sizes are.
TEST(ShapeRules, UnknownSizesAreCheckedWhenTheyAreKnown) {
  const std::vector<Case> open = {
      {"softmax_grad", {}, {"f32[A,4]", "f32[B,4]"}, "f32[A,4]", {}},
      {"cross_entropy_grad", {}, {"f32[A,4]", "i32[A]", "f32[B]"}, "f32[A,4]", {}},
      {"layer_norm_grad",
       {},
       {"f32[A,4]", "f32[4]", "f32[A]", "f32[B]", "f32[A,4]"},
       "f32[A,4], f32[4], f32[4]",
       {}},
      {"conv2d_grad_input",
       {{"shape", "[A,4,4,3]"}},
       {"f32[B,2,2,5]", "f32[5,3,3,3]"},
       "f32[A,4,4,3]",
       {}},
      {"avg_pool_grad", {{"shape", "[1,2*A,4,3]"}}, {"f32[1,B,2,3]"}, "f32[1,2*A,4,3]", {}},
      {"attention_grad",
       {},
       {"f32[1,A,4]", "f32[1,6,4]", "f32[1,6,4]", "f32[1,A,4]", "f32[1,1,B]", "f32[1,A,4]"},
       "f32[1,A,4], f32[1,6,4], f32[1,6,4]",
       {}},
  };
  for (const Case& c : open) {
    ASSERT_EQ(error_of(text_of(c)), "") << c.op;
    const Graph g = parse_graph(text_of(c));
    EXPECT_NO_THROW(specialise(g, {{"A", 2}, {"B", 2}})) << c.op;
    EXPECT_THROW(specialise(g, {{"A", 2}, {"B", 3}}), Error) << c.op;
  }
}

}  // namespace
}  // namespace fovea
