// fovea bench: its rows, its errors, and how it deals with rivals (scripts stand in for them). No
// verdict depends on a time.
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "cli/test_program.h"

namespace fovea::cli {
namespace {

using nlohmann::json;

class CliBench : public Cli {
 protected:
  Finished bench(std::vector<std::string> words) {
    words.insert(words.begin(), "bench");
    words.insert(words.end(), {"--rounds", "1", "--json"});
    return run(words);
  }

  static std::vector<json> rows(const Finished& f) {
    EXPECT_EQ(f.code, 0) << f.err;
    std::vector<json> all;
    std::istringstream lines(f.out);
    for (std::string line; std::getline(lines, line);) all.push_back(json::parse(line));
    return all;
  }

  // A rival in the folder "rivals" that answers each line by what the shell prints for it.
  void write_rival(const std::string& name, const std::string& cases) {
    std::filesystem::create_directory(folder_ / "rivals");
    write("rivals/" + name, "#!/bin/sh\nwhile read -r command rest; do\n  case \"$command\" in\n" +
                                cases + "    quit) exit ;;\n  esac\ndone\n");
    ASSERT_EQ(chmod((folder_ / "rivals" / name).c_str(), 0700), 0);
  }
  Finished bench_with_rival(const std::string& cases) {
    write_rival("rival_torch", cases);
    return bench({"infer", "--only", "batch 1 f32", "--rivals", "rivals"});
  }
};

constexpr const char* kSetup = "    setup) echo ok kernel=none version=1 ;;\n";
constexpr const char* kTenZeros = "    output) head -c 40 /dev/zero >output.f32; echo ok ;;\n";

TEST_F(CliBench, ARowOfAttentionHasItsKernelAndItsPeak) {
  const auto all = rows(bench({"attention", "--only", "N49", "--without-rivals"}));
  ASSERT_EQ(all.size(), 2u);
  for (const json& row : all) {
    EXPECT_EQ(row["implementation"], "fovea");
    EXPECT_EQ(row["threads"], 1);
    EXPECT_EQ(row["rounds"], 1);
    EXPECT_EQ(row["times_ours"], 1.0);
    EXPECT_NE(row["kernel"], "");
    for (const char* key : {"median_ms", "gflops", "peak_gflops", "peak_fraction"})
      EXPECT_GT(row[key].get<double>(), 0) << key;
  }
  EXPECT_EQ(all[0]["problem"], "attention forward B128 H4 N49 D16 f32");
  EXPECT_EQ(all[1]["problem"], "attention backward B128 H4 N49 D16 f32");
}

TEST_F(CliBench, ANarrowTypeOfAttentionHasTheNextWiderOneBesideIt) {
  const auto all =
      rows(bench({"attention", "--only", "forward B1 H8 N512 D64 bf16", "--without-rivals"}));
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["implementation"], "fovea bf16");
  EXPECT_EQ(all[1]["implementation"], "fovea f32");
  EXPECT_GT(all[1]["difference"].get<double>(), 1e-4);
  EXPECT_LT(all[1]["difference"].get<double>(), 1e-2);
}

TEST_F(CliBench, AFeatureOfAttentionHasPlainAttentionBesideIt) {
  const auto all =
      rows(bench({"attention", "--only", "forward sparsemax B1 H8 N2048 D64", "--without-rivals"}));
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["implementation"], "fovea");
  EXPECT_EQ(all[1]["implementation"], "plain");
  EXPECT_NE(all[0]["kernel"], all[1]["kernel"]);
  EXPECT_TRUE(all[1]["difference"].is_null()) << "other weights are no error";
  const auto same =
      rows(bench({"attention", "--only", "forward dropout B1 H8 N2048 D64", "--without-rivals"}));
  ASSERT_EQ(same.size(), 2u);
  EXPECT_LT(same[1]["difference"].get<double>(), 1e-5) << "of the log-sum-exp";
}

TEST_F(CliBench, ARowOfDecodingHasTheSpeedOfReadingBesideIt) {
  const auto all =
      rows(bench({"attention", "--only", "decode H8/2 N32768 D64 i8", "--without-rivals"}));
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0]["read_bytes"], 2 * 2 * 32768 * (64 + 4));
  EXPECT_EQ(all[0]["peak"].get<std::string>().find("read"), 0u);
  for (const char* key : {"median_ms", "gbytes_per_s", "peak_gbytes_per_s", "peak_fraction"})
    EXPECT_GT(all[0][key].get<double>(), 0) << key;
  EXPECT_FALSE(all[0].contains("gflops"));
}

TEST_F(CliBench, AKernelOfAttentionCanBeChosen) {
  const auto all =
      rows(bench({"attention", "--only", "N49", "--kernel", "ref", "--without-rivals"}));
  ASSERT_EQ(all.size(), 2u);
  for (const json& row : all) EXPECT_EQ(row["kernel"], "ref");
}

TEST_F(CliBench, ProblemsThatTheKernelDoesNotSupportAreLeftOut) {
  const Finished f = bench({"attention", "--only", "B1 ", "--kernel", "short_sse4"});
  EXPECT_EQ(f.code, 2);
  EXPECT_EQ(f.err.find("(problems: attention forward B1 "), std::string::npos) << f.err;
}

