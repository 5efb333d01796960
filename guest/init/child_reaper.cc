#include "guest/init/child_reaper.h"

#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <string_view>

#include "common/read_file.h"

namespace ktstr::guest {
namespace {

// Enough for 100,000 children.
constexpr std::size_t kMaxChildList = std::size_t{1} << 20;

}  // namespace

Expected<ChildReaper> ChildReaper::create() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGCHLD);
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
    return fail_errno(ErrorCode::kHost, "cannot block SIGCHLD");
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot make a signalfd");
  return ChildReaper(std::move(fd));
}

void ChildReaper::on_signal() {
  // Signals coalesce, so what is read says nothing but "look".
  std::array<signalfd_siginfo, 16> infos;
  while (::read(signals_.get(), infos.data(), sizeof infos) > 0) {
  }
  reap();
}

void ChildReaper::reap() {
  while (true) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    if (adopted_.contains(info.si_pid)) {
      reap_listed();
      return;
    }
    if (::waitpid(info.si_pid, nullptr, WNOHANG) != info.si_pid) return;
    ++reaped_;
  }
}

// Asks for each child by itself. Without CONFIG_PROC_CHILDREN orphans wait until the adopted one in front is
// reaped.
void ChildReaper::reap_listed() {
  const std::string pid = std::to_string(::getpid());
  const Expected<std::string> list = read_file("/proc/" + pid + "/task/" + pid + "/children", kMaxChildList);
  if (!list) return;
  std::string_view rest = *list;
  while (!rest.empty()) {
    int child = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), child);
    if (error != std::errc{}) return;
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    while (rest.starts_with(' ') || rest.starts_with('\n')) rest.remove_prefix(1);
    if (!adopted_.contains(child) && ::waitpid(child, nullptr, WNOHANG) == child) ++reaped_;
  }
}

}  // namespace ktstr::guest
