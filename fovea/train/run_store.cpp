#include "fovea/train/run_store.h"

#include <fmt/format.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <span>
#include <thread>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"

namespace fovea {

namespace fs = std::filesystem;

namespace {

constexpr int kApplication = 0x466f7665;  // "Fove", in the file's header
constexpr int kFormat = 1;                // the file's user_version
constexpr int kPatienceMilliseconds = 5000;

constexpr const char* kSchema = R"(
CREATE TABLE runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL, folder TEXT NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL,
  began REAL NOT NULL, changed REAL NOT NULL, seconds REAL NOT NULL, recipe TEXT NOT NULL,
  seed INTEGER NOT NULL, threads INTEGER NOT NULL, parameters INTEGER NOT NULL,
  step INTEGER NOT NULL, total_steps INTEGER NOT NULL, epochs INTEGER NOT NULL,
  best_epoch INTEGER NOT NULL, "precision" TEXT NOT NULL, version TEXT NOT NULL,
  compiler TEXT NOT NULL, processor TEXT NOT NULL, host TEXT NOT NULL,
  process INTEGER NOT NULL, process_began INTEGER NOT NULL);
CREATE TABLE settings (
  run INTEGER NOT NULL REFERENCES runs, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE TABLE results (
  run INTEGER NOT NULL REFERENCES runs, name TEXT NOT NULL, value REAL,
  PRIMARY KEY (run, name)) WITHOUT ROWID;
CREATE TABLE points (
  run INTEGER NOT NULL REFERENCES runs, curve TEXT NOT NULL, step INTEGER NOT NULL,
  epoch INTEGER NOT NULL, value REAL,
  PRIMARY KEY (run, curve, step)) WITHOUT ROWID;
)";
constexpr std::string_view kColumns =
    "id, name, folder, state, error, began, changed, seconds, recipe, seed, threads, parameters, "
    "step, total_steps, epochs, best_epoch, \"precision\", version, compiler, processor, host, "
    "process, process_began";

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "";
}

// When a process began, in the kernel's ticks: a number that is used again is another process. 0
// where there is none.
int64_t process_began(int64_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  // The name stands in parentheses and may hold blanks; 20 fields lie between it and the time.
  size_t at = line.rfind(')');
  for (int field = 0; field < 20 && at != std::string::npos; ++field) at = line.find(' ', at + 1);
  return at == std::string::npos ? 0 : std::strtoll(line.c_str() + at, nullptr, 10);
}

RunStatus status_named(std::string_view name) {
  const auto names = enum_names(RunStatus{});
  const auto it = std::find(names.begin(), names.end(), name);
  return it == names.end() ? RunStatus::failed : static_cast<RunStatus>(it - names.begin());
}

// The open file. Every error of SQLite becomes an Error that names it.
class Database {
 public:
  Database(fs::path path, const std::string& name, int flags) : path_(std::move(path)) {
    sqlite3* database = nullptr;
    const int code = sqlite3_open_v2(name.c_str(), &database, flags, nullptr);
    database_.reset(database);
    check(code);
    sqlite3_busy_timeout(database, kPatienceMilliseconds);
  }

  [[noreturn]] void fail(ErrorCode code, const std::string& what) const {
    throw Error(code, fmt::format("[runs] {} {}", path_.string(), what));
  }
  // Whether the last complaint was that another process is at it.
  bool busy() const { return busy_; }
  void check(int code) const {
    if (code == SQLITE_OK || code == SQLITE_DONE || code == SQLITE_ROW) return;
    busy_ = false;
    const std::string reason = database_ ? sqlite3_errmsg(database_.get()) : sqlite3_errstr(code);
    switch (code & 0xff) {
      case SQLITE_NOTADB:
        fail(ErrorCode::corrupt, "is no record of runs; --runs names another file");
      case SQLITE_CORRUPT:
        fail(ErrorCode::corrupt,
             fmt::format("is damaged ({}); move it away and a new one is begun", reason));
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        busy_ = true;
        fail(ErrorCode::io, fmt::format("was held by another process for over {} s; try again",
                                        kPatienceMilliseconds / 1000));
      case SQLITE_FULL:
        fail(ErrorCode::io,
             "cannot grow: the disk is full (free some space; --runs names a file elsewhere)");
      default:
        fail(ErrorCode::io, fmt::format("cannot be used: {}; --runs names another file", reason));
    }
  }
  void execute(const char* sql) const {
    check(sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr));
  }
  sqlite3* get() const { return database_.get(); }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  };
  fs::path path_;
  std::unique_ptr<sqlite3, Close> database_;
  mutable bool busy_ = false;
};