TEST_F(CliBench, BothPrecisionsOfInferenceStandBesideEachOther) {
  const auto all = rows(bench({"infer", "--only", "batch 1 bf16"}));
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["implementation"], "fovea");
  EXPECT_EQ(all[1]["implementation"], "fovea f32");
  EXPECT_GT(all[1]["difference"], 0);
  EXPECT_GT(all[0]["images_per_second"], 0);
}

TEST_F(CliBench, ATrainingStepShowsWhatMemoryItTakes) {
  const auto all = rows(bench({"train", "--only", "train batch 128 f32", "--without-rivals"}));
  ASSERT_EQ(all.size(), 1u);
  int64_t sum = 0;
  for (const char* part :
       {"arena_bytes", "inputs_and_scratch_bytes", "variables_and_state_bytes"}) {
    EXPECT_GT(all[0]["memory"][part], 0) << part;
    sum += all[0]["memory"][part].get<int64_t>();
  }
  EXPECT_EQ(all[0]["memory_bytes"], sum);
}

TEST_F(CliBench, AsTextItIsATable) {
  const Finished f = run({"bench", "infer", "--only", "batch 1 f32", "--rounds", "1",
                          "--without-rivals", "--threads", "1"});
  EXPECT_EQ(f.code, 0) << f.err;
  for (const char* word : {"infer batch 1 f32, 1 thread", "x ours", "images/s", "  fovea"})
    EXPECT_NE(f.out.find(word), std::string::npos) << word << " is not in: " << f.out;
}

TEST_F(CliBench, WhatIsNotThereIsAnErrorWithTheNearest) {
  expect_error(bench({"trian"}), {"'trian'", "did you mean 'train'"});
  expect_error(bench({"infer", "--only", "batch 7"}), {"batch 7", "infer batch 64 f32"});
  expect_error(bench({"attention", "--kernel", "reff"}), {"'reff'", "did you mean 'ref'"});
  expect_error(bench({"train", "--kernel", "ref"}), {"--kernel", "FOVEA_FORCE_KERNEL"});
}

TEST_F(CliBench, RivalsThatAreNotInstalledAreNamedWithTheRemedy) {
  const Finished f = bench({"infer", "--only", "batch 1 f32", "--rivals", "nowhere"});
  EXPECT_EQ(rows(f).size(), 1u);
  for (const char* word :
       {"libtorch is not installed", "onednn is not", "onnxruntime is not", "make bench"})
    EXPECT_NE(f.err.find(word), std::string::npos) << f.err;
}

// Backward is asked of oneDNN as of LibTorch, and the models of neither of them.
TEST_F(CliBench, OneDnnIsARivalInAttentionAlone) {
  write_rival("rival_onednn", "    setup) echo \"error asked for $rest\" ;;\n");
  for (const auto& [problem, asked] :
       {std::pair("backward B128", "asked for attention_backward dtype=f32 "),
        std::pair("forward B1 H8 N512 D64 bf16", "asked for attention dtype=bf16 ")}) {
    const Finished f = bench({"attention", "--only", problem, "--rivals", "rivals"});
    EXPECT_EQ(f.code, 2);
    EXPECT_NE(f.err.find(std::string("onednn: error ") + asked), std::string::npos) << f.err;
  }
  EXPECT_EQ(rows(bench({"infer", "--only", "batch 1 f32", "--rivals", "rivals"})).size(), 1u);
}

TEST_F(CliBench, ARivalThatGivesOtherResultsIsAnError) {
  const Finished f = bench_with_rival(std::string(kSetup) + kTenZeros);
  EXPECT_EQ(f.code, 2);
  EXPECT_EQ(f.out, "");
  EXPECT_NE(f.err.find("libtorch gives 10 numbers that differ from our 10 by 1 "),
            std::string::npos)
      << f.err;
}

TEST_F(CliBench, ARivalThatEndsOrAnswersNonsenseIsAnError) {
  const auto message = [&](const std::string& cases) {
    const Finished f = bench_with_rival(cases);
    EXPECT_EQ(f.code, 2);
    return f.err;
  };
  EXPECT_NE(message("    setup) exit ;;\n").find("libtorch ended at 'setup'"), std::string::npos);
  EXPECT_NE(message("    setup) echo error no such thing ;;\n").find("error no such thing"),
            std::string::npos);
  EXPECT_NE(message("    setup) echo hello ;;\n").find("expected 'ok ...', got 'hello'"),
            std::string::npos);
  EXPECT_NE(message(std::string(kSetup) + "    output) echo ok ;;\n").find("gives 0 numbers"),
            std::string::npos);
}

TEST_F(CliBench, ARivalWithAnotherNumberOfResultsIsAnError) {
  write_rival("rival_torch", std::string(kSetup) + kTenZeros);
  const Finished f = bench({"attention", "--only", "forward B128", "--rivals", "rivals"});
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("gives 10 numbers that differ from our 401408"), std::string::npos) << f.err;
}

TEST_F(CliBench, ARivalThatCannotBeStartedIsAnError) {
  std::filesystem::create_directories(folder_ / "rivals/rival_torch");
  const Finished f = bench({"infer", "--only", "batch 1 f32", "--rivals", "rivals"});
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("libtorch cannot be started"), std::string::npos) << f.err;
}

}  // namespace
}  // namespace fovea::cli
