#include "fovea/formats/tensorboard.h"

#include <gtest/gtest.h>

#include <limits>

#include "fovea/formats/test_data.h"
#include "fovea/formats/test_events.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

using Reader = EventReader;

class TensorboardTest : public ::testing::Test {
 protected:
  std::filesystem::path events() const { return folder_ / "events"; }
  void write_steps(EventWriter& writer, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step) {
      EventSummary s;
      s.scalar("loss", 10.0 / static_cast<double>(step));
      writer.write(step, s);
    }
    writer.flush();
  }
  std::vector<int64_t> steps() {
    std::vector<int64_t> found;
    const auto read = reader_.read_folder(events());
    for (auto& point : Reader::series(read, "loss")) found.push_back(point.step);
    return found;
  }

  TemporaryFolder folder_;
  EventReader reader_;
};

TEST_F(TensorboardTest, AFileBeginsWithItsVersionAndHoldsScalarsByStep) {
  {
    EventWriter writer = EventWriter::begin(events());
    EventSummary summary;
    summary.scalar("train/loss", 0.5);
    summary.scalar("train/accuracy", 0.25);
    writer.write(7, summary);
  }
  const auto read = reader_.read_folder(events());
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(Reader::text(*read[0], "file_version"), "brain.Event:2");
  EXPECT_GT(Reader::number(*read[0], "wall_time"), 1.7e9);
  const auto loss = Reader::series(read, "train/loss");
  const auto accuracy = Reader::series(read, "train/accuracy");
  ASSERT_EQ(loss.size(), 1u);
  ASSERT_EQ(accuracy.size(), 1u);
  EXPECT_EQ(loss[0].step, 7);
  EXPECT_EQ(Reader::real(*loss[0].value, "simple_value"), 0.5f);
  EXPECT_EQ(Reader::real(*accuracy[0].value, "simple_value"), 0.25f);
}

TEST_F(TensorboardTest, AHistogramCountsEveryFiniteValueOnce) {
  std::vector<float> values;
  for (int i = 0; i < 1000; ++i) values.push_back(static_cast<float>(i % 10) - 3.0f);
  values.push_back(std::numeric_limits<float>::quiet_NaN());
  values.push_back(std::numeric_limits<float>::infinity());
  {
    EventWriter writer = EventWriter::begin(events());
    EventSummary summary;
    summary.histogram("spread", values);
    summary.histogram("equal", std::vector<float>(5, 2.0f));
    summary.histogram("nothing", {});
    writer.write(1, summary);
  }
  const auto read = reader_.read_folder(events());
  const auto& h = Reader::message(*Reader::series(read, "spread").at(0).value, "histo");
  EXPECT_EQ(Reader::number(h, "min"), -3);
  EXPECT_EQ(Reader::number(h, "max"), 6);
  EXPECT_EQ(Reader::number(h, "num"), 1000);
  EXPECT_EQ(Reader::number(h, "sum"), 1500);
  EXPECT_EQ(Reader::number(h, "sum_squares"), 100 * (9 + 4 + 1 + 0 + 1 + 4 + 9 + 16 + 25 + 36));
  ASSERT_EQ(Reader::size(h, "bucket"), 64);
  ASSERT_EQ(Reader::size(h, "bucket_limit"), 64);
  double total = 0, before = -3;
  for (int i = 0; i < 64; ++i) {
    const double count = Reader::number(h, "bucket", i),
                 limit = Reader::number(h, "bucket_limit", i);
    EXPECT_GT(limit, before);
    // Each of the ten values lies in one bucket.
    EXPECT_TRUE(count == 0 || count == 100) << count;
    total += count;
    before = limit;
  }
  EXPECT_EQ(total, 1000);
  EXPECT_EQ(before, 6);
  EXPECT_EQ(Reader::number(h, "bucket", 0), 100);
  EXPECT_EQ(Reader::number(h, "bucket", 63), 100);
  const auto& equal = Reader::message(*Reader::series(read, "equal").at(0).value, "histo");
  ASSERT_EQ(Reader::size(equal, "bucket"), 1);
  EXPECT_EQ(Reader::number(equal, "bucket", 0), 5);
  const auto& nothing = Reader::message(*Reader::series(read, "nothing").at(0).value, "histo");
  EXPECT_EQ(Reader::number(nothing, "num"), 0);
}

TEST_F(TensorboardTest, ImagesArePngAndTextNamesItsPlugin) {
  Image image{2, 3, 3, {}};
  for (uint8_t i = 0; i < 18; ++i) image.pixels.push_back(i);
  {
    EventWriter writer = EventWriter::begin(events());
    EventSummary summary;
    summary.image("attention", image);
    summary.text("recipe", "    [train]\n    epochs = 3");
    writer.write(2, summary);
  }
  const auto read = reader_.read_folder(events());
  const auto& shown = Reader::message(*Reader::series(read, "attention").at(0).value, "image");
  EXPECT_EQ(Reader::integer(shown, "height"), 2);
  EXPECT_EQ(Reader::integer(shown, "width"), 3);
  EXPECT_EQ(Reader::integer(shown, "colorspace"), 3);
  const Image back =
      decode_image(to_bytes(Reader::text(shown, "encoded_image_string")), "the event's image");
  EXPECT_EQ(back.pixels, image.pixels);
  const auto& text = *Reader::series(read, "recipe").at(0).value;
  const auto& metadata = Reader::message(text, "metadata");
  EXPECT_EQ(Reader::text(Reader::message(metadata, "plugin_data"), "plugin_name"), "text");
  EXPECT_EQ(Reader::text(Reader::message(text, "tensor"), "string_val", 0),
            "    [train]\n    epochs = 3");
  EXPECT_EQ(Reader::integer(Reader::message(text, "tensor"), "dtype"), 7);
}

