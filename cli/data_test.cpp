// `fovea new` and `fovea data`, as strangers use them with images of their own.
#include <nlohmann/json.hpp>

#include "cli/test_program.h"
#include "fovea/base/philox.h"
#include "fovea/data/test_images.h"
#include "fovea/formats/image.h"

namespace fovea::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class OwnData : public Cli {
 protected:
  void write_image(const fs::path& path, const Image& image) {
    fs::create_directories((folder_ / path).parent_path());
    write_file_atomically(folder_ / path, encode_png(image));
  }

  // Two kinds of colour images of several sizes: dark ones in "nights", bright ones in "bright
  // days".
  void write_photos(const std::string& name, int nights, int days) {
    PhiloxStream random(1, stream_id(name));
    for (int i = 0; i < nights + days; ++i) {
      const bool night = i < nights;
      Image image{20 + i % 3, 24 + i % 5, 3, {}};
      for (int64_t k = 0; k < image.height * image.width * 3; ++k)
        image.pixels.push_back(static_cast<uint8_t>((night ? 0 : 130) + random.below(120)));
      write_image(
          fs::path(name) / (night ? "nights" : "bright days") / (std::to_string(i) + ".png"),
          image);
    }
  }
};

TEST_F(OwnData, NewLooksAtAFolderAndWritesARecipeThatTrainsAndPredicts) {
  write_photos("my photos", 14, 40);
  const Finished made = run({"new", "image-classifier", "my photos/", "--out", "p.toml"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find("2 classes; 41 images to train with"), std::string::npos) << made.out;
  EXPECT_NE(made.out.find("'bright days' has 2.7 times as many images"), std::string::npos)
      << made.out;
  EXPECT_NE(made.out.find("sizes differ: sides of 20 to 28"), std::string::npos) << made.out;
  EXPECT_NE(made.out.find("train p.toml"), std::string::npos) << made.out;
  const std::string recipe = slurp(folder_ / "p.toml");
  for (const char* line : {"dir = \"my photos/\"", "channels = 3", "balance = 1.0", "flip = true"})
    EXPECT_NE(recipe.find(line), std::string::npos) << line << " is not in\n" << recipe;

  const Finished trained =
      run({"train", "p.toml", "--out", "model", "--set", "train.epochs=30", "--json"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(json::parse(trained.out)["test"]["accuracy"], 1.0);
  // A file of another size is seen as in training.
  write_image("night.png", {90, 60, 3, std::vector<uint8_t>(90 * 60 * 3, 40)});
  const Finished predicted = run({"predict", "model", "night.png"});
  EXPECT_NE(predicted.out.find("night.png  nights"), std::string::npos)
      << predicted.out << predicted.err;
}

TEST_F(OwnData, NewTakesTablesAndKeepsWhatIsThere) {
  write_photos("p", 12, 12);
  std::string table = "file;class\n";
  for (int i = 0; i < 24; ++i)
    table += "p/" + std::string(i < 12 ? "nights" : "bright days") + "/" + std::to_string(i) +
             ".png;" + (i < 12 ? "3" : "11") + "\n";
  write("photos.csv", table);
  const Finished made = run({"new", "image-classifier", "photos.csv", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(json::parse(made.out)["recipe"], "photos.toml");
  EXPECT_EQ(json::parse(made.out)["train"], 18);
  const std::string recipe = slurp(folder_ / "photos.toml");
  EXPECT_NE(recipe.find("file = \"photos.csv\""), std::string::npos) << recipe;
  EXPECT_NE(recipe.find("flip = false"), std::string::npos) << recipe;  // classes are numbers
  expect_error(run({"new", "image-classifier", "photos.csv"}),
               {"photos.toml is there already", "--overwrite"});
  EXPECT_EQ(run({"new", "image-classifier", "photos.csv", "--overwrite"}).code, 0);
}

TEST_F(OwnData, TrainingGoesWithoutTestImagesAndTellsOfFilesLeftOut) {
  write_photos("p", 10, 10);
  write("p/nights/text.png", "I am text");
  ASSERT_EQ(run({"new", "image-classifier", "p"}).code, 0);
  const std::vector<std::string> words = {"train",       "p.toml",        "--set",
                                          "data.test=0", "--set",         "data.validation=0",
                                          "--set",       "train.epochs=1"};
  expect_error(run(words),
               {"1 of 21 image files cannot be read", "text.png", "data.unreadable=skip"});
  std::vector<std::string> skipping = words;
  skipping.insert(skipping.end(), {"--set", "data.unreadable=skip"});
  const Finished f = run(skipping);
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(f.out.find("test accuracy"), std::string::npos) << f.out;
  EXPECT_NE(f.err.find("1 image file of the train split cannot be read and is left out"),
            std::string::npos)
      << f.err;
  expect_error(run({"eval", "runs/p"}), {"there is no test split"});
}

TEST_F(OwnData, NewSaysWhatIsWrongWithAFolder) {
  expect_error(run({"new", "image-clasifier", "x"}), {"did you mean 'image-classifier'"});
  expect_error(run({"new", "image-classifier", "nowhere"}), {"nowhere", "cannot be read"});
  fs::create_directory(folder_ / "empty");
  expect_error(run({"new", "image-classifier", "empty"}), {"at least two classes", "no folder"});
  write_photos("one", 3, 0);
  expect_error(run({"new", "image-classifier", "one"}), {"only 'nights'"});
  for (const char* name : {"bad/a/1.png", "bad/b/2.png"}) {
    fs::create_directories((folder_ / name).parent_path());
    write(name, "I am text");
  }
  expect_error(run({"new", "image-classifier", "bad"}),
               {"none of the 2 image files", "expected a PNG or JPEG"});
  EXPECT_FALSE(fs::exists(folder_ / "bad.toml"));
}

TEST_F(OwnData, DataCountsFindsLeaksAndDrawsASheet) {
  write_photos("p/train", 10, 30);
  write_photos("p/test", 4, 4);
  fs::copy_file(folder_ / "p/train/nights/0.png", folder_ / "p/test/nights/copy.png");
  fs::copy_file(folder_ / "p/train/nights/1.png", folder_ / "p/train/bright days/copy.png");
  write("p.toml",
        "[data]\nkind = \"image_folder\"\ndir = \"p\"\nheight = 16\nwidth = 16\nchannels = 3\n"
        "validation = 0\n[augment]\nshift = 2\n");
  const Finished shown = run({"data", "p.toml", "--sheet", "sheet.png"});
  ASSERT_EQ(shown.code, 0) << shown.err;
  for (const char* text :
       {"p (image_folder): 16x16 colour, 2 classes", "3.1 times as many",
        "1 image of test is in train too", "p/train/nights/0.png = p/test/nights/copy.png",
        "1 image stands twice in its split", "1 pair of equal images has different classes",
        "samples of train drawn in sheet.png"})
    EXPECT_NE(shown.out.find(text), std::string::npos) << text << " is not in\n" << shown.out;
  const Image sheet = read_image(folder_ / "sheet.png");
  EXPECT_EQ(sheet.channels, 3);
  EXPECT_GT(sheet.width, 900);

  const json result = json::parse(run({"data", "p.toml", "--json"}).out);
  EXPECT_EQ(result["samples"], (json{{"train", 41}, {"validation", 0}, {"test", 9}}));
  EXPECT_EQ(result["classes"][0], (json{{"name", "bright days"}, {"train", 31}, {"test", 4}}));
  EXPECT_EQ(result["equal_images"].size(), 2u);
  EXPECT_EQ(result["pixels"].size(), 3u);
  expect_error(run({"data", "p.toml", "--sheet", "x.png", "--split", "validation"}),
               {"there is no validation split"});
  expect_error(run({"data", "p.toml", "--limit", "3"}), {"--limit belongs to --export"});
}

TEST_F(OwnData, AnExportedDataSetIsTheSameDataSet) {
  write_small_images(folder_ / "idx", 60, 20);
  write("idx.toml", small_recipe("idx"));
  const Finished f = run({"data", "idx.toml", "--export", "png"});
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_NE(f.out.find("80 images written to png"), std::string::npos) << f.out;
  write("png.toml",
        "[data]\nkind = \"image_folder\"\ndir = \"png\"\nclasses = [\"upper\", "
        "\"left\"]\n");
  json a = json::parse(run({"data", "idx.toml", "--json"}).out);
  json b = json::parse(run({"data", "png.toml", "--json"}).out);
  for (const char* key : {"samples", "classes", "pixels", "height", "width", "channels"})
    EXPECT_EQ(a[key], b[key]) << key;
  expect_error(run({"data", "idx.toml", "--export", "png"}), {"png holds something already"});
  ASSERT_EQ(run({"data", "idx.toml", "--export", "few", "--limit", "2"}).code, 0);
  EXPECT_EQ(
      std::distance(fs::directory_iterator(folder_ / "few/train/left"), fs::directory_iterator()),
      2);
}

}  // namespace
}  // namespace fovea::cli
