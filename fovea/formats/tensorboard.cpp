#include "fovea/formats/tensorboard.h"

#include <errno.h>
#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"
#include "fovea/formats/tensorboard_message.h"

namespace fovea {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kFileVersion = "brain.Event:2";
constexpr std::string_view kFilePrefix = "events.out.tfevents.";
constexpr size_t kBuckets = 64;
constexpr size_t kHeadBytes = 12, kTailBytes = 4;
constexpr uint64_t kLongestEvent = uint64_t{1} << 30;

// Fields of the messages.
enum EventField { kWallTime = 1, kStep = 2, kVersion = 3, kGraph = 4, kSummary = 5, kSession = 7 };
enum ValueField { kTag = 1, kScalar = 2, kImage = 4, kHistogram = 5, kTensor = 8, kMetadata = 9 };

// CRC-32C (Castagnoli): polynomial 0x1edc6f41, bits reversed.
constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    table[i] = crc;
  }
  return table;
}

// Masked as TFRecord does it, so that a checksum of bytes that hold checksums stays a good one.
uint32_t masked_crc(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = make_crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

std::string little_endian(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}
uint64_t from_little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

bool is_event_file(const fs::directory_entry& entry) {
  std::error_code ignored;
  return entry.is_regular_file(ignored) &&
         entry.path().filename().string().starts_with(kFilePrefix);
}

// By name, which begins with the time.
std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(folder, ec))
    if (is_event_file(entry)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// The field `step` of an Event; a message that is none counts as step 0.
int64_t step_of(std::string_view event) {
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(event.data()),
                                            static_cast<int>(event.size()));
  while (const uint32_t tag = in.ReadTag()) {
    uint64_t number = 0;
    uint32_t length = 0;
    switch (tag & 7) {
      case 0:
        if (!in.ReadVarint64(&number)) return 0;
        if (tag >> 3 == kStep) return static_cast<int64_t>(number);
        break;
      case 1:
        if (!in.ReadLittleEndian64(&number)) return 0;
        break;
      case 2:
        if (!in.ReadVarint32(&length) || !in.Skip(static_cast<int>(length))) return 0;
        break;
      default:
        return 0;
    }
  }
  return 0;
}

// Cuts an event file before the first event of a later step and before a record that is not whole.
void cut_after(const fs::path& path, int64_t last_step) {
  uint64_t good = 0;
  uint64_t size = 0;
  {
    FileReader file(path);
    size = file.size();
    std::string head(kHeadBytes, '\0'), body;
    while (size - good >= kHeadBytes + kTailBytes) {
      file.read(std::as_writable_bytes(std::span(head)));
      const uint64_t length = from_little_endian(std::string_view(head).substr(0, 8));
      if (masked_crc(std::string_view(head).substr(0, 8)) !=
          from_little_endian(std::string_view(head).substr(8))) {
        if (good == 0)
          throw Error(ErrorCode::corrupt,
                      fmt::format("[tensorboard] {} is no event file; move it out of the folder",
                                  path.string()));
        break;
      }
      if (length > std::min(size - good - kHeadBytes - kTailBytes, kLongestEvent)) break;
      body.resize(length + kTailBytes);
      file.read(std::as_writable_bytes(std::span(body)));
      const std::string_view event = std::string_view(body).substr(0, length);
      if (masked_crc(event) != from_little_endian(std::string_view(body).substr(length))) break;
      if (step_of(event) > last_step) break;
      good += kHeadBytes + length + kTailBytes;
    }
  }
  if (good == size) return;
  std::error_code ec;
  fs::resize_file(path, good, ec);
  if (ec)
    throw Error(
        ErrorCode::io,
        fmt::format("[tensorboard] {} cannot be shortened: {} (make it writable, or move it away)",
                    path.string(), ec.message()));
}

}  // namespace

void EventSummary::add(std::string_view value) {
  ProtobufMessage summary;
  summary.bytes(1, value);
  bytes_ += summary.text();
}

void EventSummary::scalar(std::string_view tag, double value) {
  ProtobufMessage m;
  m.bytes(kTag, tag);
  m.real(kScalar, static_cast<float>(value));
  add(m.text());
}

void EventSummary::histogram(std::string_view tag, std::span<const float> values) {
  double least = INFINITY, most = -INFINITY, sum = 0, squares = 0;
  int64_t count = 0;
  for (const float f : values) {
    if (!std::isfinite(f)) continue;
    const double v = f;
    least = std::min(least, v);
    most = std::max(most, v);
    sum += v;
    squares += v * v;
    ++count;
  }
  if (count == 0) least = most = 0;
  // One value needs one bucket: of no width there would be many alike.
  const size_t buckets = most > least ? kBuckets : 1;
  const double width = (most - least) / static_cast<double>(buckets);
  std::vector<double> limits(buckets), counts(buckets);
  for (size_t i = 0; i < buckets; ++i)
    limits[i] = i + 1 == buckets ? most : least + width * static_cast<double>(i + 1);
  for (const float f : values)
    if (std::isfinite(f)) {
      const double place = width > 0 ? (static_cast<double>(f) - least) / width : 0;
      ++counts[std::min(static_cast<size_t>(place), buckets - 1)];
    }
  ProtobufMessage h, m;
  h.number(1, least);
  h.number(2, most);
  h.number(3, static_cast<double>(count));
  h.number(4, sum);
  h.number(5, squares);
  h.numbers(6, limits);
  h.numbers(7, counts);
  m.bytes(kTag, tag);
  m.message(kHistogram, h);
  add(m.text());
}