TEST_F(TensorboardTest, TheGraphHasItsNodesInputsAndShapes) {
  Graph g;
  const Value x = ops::input(g, "image", DType::f32, {Size::symbol("B"), 4});
  {
    const Graph::Scope scope(g, "enc");
    g.set_output("y", ops::linear(g, "head", x, 3));
  }
  {
    EventWriter writer = EventWriter::begin(events());
    writer.write_graph(g);
  }
  const auto read = reader_.read_folder(events());
  ASSERT_EQ(read.size(), 2u);
  const auto graph = reader_.graph(Reader::text(*read[1], "graph_def"));
  ASSERT_EQ(Reader::size(*graph, "node"), g.size());
  bool found = false;
  for (int i = 0; i < g.size(); ++i) {
    const auto& node = Reader::element(*graph, "node", i);
    if (Reader::text(node, "op") != "linear") continue;
    found = true;
    EXPECT_TRUE(Reader::text(node, "name").starts_with("enc/head")) << Reader::text(node, "name");
    ASSERT_GE(Reader::size(node, "input"), 2);
    EXPECT_EQ(Reader::text(node, "input", 0), "image");
    EXPECT_EQ(Reader::text(node, "input", 1), "enc/head/weight");
    bool shaped = false;
    for (int a = 0; a < Reader::size(node, "attr"); ++a) {
      const auto& entry = Reader::element(node, "attr", a);
      if (Reader::text(entry, "key") != "_output_shapes") continue;
      shaped = true;
      const auto& shape =
          Reader::element(Reader::message(Reader::message(entry, "value"), "list"), "shape", 0);
      ASSERT_EQ(Reader::size(shape, "dim"), 2);
      EXPECT_EQ(Reader::integer(Reader::element(shape, "dim", 0), "size"), -1);
      EXPECT_EQ(Reader::text(Reader::element(shape, "dim", 0), "name"), "B");
      EXPECT_EQ(Reader::integer(Reader::element(shape, "dim", 1), "size"), 3);
    }
    EXPECT_TRUE(shaped);
  }
  EXPECT_TRUE(found);
}

TEST_F(TensorboardTest, GoingOnDoublesNoStep) {
  {
    EventWriter writer = EventWriter::begin(events());
    write_steps(writer, 1, 9);
  }
  {
    EventWriter writer = EventWriter::resume(events(), 5);
    write_steps(writer, 6, 8);
  }
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  // A reader that has seen steps 6 to 9 is told that the run began again at 6.
  bool told = false;
  const auto read = reader_.read_folder(events());
  for (auto& e : read)
    if (Reader::has(*e, "session_log")) {
      told = true;
      EXPECT_EQ(Reader::integer(*e, "step"), 6);
      EXPECT_EQ(Reader::integer(Reader::message(*e, "session_log"), "status"), 1);
    }
  EXPECT_TRUE(told);
}

TEST_F(TensorboardTest, ARecordThatWasCutOffIsRemovedBeforeGoingOn) {
  std::filesystem::path path;
  {
    EventWriter writer = EventWriter::begin(events());
    write_steps(writer, 1, 4);
    path = writer.path();
  }
  const auto size = std::filesystem::file_size(path);
  for (const uintmax_t lost : {1, 5, 20}) {
    SCOPED_TRACE(lost);
    std::filesystem::resize_file(path, size - lost);
    {
      EventWriter writer = EventWriter::resume(events(), 10);
      write_steps(writer, 11, 11);
    }
    EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 11}));
    // Back to the whole file.
    std::filesystem::remove_all(events());
    EventWriter writer = EventWriter::begin(events());
    write_steps(writer, 1, 4);
    path = writer.path();
  }
}

TEST_F(TensorboardTest, GoingOnWithoutAFileBeginsOneAndEventsAreRemovedAlone) {
  { EventWriter writer = EventWriter::resume(events(), 3); }
  EXPECT_EQ(reader_.read_folder(events()).size(), 1u);
  write_file_atomically(events() / "notes.txt", std::string_view("mine"));
  remove_event_files(events());
  EXPECT_TRUE(std::filesystem::exists(events() / "notes.txt"));
  std::filesystem::remove(events() / "notes.txt");
  remove_event_files(events());
  EXPECT_FALSE(std::filesystem::exists(events()));
}

TEST_F(TensorboardTest, AFileThatIsNoEventFileIsAnErrorAndStaysAsItIs) {
  std::filesystem::create_directories(events());
  const std::string text = "this is no event file, but it has the name of one";
  write_file_atomically(events() / "events.out.tfevents.1.host", std::string_view(text));
  expect_error(ErrorCode::corrupt, "is no event file", [&] { EventWriter::resume(events(), 3); });
  EXPECT_EQ(read_text_file(events() / "events.out.tfevents.1.host", 1000), text);
}

TEST_F(TensorboardTest, AFolderThatCannotBeMadeIsAnError) {
  write_file_atomically(folder_ / "events", std::string_view("in the way"));
  expect_error(ErrorCode::io, "cannot be made", [&] { EventWriter::begin(events() / "more"); });
}

}  // namespace
}  // namespace fovea
