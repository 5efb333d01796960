#include "guest/init/kernel_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "guest/init/scheduler_exit.h"

namespace ktstr::guest {
namespace {

constexpr int kMaxRecords = 4096;
constexpr std::size_t kMaxMessages = 256;

}  // namespace

KernelLog::KernelLog() : fd_(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  if (fd_) ::lseek(fd_.get(), 0, SEEK_END);
}

std::vector<std::string> KernelLog::take_sched_ext() {
  std::vector<std::string> messages;
  // PRINTK_MESSAGE_MAX is 2,048 and a record is escaped up to fourfold.
  std::array<char, 8192> record{};
  for (int i = 0; fd_ && i < kMaxRecords && messages.size() < kMaxMessages; ++i) {
    const ssize_t count = ::read(fd_.get(), record.data(), record.size());
    if (count < 0 && errno == EPIPE) continue;  // records were overwritten; the next read goes on behind them
    if (count <= 0) break;
    if (auto message = sched_ext_message({record.data(), static_cast<std::size_t>(count)})) {
      messages.push_back(std::move(*message));
    }
  }
  return messages;
}

}  // namespace ktstr::guest
