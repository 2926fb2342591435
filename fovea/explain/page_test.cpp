#include "fovea/explain/page.h"

#include <gtest/gtest.h>

#include <set>

#include "fovea/base/error.h"
#include "fovea/explain/report.h"
#include "fovea/explain/samples.h"
#include "fovea/explain/test_bright_model.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

ImageDataset some_images() {
  ImageDataset data{"some", 4, 6, 1, {}, {}, {"dark", "light"}};
  for (int i = 0; i < 40; ++i) {
    std::vector<uint8_t> patches(6, static_cast<uint8_t>(i % 3 == 0 ? 0 : 100));
    patches[static_cast<size_t>(i % 6)] = i % 2 == 0 ? 250 : 20;
    const auto image = bright_image(patches);
    data.images.insert(data.images.end(), image.begin(), image.end());
    data.labels.push_back(i % 4 < 2);
  }
  return data;
}

ExplainReport small_report(int images) {
  ExplainReport report;
  report.model = "runs/<demo>";
  report.about = "level full";
  report.labels = {"dark & dull", "light"};
  report.grid = {2, 3};
  Explainer explainer = bright_explainer();
  const ImageDataset data = some_images();
  for (int i = 0; i < images; ++i) {
    const auto pixels = data.image(i);
    report.images.push_back(
        {"image " + std::to_string(i),
         report.labels[static_cast<size_t>(data.labels[static_cast<size_t>(i)])],
         {4, 6, 1, {pixels.begin(), pixels.end()}},
         explainer.explain(pixels)[0]});
  }
  return report;
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Page, HoldsEachImageWithItsPicturesAndNeedsNothingElse) {
  const std::string page = explain_page(small_report(3));
  EXPECT_EQ(count(page, "<article>"), 3u);
  EXPECT_EQ(count(page, "<img src=\"data:image/png;base64,"), 3u * (3 + 1));
  EXPECT_EQ(count(page, "<img "), count(page, "<img src=\"data:"));
  for (const char* outside : {"<script", "http://", "https://", "<link", "@import", "url("})
    EXPECT_EQ(count(page, outside), 0u) << outside;
  EXPECT_EQ(count(page, "name=\"viewport\""), 1u);
  EXPECT_LT(page.find(kPageMark), 1024u);
  // What comes from outside is text.
  EXPECT_EQ(count(page, "<demo>"), 0u);
  EXPECT_EQ(count(page, "dark & dull"), 0u);
  EXPECT_GE(count(page, "dark &amp; dull"), 1u);
  EXPECT_GE(count(page, "truly"), 1u);
}

TEST(Page, ShowsCurvesWhereTheyWereMeasured) {
  ExplainReport report = small_report(1);
  EXPECT_EQ(count(explain_page(report), "<svg"), 0u);
  Session model = bright_session();
  Explainer explainer = bright_explainer();
  const ImageDataset data = some_images();
  report.faithfulness =
      measure_faithfulness(model, explainer, data, std::vector<uint8_t>(24), {.random_orders = 2});
  report.removed = "black";
  const std::string page = explain_page(report);
  EXPECT_EQ(count(page, "<svg"), 2u);
  EXPECT_EQ(count(page, "<polyline"), 8u);
  EXPECT_EQ(count(page, "gradient-weighted rollout</td>"), 1u);
}

TEST(Page, Base64IsThatOfTheStandard) {
  // RFC 4648, section 10.
  const std::pair<std::string, std::string> vectors[] = {
      {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, coded] : vectors)
    EXPECT_EQ(base64(std::as_bytes(std::span(plain.data(), plain.size()))), coded);
  EXPECT_EQ(base64(std::vector<std::byte>{std::byte{0xff}, std::byte{0xfe}, std::byte{0xfb}}),
            "//77");
}

TEST(Report, WritesPicturesThatCanBeReadAndTakesOldOnesAway) {
  TemporaryFolder folder;
  const auto out = folder / "deep" / "er";
  const auto files = write_report(out, small_report(3));
  EXPECT_EQ(files.size(), 13u);
  for (const std::string& file : files) EXPECT_TRUE(std::filesystem::exists(out / file)) << file;
  const Image rollout = read_image(out / "02-rollout.png");
  EXPECT_EQ(rollout.channels, 3);
  EXPECT_GT(rollout.width, 336);
  EXPECT_EQ(rollout.height, 224);  // 4 x 6 pixels, the longer side 336
  write_file_atomically(out / "notes.txt", "mine");
  write_report(out, small_report(1));
  EXPECT_FALSE(std::filesystem::exists(out / "02-rollout.png"));
  EXPECT_TRUE(std::filesystem::exists(out / "01-heads.png"));
  EXPECT_TRUE(std::filesystem::exists(out / "notes.txt"));
}

TEST(Report, AFolderWithOtherThingsIsLeftAlone) {
  TemporaryFolder folder;
  write_file_atomically(folder / "index.html", "<html>somebody's page</html>");
  try {
    write_report(folder / "", small_report(1));
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(e.what()).find("index.html"), std::string::npos);
  }
  EXPECT_EQ(read_text_file(folder / "index.html", 1000), "<html>somebody's page</html>");
  try {
    prepare_report_folder(folder / "index.html" / "below");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::io);
  }
}

TEST(Samples, AreRightAndWrongOnesOfAllClasses) {
  const ImageDataset data = some_images();
  Session model = bright_session();
  const std::vector<int32_t> predicted = predict_classes(model, data, 16);
  ASSERT_EQ(predicted.size(), 40u);
  Explainer explainer = bright_explainer();
  for (const int64_t i : {0, 7, 39})
    EXPECT_EQ(predicted[static_cast<size_t>(i)], explainer.explain(data.image(i))[0].predicted);

  const auto chosen = choose_samples(data, predicted, 8, 1);
  ASSERT_EQ(chosen.size(), 8u);
  int wrong = 0, light = 0;
  for (const int64_t i : chosen) {
    const auto at = static_cast<size_t>(i);
    wrong += predicted[at] != data.labels[at];
    light += data.labels[at];
  }
  EXPECT_EQ(wrong, 3);
  EXPECT_GE(light, 3);
  EXPECT_LE(light, 5);
  EXPECT_EQ(std::set(chosen.begin(), chosen.end()).size(), 8u);
  EXPECT_EQ(chosen, choose_samples(data, predicted, 8, 1));
  EXPECT_NE(chosen, choose_samples(data, predicted, 8, 2));
  // No wrong ones, only wrong ones, and more than there are.
  EXPECT_EQ(choose_samples(data, data.labels, 8, 1).size(), 8u);
  EXPECT_EQ(choose_samples(data, std::vector<int32_t>(40, 7), 8, 1).size(), 8u);
  EXPECT_EQ(choose_samples(data, predicted, 1000, 1).size(), 40u);
}

}  // namespace
}  // namespace fovea