// A statement with its arguments, in order; its rows, column by column.
class Statement {
 public:
  Statement(const Database& database, std::string_view sql) : database_(database) {
    database_.check(sqlite3_prepare_v2(database.get(), sql.data(), static_cast<int>(sql.size()),
                                       &statement_, nullptr));
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& operator<<(int64_t v) { return bound(sqlite3_bind_int64(statement_, ++last_, v)); }
  // A NaN is stored as NULL.
  Statement& operator<<(double v) { return bound(sqlite3_bind_double(statement_, ++last_, v)); }
  Statement& operator<<(std::string_view v) {
    return bound(sqlite3_bind_text64(statement_, ++last_, v.data(), v.size(), SQLITE_TRANSIENT,
                                     SQLITE_UTF8));
  }
  // False behind the last row.
  bool next() {
    column_ = 0;
    const int code = sqlite3_step(statement_);
    database_.check(code);
    return code == SQLITE_ROW;
  }
  // For statements without rows; ready for the next arguments then.
  void run() {
    next();
    sqlite3_reset(statement_);
    last_ = 0;
  }

  int64_t integer() { return sqlite3_column_int64(statement_, column_++); }
  double real() {
    const bool null = sqlite3_column_type(statement_, column_) == SQLITE_NULL;
    const double v = sqlite3_column_double(statement_, column_++);
    return null ? std::numeric_limits<double>::quiet_NaN() : v;
  }
  std::string text() {
    const auto* v = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column_));
    const int bytes = sqlite3_column_bytes(statement_, column_++);
    return v ? std::string(v, static_cast<size_t>(bytes)) : std::string();
  }

 private:
  Statement& bound(int code) {
    database_.check(code);
    return *this;
  }

  const Database& database_;
  sqlite3_stmt* statement_ = nullptr;
  int last_ = 0, column_ = 0;
};

