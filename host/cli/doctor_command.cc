#include "host/cli/doctor_command.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ktstr {
namespace {

constexpr std::size_t kUsualWidth = 100;
constexpr std::size_t kLeastWidth = 60;
// Mark, name, then the value: "  ok    /dev/kvm        opens ...".
constexpr std::size_t kMarkWidth = 6;
constexpr std::size_t kNameWidth = 16;

struct Mark {
  const char* text;
  const char* color;
};

Mark mark_of(FindingState state) {
  switch (state) {
    case FindingState::kGood:
      return {"ok", "\033[32m"};
    case FindingState::kNote:
      return {"-", ""};
    case FindingState::kWarning:
      return {"warn", "\033[33m"};
    case FindingState::kProblem:
      break;
  }
  return {"FAIL", "\033[31m"};
}

std::string painted(std::string_view text, std::string_view color, bool wanted) {
  if (!wanted || color.empty()) return std::string(text);
  return fmt::format("{}{}\033[0m", color, text);
}

// `text` broken at blanks into lines of at most `width`, the later ones indented; a longer word has a line of
// its own.
std::string wrapped(std::string_view text, std::size_t indent, std::size_t width) {
  const std::size_t room = width > indent + 20 ? width - indent : 20;
  std::string out;
  while (text.size() > room) {
    std::size_t end = text.rfind(' ', room);
    if (end == std::string_view::npos || end == 0) end = std::min(text.find(' ', 1), text.size());
    out += text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!text.empty()) out += "\n" + std::string(indent, ' ');
  }
  out += text;
  return out;
}

std::string finding_text(const Finding& finding, std::size_t width, bool color) {
  const Mark mark = mark_of(finding.state);
  const std::size_t indent = 2 + kMarkWidth + kNameWidth;
  // Blanks behind the colour, which has no width.
  std::string out = fmt::format("  {}{:{}}{:<{}}", painted(mark.text, mark.color, color), "",
                                kMarkWidth - std::string_view(mark.text).size(), finding.name, kNameWidth);
  // A long name, of a capability, has the line for itself.
  if (finding.name.size() >= kNameWidth) out += "\n" + std::string(indent, ' ');
  out += wrapped(finding.value, indent, width) + "\n";
  if (!finding.remedy.empty())
    out += fmt::format("{:{}}-> {}\n", "", indent, wrapped(finding.remedy, indent + 3, width));
  return out;
}

std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kUsualWidth;
  return std::clamp<std::size_t>(size.ws_col, kLeastWidth, kUsualWidth);
}

nlohmann::ordered_json limit_json(std::uint64_t value) {
  if (value == UINT64_MAX) return nullptr;
  return value;
}

}  // namespace

void add_doctor_options(CLI::App& command, DoctorRequest& request) {
  command.add_flag("--json", request.json, "Print JSON");
}

std::string doctor_text(const HostReport& report, std::size_t width, bool color) {
  std::string out = wrapped(report.host, 2, width) + "\n";
  for (const FindingGroup& group : report.groups) {
    out += "\n" + painted(group.title, "\033[1m", color) + "\n";
    for (const Finding& finding : group.findings) out += finding_text(finding, width, color);
  }
  out += "\n" + painted("Result", "\033[1m", color) + "\n";
  const auto can = [&](const char* accel, bool runs) {
    const Mark mark = mark_of(runs ? FindingState::kGood : FindingState::kNote);
    out += fmt::format("  {}{:{}}--accel {}     {}\n", painted(mark.text, mark.color, color), "",
                       kMarkWidth - std::string_view(mark.text).size(), accel,
                       runs ? "can run" : "cannot run here");
  };
  can("kvm", report.kvm_can_run);
  can("tcg", report.tcg_can_run);
  const std::string choice = report.automatic
                                 ? fmt::format("chooses {}: {}", accel_name(*report.automatic), report.reason)
                                 : fmt::format("would fail: {}", report.reason);
  out += finding_text(
      {"--accel auto", choice, report.automatic ? FindingState::kGood : FindingState::kProblem, ""}, width,
      color);
  return out;
}

std::string doctor_json(const HostReport& report, const HostFacts& facts) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["can_run"] = report.can_run();
  json["accel"] = {{"kvm", report.kvm_can_run},
                   {"tcg", report.tcg_can_run},
                   {"auto", report.automatic ? Json(accel_name(*report.automatic)) : Json(nullptr)},
                   {"reason", report.reason}};
  json["host"] = report.host;
  json["findings"] = Json::array();
  for (const FindingGroup& group : report.groups) {
    for (const Finding& finding : group.findings) {
      json["findings"].push_back({{"group", group.title},
                                  {"name", finding.name},
                                  {"value", finding.value},
                                  {"state", finding_state_name(finding.state)},
                                  {"remedy", finding.remedy}});
    }
  }
  json["kvm_capabilities"] = Json::array();
  for (const auto& [capability, value] : facts.kvm.capabilities) {
    json["kvm_capabilities"].push_back({{"name", capability->name},
                                        {"value", value},
                                        {"required", capability->required},
                                        {"lost_without", capability->lost_without}});
  }
  json["facts"] = {{"kernel", facts.kernel_release},
                   {"cpu", facts.cpu_model},
                   {"cpus_online", facts.cpus_online},
                   {"cpus_usable", facts.cpus_usable},
                   {"clock_source", facts.clock_source},
                   {"kvm_api_version", facts.virtualization.kvm_api_version},
                   {"kvm_max_vcpus", facts.kvm.max_vcpus},
                   {"kvm_modules", facts.kvm.modules},
                   {"kvm_nested", facts.kvm.nested},
                   {"qemu", facts.qemu ? Json(facts.qemu->path) : Json(nullptr)},
                   {"qemu_version", facts.qemu ? Json(facts.qemu->version) : Json(nullptr)},
                   {"memory_total", facts.memory_total},
                   {"memory_available", limit_json(facts.memory_available)},
                   {"huge_page_size", facts.huge_pages.size},
                   {"huge_pages_total", facts.huge_pages.total},
                   {"huge_pages_free", facts.huge_pages.free},
                   {"transparent_huge_pages", facts.huge_pages.transparent},
                   {"limit_address_space", limit_json(facts.limits.address_space)},
                   {"limit_file_size", limit_json(facts.limits.file_size)},
                   {"limit_open_files", limit_json(facts.limits.open_files)},
                   {"limit_locked_memory", limit_json(facts.limits.locked_memory)},
                   {"cgroup", facts.cgroup.path},
                   {"cgroup_memory_max", limit_json(facts.cgroup.memory_max)},
                   {"cpu_flags", facts.cpu_flags}};
  // Whatever a processor or a mount calls itself, the output is JSON.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int doctor_command(const DoctorRequest& request) {
  const HostFacts facts = gather_host_facts();
  const HostReport report = judge_host(facts);
  const bool color = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  fmt::print("{}", request.json ? doctor_json(report, facts) : doctor_text(report, terminal_width(), color));
  return report.can_run() ? 0 : static_cast<int>(ErrorCode::kHost);
}

}  // namespace ktstr