void EventSummary::image(std::string_view tag, const Image& image) {
  const std::vector<std::byte> png = encode_png(image);
  ProtobufMessage i, m;
  i.integer(1, image.height);
  i.integer(2, image.width);
  i.integer(3, image.channels);
  i.bytes(4, {reinterpret_cast<const char*>(png.data()), png.size()});
  m.bytes(kTag, tag);
  m.message(kImage, i);
  add(m.text());
}

void EventSummary::text(std::string_view tag, std::string_view markdown) {
  ProtobufMessage plugin, metadata, tensor, m;
  plugin.bytes(1, "text");
  metadata.message(1, plugin);
  metadata.integer(4, 2);                // DATA_CLASS_TENSOR
  tensor.integer(1, 7);                  // DT_STRING
  tensor.message(2, ProtobufMessage());  // a scalar
  tensor.bytes(8, markdown);
  m.bytes(kTag, tag);
  m.message(kTensor, tensor);
  m.message(kMetadata, metadata);
  add(m.text());
}

EventWriter::EventWriter(fs::path path, const char* mode)
    : path_(std::move(path)), file_(std::fopen(path_.c_str(), mode)) {
  if (!file_) fail();
}

EventWriter EventWriter::begin(const fs::path& folder) {
  std::error_code ec;
  fs::create_directories(folder, ec);
  if (ec)
    throw Error(
        ErrorCode::io,
        fmt::format(
            "[tensorboard] the folder {} cannot be made: {} (make the folder round it writable)",
            folder.string(), ec.message()));
  char host[256] = "localhost";
  if (gethostname(host, sizeof host - 1) != 0) std::strcpy(host, "localhost");
  const int64_t now = std::chrono::duration_cast<std::chrono::seconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  // Its number tells files of one second apart.
  fs::path path;
  for (int number = 0; path.empty() || fs::exists(path); ++number)
    path = folder / fmt::format("{}{:010}.{}.{}.{}", kFilePrefix, now, host, getpid(), number);
  EventWriter writer(path, "wbx");
  writer.record(0, kVersion, kFileVersion);
  writer.flush();
  return writer;
}

EventWriter EventWriter::resume(const fs::path& folder, int64_t last_step) {
  const std::vector<fs::path> files = event_files(folder);
  if (files.empty()) return begin(folder);
  for (const fs::path& path : files) cut_after(path, last_step);
  std::error_code ec;
  if (fs::file_size(files.back(), ec) == 0) {
    fs::remove(files.back(), ec);
    return begin(folder);
  }
  EventWriter writer(files.back(), "ab");
  // A TensorBoard that has read what was cut forgets it: SessionLog with the status START.
  ProtobufMessage start;
  start.integer(1, 1);
  writer.record(last_step + 1, kSession, start.text());
  writer.flush();
  return writer;
}

void EventWriter::fail() const {
  throw Error(ErrorCode::io, fmt::format("[tensorboard] {} cannot be written: {} ({})",
                                         path_.string(), std::strerror(errno),
                                         errno == ENOSPC || errno == EDQUOT || errno == EFBIG
                                             ? "free some space; --resume then goes on with it"
                                             : "make it writable; --resume then goes on with it"));
}

void EventWriter::record(int64_t step, int field, std::string_view message) {
  ProtobufMessage event;
  event.number(
      kWallTime,
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  event.integer(kStep, step);
  event.bytes(field, message);
  const std::string length = little_endian(event.text().size(), 8);
  const std::string whole = length + little_endian(masked_crc(length), 4) + event.text() +
                            little_endian(masked_crc(event.text()), 4);
  if (std::fwrite(whole.data(), 1, whole.size(), file_.get()) != whole.size()) fail();
}

void EventWriter::write(int64_t step, const EventSummary& summary) {
  record(step, kSummary, summary.bytes_);
}

void EventWriter::write_graph(const Graph& graph) {
  record(0, kGraph, graph_message(graph).text());
}

void EventWriter::flush() {
  if (std::fflush(file_.get()) != 0) fail();
}

void remove_event_files(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::path& path : event_files(folder)) fs::remove(path, ignored);
  if (fs::is_directory(folder, ignored)) fs::remove(folder, ignored);  // only where it is empty
}

}  // namespace fovea