// Whole or not at all. To write it takes the right to at once, so that no other writer comes
// between; to read it sees the file as it is at the first reading.
class Transaction {
 public:
  enum class Kind { write, read };
  explicit Transaction(const Database& database, Kind kind = Kind::write) : database_(database) {
    database_.execute(kind == Kind::write ? "BEGIN IMMEDIATE" : "BEGIN DEFERRED");
  }
  ~Transaction() {
    if (open_) sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit() {
    database_.execute("COMMIT");
    open_ = false;
  }

 private:
  const Database& database_;
  bool open_ = true;
};

int64_t number_of(const Database& database, std::string_view sql) {
  Statement s(database, sql);
  return s.next() ? s.integer() : 0;
}

// Throws unless the file is a record of runs that this program knows; an empty one is taken too.
// Returns whether it is empty.
bool check_format_now(const Database& database) {
  const int64_t application = number_of(database, "PRAGMA application_id");
  const int64_t format = number_of(database, "PRAGMA user_version");
  const int64_t tables = number_of(database, "SELECT count(*) FROM sqlite_master");
  if (application == 0 && format == 0 && tables == 0) return true;
  if (application != kApplication)
    database.fail(ErrorCode::corrupt,
                  "is a database of another program; --runs names another file");
  if (format > kFormat)
    database.fail(ErrorCode::unsupported,
                  fmt::format("has format {}, this program knows {}; use a newer fovea, or name "
                              "another file with --runs",
                              format, kFormat));
  return false;
}

// The same where no transaction is under way: another process may be making the tables meanwhile.
bool check_format(const Database& database) {
  const Transaction reading(database, Transaction::Kind::read);
  return check_format_now(database);
}

// Where there are none yet.
void make_tables(const Database& database) {
  if (!check_format(database)) return;
  // Readers go on while one writes, and a commit does not wait for the disk; a file system that
  // cannot do it keeps its own way.
  Statement(database, "PRAGMA journal_mode = WAL").next();
  Transaction whole(database);
  // Another process may have been faster.
  if (check_format_now(database)) {
    database.execute(kSchema);
    database.execute(fmt::format("PRAGMA application_id = {}", kApplication).c_str());
    database.execute(fmt::format("PRAGMA user_version = {}", kFormat).c_str());
  }
  whole.commit();
}

// The path as a URI that says that nobody changes the file: for folders that cannot be written,
// where the files that go with a write-ahead log cannot be made.
std::string immutable_uri(const fs::path& path) {
  std::string uri = "file:";
  for (const char c : fs::absolute(path).string())
    uri += c == '%' || c == '?' || c == '#' ? fmt::format("%{:02x}", static_cast<unsigned>(c))
                                            : std::string(1, c);
  return uri + "?immutable=1";
}

void read_columns(Statement& s, RunRecord& run) {
  run.id = s.integer();
  run.name = s.text();
  run.folder = s.text();
  run.state = status_named(s.text());
  run.error = s.text();
  run.began = s.real();
  run.changed = s.real();
  run.seconds = s.real();
  run.recipe = s.text();
  for (int64_t* field : {&run.seed, &run.threads, &run.parameters, &run.step, &run.total_steps,
                         &run.epochs, &run.best_epoch})
    *field = s.integer();
  for (std::string* field :
       {&run.precision, &run.version, &run.compiler, &run.processor, &run.host})
    *field = s.text();
  const int64_t process = s.integer(), began = s.integer();
  if (run.state == RunStatus::running && run.host == host_name() && process_began(process) != began)
    run.state = RunStatus::killed;
}

void read_results(const Database& database, RunRecord& run) {
  Statement s(database, "SELECT name, value FROM results WHERE run = ?");
  s << run.id;
  while (s.next()) {
    const std::string name = s.text();
    run.results[name] = s.real();
  }
}

std::string select_runs(std::string_view rest) {
  return fmt::format("SELECT {} FROM runs {}", kColumns, rest);
}

}  // namespace

struct RunStore::Impl {
  Database database;
};

RunStore::RunStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RunStore::RunStore(RunStore&&) noexcept = default;
RunStore::~RunStore() = default;

