#include "host/machine/tcg/qemu_finder.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>

#include <fmt/core.h>

#include "common/cache_folder.h"
#include "common/quote.h"
#include "host/machine/tcg/child_process.h"

namespace ktstr {
namespace {

constexpr const char* kBinary = "qemu-system-x86_64";
constexpr std::size_t kMaxOutput = 4096;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

bool executable(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
}

std::optional<std::string> search(std::string_view folders) {
  while (!folders.empty()) {
    const std::size_t colon = folders.find(':');
    const std::string_view folder = folders.substr(0, colon);
    folders = colon == std::string_view::npos ? std::string_view{} : folders.substr(colon + 1);
    // An empty element means the current folder (POSIX 8.3), where nobody wants a QEMU from.
    if (folder.empty()) continue;
    const auto path = std::filesystem::path(folder) / kBinary;
    if (executable(path)) return path.string();
  }
  return std::nullopt;
}

// A QEMU unpacked below some folder has its firmware beside it; one that is installed knows its own places.
std::vector<std::string> firmware_beside(const std::filesystem::path& binary) {
  const auto share = binary.parent_path().parent_path() / "share";
  std::vector<std::string> folders;
  if (share == "/usr/share") return folders;
  for (const char* name : {"qemu", "seabios"}) {
    std::error_code error;
    if (std::filesystem::is_directory(share / name, error)) folders.push_back((share / name).string());
  }
  return folders;
}

Expected<std::string> find_path(const QemuPlaces& places) {
  if (!places.override_path.empty()) {
    if (executable(places.override_path)) return places.override_path;
    return fail(ErrorCode::kHost,
                fmt::format("KTSTR_QEMU={} is no executable file", quote(places.override_path, 200)));
  }
  const auto cached = places.cache / "qemu/current/usr/bin" / kBinary;
  if (executable(cached)) return cached.string();
  if (auto found = search(places.search_path)) return *found;
  return fail(
      ErrorCode::kHost,
      fmt::format(
          "the tcg machine needs QEMU, and there is no {}: run scripts/fetch-qemu (version 10 for this "
          "user), install the package qemu-system-x86, or name it in KTSTR_QEMU",
          kBinary));
}

// What the program prints, at most kMaxOutput bytes of it, until it closes its output.
Expected<std::string> read_output(ChildProcess& child, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::string text;
  std::array<char, kMaxOutput> buffer;
  while (text.size() < kMaxOutput) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd readable{.fd = child.output().get(), .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || poll(&readable, 1, static_cast<int>(left.count())) == 0) {
      return fail(ErrorCode::kHost, fmt::format("`-version` took more than {} ms", limit.count()));
    }
    const ssize_t got = ::read(child.output().get(), buffer.data(), kMaxOutput - text.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

}  // namespace

QemuPlaces default_qemu_places() {
  return {.override_path = environment("KTSTR_QEMU"),
          .cache = cache_folder(),
          .search_path = environment("PATH")};
}

Expected<Qemu> parse_qemu_version(std::string_view output) {
  constexpr std::string_view kLead = "QEMU emulator version ";
  const std::size_t at = output.find(kLead);
  Qemu qemu;
  if (at != std::string_view::npos) {
    const std::string_view rest = output.substr(at + kLead.size());
    const std::string_view line = rest.substr(0, rest.find('\n'));
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), qemu.major);
    if (error == std::errc{} && end != line.data() + line.size() && *end == '.' && qemu.major > 0) {
      qemu.version = line;
      return qemu;
    }
  }
  return fail(ErrorCode::kHost, fmt::format("not a QEMU: `-version` says {}", quote(output, 200)));
}

Expected<Qemu> find_qemu(const QemuPlaces& places) {
  auto path = find_path(places);
  if (!path) return std::unexpected(std::move(path.error()));
  const std::string doing = fmt::format("asking {} for its version", quote(*path, 200));
  auto child = ChildProcess::spawn({*path, "-version"}, {});
  if (!child) return std::unexpected(std::move(child.error()));
  auto output = read_output(*child, places.limit);
  if (!output) return propagate(std::move(output.error()), doing);
  auto qemu = parse_qemu_version(*output);
  if (!qemu) return propagate(std::move(qemu.error()), doing);
  qemu->path = *path;
  qemu->firmware_folders = firmware_beside(*path);
  return qemu;
}

}  // namespace ktstr
