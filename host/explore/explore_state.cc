#include "host/explore/explore_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <optional>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/quote.h"
#include "host/explore/signature.h"

namespace ktstr {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kJournal = "explore.jsonl";
constexpr std::size_t kReadSize = std::size_t{64} << 10;

std::string new_name() {
  std::array<unsigned char, 3> random{};
  if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    const auto pid = static_cast<unsigned>(::getpid());
    random = {static_cast<unsigned char>(pid >> 16), static_cast<unsigned char>(pid >> 8),
              static_cast<unsigned char>(pid)};
  }
  return fmt::format("{:%Y%m%dT%H%M%SZ}-{:02x}{:02x}{:02x}-explore", fmt::gmtime(std::time(nullptr)),
                     random[0], random[1], random[2]);
}

// The members of an object, each of which must be there and of its type. After the first that is not, error()
// says which, and the values that were given are of no use.
class Members {
 public:
  explicit Members(const Json& object) : object_(object) {}

  std::string text(const char* name) {
    const Json* value = member(name);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    complain(name, "a string");
    return {};
  }
  std::uint64_t number(const char* name) {
    const Json* value = member(name);
    if (value != nullptr && value->is_number_unsigned()) return value->get<std::uint64_t>();
    complain(name, "a whole number");
    return 0;
  }
  std::vector<std::string> texts(const char* name) {
    const Json* value = member(name);
    const bool fits = value != nullptr && value->is_array() &&
                      std::all_of(value->begin(), value->end(), [](const Json& e) { return e.is_string(); });
    if (fits) return value->get<std::vector<std::string>>();
    complain(name, "a list of strings");
    return {};
  }
  const std::string& error() const { return error_; }
  void complain(const char* name, const char* wanted) {
    if (error_.empty()) error_ = fmt::format("'{}' should be {}", name, wanted);
  }

 private:
  const Json* member(const char* name) const {
    const auto at = object_.find(name);
    return at == object_.end() ? nullptr : &*at;
  }
  const Json& object_;
  std::string error_;
};

// No value: the text is not UTF-8.
std::optional<std::string> to_line(const Json& object) {
  try {
    return object.dump() + "\n";
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

Json header_json(const ExploreHeader& header) {
  return {{"version", ExploreState::kFormatVersion},
          {"argv", header.argv},
          {"run_arguments", header.run_arguments},
          {"out", header.out},
          {"working_directory", header.working_directory},
          {"first_seed", header.first_seed},
          {"seeds", header.seeds},
          {"budget_ns", header.budget_ns}};
}

Json record_json(const SeedRecord& record) {
  const std::string hash = record.signature.empty() ? "" : signature_hash(record.signature);
  return {{"seed", record.seed},         {"exit", record.exit_code}, {"verdict", record.verdict},
          {"signature", hash},           {"text", record.signature}, {"folder", record.folder},
          {"guest_ns", record.guest_ns}, {"wall_ms", record.wall_ms}};
}

// What is wrong, or nothing.
std::string read_header(const Json& object, ExploreHeader& header) {
  Members members(object);
  if (members.number("version") != ExploreState::kFormatVersion) {
    return members.error().empty() ? "it is of another version of ktstr-vm" : members.error();
  }
  header.argv = members.texts("argv");
  header.run_arguments = members.texts("run_arguments");
  header.out = members.text("out");
  header.working_directory = members.text("working_directory");
  header.first_seed = members.number("first_seed");
  header.seeds = members.number("seeds");
  header.budget_ns = members.number("budget_ns");
  return members.error();
}

// A kept folder lies below ours, whatever the journal says: "runs/17/20261121T034500Z-1a2b3c".
bool stays_inside(const std::filesystem::path& folder) {
  if (folder.is_absolute()) return false;
  return std::none_of(folder.begin(), folder.end(), [](const auto& part) { return part == ".."; });
}

std::string read_record(const Json& object, SeedRecord& record) {
  Members members(object);
  record.seed = members.number("seed");
  const std::uint64_t exit_code = members.number("exit");
  record.exit_code = static_cast<int>(exit_code & 0xff);
  record.verdict = members.text("verdict");
  const std::string hash = members.text("signature");
  record.signature = members.text("text");
  record.folder = members.text("folder");
  record.guest_ns = members.number("guest_ns");
  record.wall_ms = members.number("wall_ms");
  if (exit_code > 255) members.complain("exit", "at most 255");
  if (record.failed() == record.signature.empty())
    members.complain("text", "there for a failure, and only then");
  if (hash != (record.signature.empty() ? "" : signature_hash(record.signature))) {
    members.complain("signature", "the checksum of 'text'");
  }
  if (!stays_inside(record.folder)) members.complain("folder", "a path inside the exploration's folder");
  return members.error();
}

std::unexpected<Error> cannot(const char* what, const std::filesystem::path& path, int error) {
  return std::unexpected(
      Error::from_errno(ErrorCode::kHost, fmt::format("cannot {} '{}'", what, path.string()), error));
}

// One process at a time; the lock ends with the descriptor.
Expected<void> lock(int fd, const std::filesystem::path& folder) {
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
  if (errno != EWOULDBLOCK) return cannot("lock", folder / kJournal, errno);
  return fail(ErrorCode::kHost, fmt::format("another ktstr-vm explores in '{}'", folder.string()));
}

}  // namespace

Expected<ExploreState> ExploreState::create(const std::filesystem::path& results, ExploreHeader header) {
  const auto line = to_line(header_json(header));
  if (!line || line->size() > kMaxLine) {
    return fail(ErrorCode::kUsage, "explore needs arguments and a working directory in UTF-8, below 4 MiB");
  }
  std::error_code error;
  const std::filesystem::path path = std::filesystem::absolute(results) / new_name();
  std::filesystem::create_directories(path / "runs", error);
  if (error) return cannot("make the exploration's folder", path, error.value());
  const int flags = O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC;
  UniqueFd journal(::open((path / kJournal).c_str(), flags, 0666));
  if (!journal) return cannot("make", path / kJournal, errno);
  if (auto locked = lock(journal.get(), path); !locked) return std::unexpected(std::move(locked.error()));
  ExploreState state(path, std::move(journal));
  state.header_ = std::move(header);
  if (auto written = state.append(*line); !written) return std::unexpected(std::move(written.error()));
  return state;
}

Expected<ExploreState> ExploreState::resume(const std::filesystem::path& folder) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(folder, error);
  if (error) {
    return std::unexpected(Error::from_errno(
        ErrorCode::kUsage, fmt::format("cannot resume in '{}'", folder.string()), error.value()));
  }
  UniqueFd journal(
      ::open((path / kJournal).c_str(), O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (!journal && errno == ENOENT) {
    return fail(ErrorCode::kUsage,
                fmt::format("'{}' is no folder of an exploration: it has no {}", path.string(), kJournal));
  }
  if (!journal) return cannot("open", path / kJournal, errno);
  struct stat facts = {};
  if (::fstat(journal.get(), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return fail(ErrorCode::kUsage, fmt::format("'{}' is no file", (path / kJournal).string()));
  }
  if (auto locked = lock(journal.get(), path); !locked) return std::unexpected(std::move(locked.error()));
  ExploreState state(path, std::move(journal));
  if (auto loaded = state.load(); !loaded) return std::unexpected(std::move(loaded.error()));
  std::filesystem::create_directories(path / "runs", error);
  if (error) return cannot("make", path / "runs", error.value());
  return state;
}

Expected<void> ExploreState::load() {
  std::string pending;  // a line whose end was not read yet
  std::uint64_t number = 0;
  off_t whole = 0;  // bytes of complete lines
  std::vector<char> buffer(kReadSize);
  while (true) {
    const ssize_t got = ::read(journal_.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return cannot("read", path_ / kJournal, errno);
    if (got == 0) break;
    pending.append(buffer.data(), static_cast<std::size_t>(got));
    std::size_t start = 0;
    for (std::size_t end = 0; (end = pending.find('\n', start)) != std::string::npos; start = end + 1) {
      auto taken = take_line(std::string_view(pending).substr(start, end - start), ++number);
      if (!taken) return taken;
      whole += static_cast<off_t>(end + 1 - start);
    }
    pending.erase(0, start);
    if (pending.size() > kMaxLine) {
      return fail(ErrorCode::kUsage, fmt::format("{}:{}: the line is longer than {} bytes",
                                                 (path_ / kJournal).string(), number + 1, kMaxLine));
    }
  }
  if (number == 0) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}:1: the first line, which says what is explored, is not complete",
                            (path_ / kJournal).string()));
  }
  if (!pending.empty() && ::ftruncate(journal_.get(), whole) != 0) {
    return cannot("cut the torn last line off", path_ / kJournal, errno);
  }
  return {};
}

