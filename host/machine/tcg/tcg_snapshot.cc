#include "host/machine/tcg/tcg_snapshot.h"

#include <sys/sendfile.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <charconv>
#include <string>

#include <fmt/core.h>

#include "common/quote.h"
#include "common/sparse_file.h"
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

Expected<void> copy_file(int from, int to) {
  struct stat st {};
  if (fstat(from, &st) != 0) return fail_errno(ErrorCode::kHost, "cannot look at the saved devices");
  if (auto allowed = check_file_limit(static_cast<std::uint64_t>(st.st_size)); !allowed) return allowed;
  for (off_t at = 0; at < st.st_size;) {
    const ssize_t sent = sendfile(to, from, &at, static_cast<std::size_t>(st.st_size - at));
    if (sent < 0 && errno != EINTR) return fail_errno(ErrorCode::kHost, "cannot write the saved devices");
    if (sent == 0) return fail(ErrorCode::kHost, "the saved devices have become less");
  }
  return {};
}

std::optional<std::uint64_t> parse_host_address(std::string_view answer) {
  constexpr std::string_view kBefore = ") is 0x";
  const std::size_t at = answer.find(kBefore);
  if (!answer.starts_with("Host virtual address for 0x") || at == std::string_view::npos) return std::nullopt;
  answer.remove_prefix(at + kBefore.size());
  std::uint64_t address = 0;
  const auto [end, error] = std::from_chars(answer.data(), answer.data() + answer.size(), address, 16);
  if (error != std::errc() || (end != answer.data() + answer.size() && *end != '\r' && *end != '\n'))
    return std::nullopt;
  return address;
}

Expected<std::vector<RamRegion>> private_ram(QmpClient& qmp, pid_t process,
                                             std::span<const std::uint64_t> node_bytes,
                                             std::chrono::nanoseconds limit) {
  std::vector<RamRegion> regions;
  for (const RamPiece& piece : pc_ram_layout(node_bytes)) {
    const auto answer = qmp.execute("human-monitor-command",
                                    {{"command-line", fmt::format("gpa2hva {:#x}", piece.gpa)}}, limit);
    if (!answer) return std::unexpected(answer.error());
    const std::string text = answer->is_string() ? answer->get<std::string>() : answer->dump();
    const auto address = parse_host_address(text);
    if (!address || *address > UINTPTR_MAX - piece.size)
      return fail(ErrorCode::kHost, fmt::format("QEMU does not say where guest RAM from {:#x} on is: {}",
                                                piece.gpa, quote(text)));
    // An address of that process: nobody here follows it.
    auto* const there = std::bit_cast<std::byte*>(*address);
    regions.push_back({.gpa = piece.gpa, .host = std::span(there, piece.size), .process = process});
  }
  return regions;
}

}  // namespace ktstr
