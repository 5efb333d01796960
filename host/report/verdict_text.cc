#include "host/report/verdict_text.h"

#include <algorithm>

#include <fmt/format.h>

namespace ktstr {
namespace {

constexpr int kBisectGood = 0;
constexpr int kBisectBad = 1;
constexpr int kBisectSkip = 125;
constexpr int kBisectStop = 128;

std::string or_dash(const std::string& text) {
  return text.empty() ? "-" : text;
}

}  // namespace

std::string verdict_name(ktstr::v1::Verdict verdict) {
  std::string name = ktstr::v1::Verdict_Name(verdict);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '_' ? '-' : std::tolower(c); });
  return name;
}

int exit_code(ktstr::v1::Verdict verdict, bool bisect, bool bisect_boot, bool interrupted) {
  if (!bisect) return static_cast<int>(verdict);
  if (interrupted) return kBisectStop;
  switch (verdict) {
    case ktstr::v1::PASS:
      return kBisectGood;
    case ktstr::v1::FAIL:
    case ktstr::v1::KERNEL_PANIC:
    case ktstr::v1::SCHEDULER_DIED:
    case ktstr::v1::TIMEOUT:
      return kBisectBad;
    case ktstr::v1::USAGE:
      return kBisectStop;
    case ktstr::v1::NO_BOOT:
      return bisect_boot ? kBisectBad : kBisectSkip;
    default:
      return kBisectSkip;
  }
}

std::string final_line(const ktstr::v1::RunResult& result, std::string_view result_path) {
  const std::string reason = result.reasons_size() > 0 ? result.reasons(0).kind() : "";
  return fmt::format("ktstr-vm: verdict={} reason={} kernel={} buildid={} result={}",
                     verdict_name(result.verdict()), or_dash(reason),
                     or_dash(result.plan().kernel().release()), or_dash(result.plan().kernel().build_id()),
                     result_path.empty() ? "-" : result_path);
}

}  // namespace ktstr