RunStore RunStore::open(const fs::path& path) {
  std::error_code ec;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), ec);
  if (ec)
    throw Error(
        ErrorCode::io,
        fmt::format("[runs] the folder {} cannot be made: {} (--runs names a file elsewhere)",
                    path.parent_path().string(), ec.message()));
  auto impl = std::make_unique<Impl>(
      Impl{Database(path, path.string(), SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)});
  // While another process makes the tables SQLite says at times that it is busy without waiting.
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMilliseconds);
  for (;;) {
    try {
      make_tables(impl->database);
      break;
    } catch (const Error&) {
      if (!impl->database.busy() || std::chrono::steady_clock::now() > end) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  impl->database.execute("PRAGMA synchronous = NORMAL");
  return RunStore(std::move(impl));
}

RunStore RunStore::open_existing(const fs::path& path) {
  if (!fs::exists(path))
    throw Error(ErrorCode::not_found,
                fmt::format("[runs] there is no record of runs in {}; fovea train makes one beside "
                            "the folder of its model, and --runs names one that is elsewhere",
                            path.string()));
  if (!fs::is_regular_file(path))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[runs] {} is no file; --runs names another", path.string()));
  const auto open_with = [&](const std::string& name, int flags) {
    auto impl = std::make_unique<Impl>(Impl{Database(path, name, flags)});
    if (check_format(impl->database))
      impl->database.fail(ErrorCode::corrupt, "is empty: no run was recorded in it");
    return RunStore(std::move(impl));
  };
  // A log of writes is read by one who may write.
  if (access(path.c_str(), W_OK) == 0 &&
      access(fs::absolute(path).parent_path().c_str(), W_OK) == 0)
    return open_with(path.string(), SQLITE_OPEN_READWRITE);
  return open_with(immutable_uri(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
}

int64_t RunStore::add(const RunRecord& run) {
  const Database& database = impl_->database;
  Transaction whole(database);
  Statement s(database,
              fmt::format("INSERT INTO runs ({}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
                          "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                          kColumns));
  s << run.name << run.folder << enum_name(run.state) << run.error << now() << now() << run.seconds
    << run.recipe << run.seed << run.threads << run.parameters << run.step << run.total_steps
    << run.epochs << run.best_epoch << run.precision << run.version << run.compiler << run.processor
    << host_name() << int64_t{getpid()} << process_began(getpid());
  s.run();
  const int64_t id = sqlite3_last_insert_rowid(database.get());
  Statement setting(database, "INSERT INTO settings VALUES (?, ?, ?)");
  for (const auto& [key, value] : run.settings) {
    setting << id << key << value;
    setting.run();
  }
  whole.commit();
  return id;
}

std::optional<int64_t> RunStore::find_in_folder(const std::string& folder) {
  Statement s(impl_->database, "SELECT id FROM runs WHERE folder = ? ORDER BY id DESC LIMIT 1");
  s << folder;
  if (!s.next()) return std::nullopt;
  return s.integer();
}

void RunStore::go_on(int64_t id, int64_t step, const RunRecord& run) {
  const Database& database = impl_->database;
  Transaction whole(database);
  Statement s(database,
              "UPDATE runs SET state = 'running', error = '', changed = ?, step = ?, threads = ?, "
              "version = ?, compiler = ?, processor = ?, host = ?, process = ?, process_began = ? "
              "WHERE id = ?");
  s << now() << step << run.threads << run.version << run.compiler << run.processor << host_name()
    << int64_t{getpid()} << process_began(getpid()) << id;
  s.run();
  Statement later(database, "DELETE FROM points WHERE run = ? AND step > ?");
  later << id << step;
  later.run();
  whole.commit();
}

void RunStore::update(const RunRecord& run,
                      const std::map<std::string, std::vector<RunPoint>>& points) {
  const Database& database = impl_->database;
  Transaction whole(database);
  Statement s(
      database,
      "UPDATE runs SET state = ?, error = ?, changed = ?, seconds = ?, step = ?, epochs = ?, "
      "best_epoch = ? WHERE id = ?");
  s << enum_name(run.state) << run.error << now() << run.seconds << run.step << run.epochs
    << run.best_epoch << run.id;
  s.run();
  Statement point(database, "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?)");
  for (const auto& [curve, all] : points)
    for (const RunPoint& p : all) {
      point << run.id << curve << p.step << p.epoch << p.value;
      point.run();
    }
  Statement result(database, "INSERT OR REPLACE INTO results VALUES (?, ?, ?)");
  for (const auto& [name, value] : run.results) {
    result << run.id << name << value;
    result.run();
  }
  whole.commit();
}

std::vector<RunRecord> RunStore::list() {
  std::vector<RunRecord> runs;
  Statement s(impl_->database, select_runs("ORDER BY id"));
  while (s.next()) read_columns(s, runs.emplace_back());
  for (RunRecord& run : runs) read_results(impl_->database, run);
  return runs;
}

std::optional<RunRecord> RunStore::load(int64_t id) {
  const Database& database = impl_->database;
  Statement s(database, select_runs("WHERE id = ?"));
  s << id;
  if (!s.next()) return std::nullopt;
  RunRecord run;
  read_columns(s, run);
  read_results(database, run);
  Statement setting(database, "SELECT key, value FROM settings WHERE run = ?");
  setting << id;
  while (setting.next()) {
    const std::string key = setting.text();
    run.settings[key] = setting.text();
  }
  Statement point(
      database, "SELECT curve, step, epoch, value FROM points WHERE run = ? ORDER BY curve, step");
  point << id;
  while (point.next()) {
    const std::string curve = point.text();
    RunPoint p;
    p.step = point.integer();
    p.epoch = point.integer();
    p.value = point.real();
    run.curves[curve].push_back(p);
  }
  return run;
}

}  // namespace fovea
