#include "host/machine/tcg/tcg_snapshot.h"

#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <string>

#include <fmt/core.h>

#include "host/machine/tcg/pc_memory.h"
#include "host/machine/tcg/qemu_command.h"

namespace ktstr {
namespace {

using Clock = std::chrono::steady_clock;

std::string state_uri() {
  return "file:" + fd_path(QemuFd::kState);
}

Expected<void> leave_out_ram(QmpClient& qmp, std::chrono::nanoseconds limit) {
  const auto set = qmp.execute(
      "migrate-set-capabilities",
      {{"capabilities", nlohmann::json::array({{{"capability", "x-ignore-shared"}, {"state", true}}})}},
      limit);
  if (!set) return std::unexpected(set.error());
  return {};
}

std::string text_of(const nlohmann::json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// Each question is answered by the main loop, which the migration needs as well: asking is waiting.
Expected<void> await_completion(QmpClient& qmp, std::chrono::nanoseconds limit) {
  const auto deadline = Clock::now() + limit;
  while (true) {
    const auto answer = qmp.execute("query-migrate", nlohmann::json::object(), limit);
    if (!answer) return std::unexpected(answer.error());
    const std::string status = text_of(*answer, "status");
    if (status == "completed") return {};
    if (status == "failed" || status == "cancelled") {
      const std::string why = text_of(*answer, "error-desc");
      return fail(ErrorCode::kHost, fmt::format("QEMU: {}", why.empty() ? "it " + status : why));
    }
    if (Clock::now() >= deadline)
      return std::unexpected(Error::from_errno(
          ErrorCode::kHost, fmt::format("QEMU does not come to an end (status '{}')", status), ETIMEDOUT));
  }
}

Expected<void> send_all(int from, off_t offset, off_t end, int to) {
  while (offset < end) {
    const ssize_t sent = sendfile(to, from, &offset, static_cast<std::size_t>(end - offset));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return fail_errno(ErrorCode::kHost, "cannot write guest RAM to a file");
    if (sent == 0) return fail(ErrorCode::kHost, "guest RAM is shorter than it was");
  }
  return {};
}

}  // namespace

Expected<void> save_devices(QmpClient& qmp, std::chrono::nanoseconds limit) {
  if (auto set = leave_out_ram(qmp, limit); !set) return set;
  const auto begun = qmp.execute("migrate", {{"uri", state_uri()}}, limit);
  if (!begun) return propagate(Error(begun.error()), "saving the guest's devices");
  auto done = await_completion(qmp, limit);
  if (!done) return propagate(std::move(done.error()), "saving the guest's devices");
  return {};
}

Expected<void> load_devices(QmpClient& qmp, std::chrono::nanoseconds limit) {
  if (auto set = leave_out_ram(qmp, limit); !set) return set;
  const auto begun = qmp.execute("migrate-incoming", {{"uri", state_uri()}}, limit);
  if (!begun) return propagate(Error(begun.error()), "loading the guest's devices");
  auto done = await_completion(qmp, limit);
  if (!done) return propagate(std::move(done.error()), "loading the guest's devices");
  return {};
}

Expected<void> copy_files(std::span<const UniqueFd> from, std::span<const std::uint64_t> sizes, int to) {
  off_t base = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto size = static_cast<off_t>(sizes[i]);
    for (off_t data = lseek(from[i].get(), 0, SEEK_DATA); data >= 0 && data < size;) {
      const off_t hole = std::min(lseek(from[i].get(), data, SEEK_HOLE), size);
      if (hole < 0 || lseek(to, base + data, SEEK_SET) < 0)
        return fail_errno(ErrorCode::kHost, "cannot find the data of guest RAM");
      if (auto sent = send_all(from[i].get(), data, hole, to); !sent) return sent;
      data = lseek(from[i].get(), hole, SEEK_DATA);
    }
    base += size;
  }
  if (ftruncate(to, base) != 0)
    return fail_errno(ErrorCode::kHost, "cannot give the file of guest RAM its size");
  return {};
}

std::optional<MapsLine> parse_maps_line(std::string_view line) {
  MapsLine parsed;
  const auto number = [&line](std::uint64_t& to, int base, char separator) {
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), to, base);
    if (error != std::errc()) return false;
    line.remove_prefix(static_cast<std::size_t>(end - line.data()));
    if (line.empty() || line.front() != separator) return false;
    line.remove_prefix(1);
    return true;
  };
  const auto word = [&line] {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return false;
    line.remove_prefix(space + 1);
    return true;
  };
  const bool whole = number(parsed.begin, 16, '-') && number(parsed.end, 16, ' ') && word() /* rwxp */ &&
                     number(parsed.offset, 16, ' ') && word() /* device */;
  if (!whole || parsed.end <= parsed.begin) return std::nullopt;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), parsed.inode, 10);
  if (error != std::errc() || (end != line.data() + line.size() && *end != ' ')) return std::nullopt;
  return parsed;
}

Expected<std::vector<RamRegion>> private_ram(pid_t process, int file,
                                             std::span<const std::uint64_t> node_bytes) {
  struct stat st {};
  if (fstat(file, &st) != 0) return fail_errno(ErrorCode::kHost, "cannot look at the file of guest RAM");
  // A mapping that was changed in parts (madvise) has several lines.
  std::vector<MapsLine> lines;
  std::ifstream maps(fmt::format("/proc/{}/maps", process));
  for (std::string line; std::getline(maps, line);) {
    const auto parsed = parse_maps_line(line);
    if (!parsed || parsed->inode != st.st_ino) continue;
    const bool goes_on = !lines.empty() && lines.back().end == parsed->begin &&
                         lines.back().offset + (lines.back().end - lines.back().begin) == parsed->offset;
    if (goes_on) {
      lines.back().end = parsed->end;
    } else {
      lines.push_back(*parsed);
    }
  }
  std::vector<std::uint64_t> starts;  // of each node, in the file
  std::uint64_t next = 0;
  for (const std::uint64_t bytes : node_bytes) {
    starts.push_back(next);
    next += bytes;
  }
  std::vector<RamRegion> regions;
  for (const RamPiece& piece : pc_ram_layout(node_bytes)) {
    const std::uint64_t offset = starts[piece.node] + piece.file_offset;
    const auto there = std::ranges::find_if(lines, [&](const MapsLine& line) {
      return offset >= line.offset && offset - line.offset + piece.size <= line.end - line.begin;
    });
    if (there == lines.end())
      return fail(ErrorCode::kHost,
                  fmt::format("process {} has not mapped guest RAM from {:#x} on", process, piece.gpa));
    // An address of that process: nobody here follows it.
    auto* const address = reinterpret_cast<std::byte*>(there->begin + (offset - there->offset));
    regions.push_back({.gpa = piece.gpa, .host = std::span(address, piece.size), .process = process});
  }
  return regions;
}

}  // namespace ktstr