Expected<void> ExploreState::take_line(std::string_view line, std::uint64_t number) {
  const Json object = Json::parse(line, nullptr, false);
  std::string problem;
  SeedRecord record;
  if (object.is_discarded() || !object.is_object()) {
    problem = "this is no JSON object: " + quote(line);
  } else if (number == 1) {
    problem = read_header(object, header_);
  } else {
    problem = read_record(object, record);
    if (problem.empty() && findings_.knows(record.seed)) {
      problem = fmt::format("seed {} is there already", record.seed);
    }
  }
  if (!problem.empty()) {
    return fail(ErrorCode::kUsage,
                fmt::format("{}:{}: damaged journal: {}", (path_ / kJournal).string(), number, problem));
  }
  if (number > 1) findings_.add(record);
  return {};
}

Expected<void> ExploreState::append(std::string line) {
  ssize_t written = 0;
  do {
    written = ::write(journal_.get(), line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(line.size())) return {};
  // A short write leaves a torn line, which a resume cuts off.
  return cannot("append to", path_ / kJournal, written < 0 ? errno : ENOSPC);
}

Expected<bool> ExploreState::add(const SeedRecord& record) {
  const auto line = to_line(record_json(record));
  if (!line) return fail(ErrorCode::kHost, fmt::format("the record of seed {} is not UTF-8", record.seed));
  if (auto appended = append(*line); !appended) return std::unexpected(std::move(appended.error()));
  return findings_.add(record);
}

std::filesystem::path ExploreState::seed_folder(std::uint64_t seed) const {
  return path_ / "runs" / fmt::format("{}", seed);
}

Expected<void> ExploreState::write(const std::string& name, std::string_view content) const {
  const std::filesystem::path temporary = path_ / ("." + name + ".tmp");
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(::open(temporary.c_str(), flags, 0666));
  int error = fd ? 0 : errno;
  while (error == 0 && !content.empty()) {
    const ssize_t written = ::write(fd.get(), content.data(), content.size());
    if (written >= 0) {
      content.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  fd.reset();
  if (error == 0 && ::rename(temporary.c_str(), (path_ / name).c_str()) != 0) error = errno;
  if (error == 0) return {};
  ::unlink(temporary.c_str());
  return cannot("write", path_ / name, error);
}

}  // namespace ktstr
