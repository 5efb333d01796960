#include "guest/init/scheduler_exit.h"

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

namespace ktstr::guest {
namespace {

constexpr std::size_t kMaxMessage = 1000;

bool contains_ignoring_case(std::string_view text, std::string_view word) {
  return std::search(text.begin(), text.end(), word.begin(), word.end(), [](char a, char b) {
           return std::tolower(static_cast<unsigned char>(a)) == b;
         }) != text.end();
}

// Words of libbpf, of the Rust and C start-up code, and of getopt(3).
bool names_a_cause(const std::string& line) {
  constexpr std::array<std::string_view, 8> kWords = {"error",  "fail",         "panicked", "invalid",
                                                      "cannot", "unrecognized", "denied",   "no such"};
  return std::any_of(kWords.begin(), kWords.end(),
                     [&line](std::string_view word) { return contains_ignoring_case(line, word); });
}

const std::string* last_line_with(const std::vector<std::string>& lines, std::string_view word) {
  const auto line = std::find_if(lines.rbegin(), lines.rend(),
                                 [word](const std::string& l) { return l.find(word) != std::string::npos; });
  return line == lines.rend() ? nullptr : &*line;
}

// The kernel says `BPF scheduler "x" disabled (<reason>)` and, where there is one, `x: <message>` after it
// (kernel/sched/ext.c, scx_root_disable / scx_ops_disable_workfn).
std::string kernel_message(const std::vector<std::string>& lines) {
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::size_t disabled = lines[i].find("\" disabled (");
    if (!lines[i].starts_with("BPF scheduler \"") || disabled == std::string::npos) continue;
    const std::string name = lines[i].substr(15, disabled - 15);
    std::string message = lines[i];
    if (i + 1 < lines.size() && lines[i + 1].starts_with(name + ": "))
      message += ": " + lines[i + 1].substr(name.size() + 2);
    return message;
  }
  return {};
}

// An end that somebody asked for, as the kernel words it (scx_exit_reason).
bool is_orderly(std::string_view message) {
  return message.find("(unregistered from user space)") != std::string_view::npos ||
         message.find("(unregistered from BPF)") != std::string_view::npos ||
         message.find("(unregistered from the main kernel)") != std::string_view::npos;
}

}  // namespace

std::string describe_wait_status(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    const int signal = WTERMSIG(wait_status);
    const char* name = ::sigdescr_np(signal);
    return "was killed by signal " + std::to_string(signal) +
           (name == nullptr ? "" : " (" + std::string(name) + ")");
  }
  return "exited with status " + std::to_string(WEXITSTATUS(wait_status));
}

int exit_code_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

std::string kernel_error(const std::vector<std::string>& kernel) {
  const std::string message = kernel_message(kernel);
  return is_orderly(message) ? std::string() : message;
}

std::string exit_message(const ExitEvidence& evidence) {
  const std::string kernel = kernel_message(evidence.kernel);
  std::string message;
  if (const std::string* line = last_line_with(evidence.output, "EXIT:")) {
    message = line->substr(line->find("EXIT:"));
  } else if (const std::string error = kernel_error(evidence.kernel); !error.empty()) {
    message = error;
  } else if (evidence.wait_status) {
    message = "the scheduler's process " + describe_wait_status(*evidence.wait_status);
    // A signal comes from outside, whatever the scheduler printed before.
    if (!evidence.output.empty() && WIFEXITED(*evidence.wait_status) && *evidence.wait_status != 0)
      message += ": " + evidence.output.back();
  } else if (!kernel.empty()) {
    message = kernel;
  } else {
    message = "the scheduler was disabled while its process went on; neither it nor the kernel says why";
  }
  return message.substr(0, kMaxMessage);
}

std::string start_failure_message(int wait_status, const std::vector<std::string>& output) {
  std::string message = "the scheduler " + describe_wait_status(wait_status) + " before it was attached";
  if (output.empty()) return message + ", without a word";
  const auto cause = std::find_if(output.rbegin(), output.rend(), names_a_cause);
  return (message + ": " + (cause == output.rend() ? output.back() : *cause)).substr(0, kMaxMessage);
}

std::optional<std::string> sched_ext_message(std::string_view record) {
  constexpr std::string_view kMarker = "sched_ext: ";
  const std::size_t text = record.find(';');
  if (text == std::string_view::npos) return std::nullopt;
  record.remove_prefix(text + 1);
  record = record.substr(0, record.find('\n'));
  if (!record.starts_with(kMarker)) return std::nullopt;
  return std::string(record.substr(kMarker.size(), kMaxMessage));
}

}  // namespace ktstr::guest
