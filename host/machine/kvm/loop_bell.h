// LoopBell: lets other threads call the event loop.
#pragma once

#include <functional>
#include <memory>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr::kvm {

// An eventfd that the loop waits on. Rings that come before the loop has answered the last one are one.
class LoopBell {
 public:
  explicit LoopBell(boost::asio::io_context& loop);
  ~LoopBell() { close(); }
  LoopBell(const LoopBell&) = delete;
  LoopBell& operator=(const LoopBell&) = delete;

  // `on_ring` is called on the loop's thread, until close(); it may call close(). `eventfd`: one that
  // somebody else rings (KVM_IOEVENTFD), -1: a new one. Error kHost.
  Expected<void> open(int eventfd, std::function<void()> on_ring);
  // Any thread, while open.
  void ring();
  void close();

 private:
  void wait();

  boost::asio::posix::stream_descriptor stream_;
  UniqueFd ringer_;  // ring() may come while the loop's thread closes
  std::function<void()> on_ring_;
  std::shared_ptr<LoopBell*> self_;
};

}  // namespace ktstr::kvm
