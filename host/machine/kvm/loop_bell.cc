#include "host/machine/kvm/loop_bell.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace ktstr::kvm {

LoopBell::LoopBell(boost::asio::io_context& loop) : stream_(loop) {}

Expected<void> LoopBell::open(int eventfd, std::function<void()> on_ring) {
  UniqueFd fd(eventfd < 0 ? ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : fcntl(eventfd, F_DUPFD_CLOEXEC, 0));
  if (!fd) return fail_errno(ErrorCode::kHost, "cannot make an eventfd");
  ringer_.reset(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!ringer_) return fail_errno(ErrorCode::kHost, "cannot make an eventfd");
  boost::system::error_code error;
  stream_.assign(fd.get(), error);
  if (error)
    return std::unexpected(Error::from_errno(ErrorCode::kHost, "cannot watch an eventfd", error.value()));
  [[maybe_unused]] const int owned = fd.release();
  on_ring_ = std::move(on_ring);
  self_ = std::make_shared<LoopBell*>(this);
  wait();
  return {};
}

void LoopBell::wait() {
  stream_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                     [weak = std::weak_ptr(self_)](const boost::system::error_code& error) {
                       auto self = weak.lock();
                       if (error || !self) return;
                       LoopBell& bell = **self;
                       // Not kept over the call, which may close the bell, or destroy it with its function.
                       self.reset();
                       const auto on_ring = bell.on_ring_;
                       eventfd_t rings = 0;
                       static_cast<void>(eventfd_read(bell.stream_.native_handle(), &rings));
                       on_ring();
                       if (const auto still = weak.lock(); still && bell.stream_.is_open()) bell.wait();
                     });
}

void LoopBell::ring() {
  constexpr std::uint64_t kOne = 1;
  // Full means that there is a ring nobody has answered.
  [[maybe_unused]] const ssize_t written = write(ringer_.get(), &kOne, sizeof(kOne));
}

void LoopBell::close() {
  self_.reset();
  boost::system::error_code ignored;
  stream_.close(ignored);
}

}  // namespace ktstr::kvm
