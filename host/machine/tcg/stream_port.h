// StreamPort: one byte stream between a machine and the event loop.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

// Reads a descriptor (pipe or stream socket) from the event loop and hands the bytes on; on a socket it also
// writes, with a bounded queue. Reads are bounded per turn of the loop, so that a flooding guest does not
// starve the rest. The receiver may call close.
class StreamPort : public std::enable_shared_from_this<StreamPort> {
 public:
  using Receiver = std::function<void(std::span<const std::byte>)>;
  // Most bytes that wait for the other side to read.
  static constexpr std::size_t kMaxQueue = std::size_t{64} << 20;

  static Expected<std::shared_ptr<StreamPort>> create(boost::asio::io_context& loop, UniqueFd fd,
                                                      Receiver receiver);

  // Begins to read.
  void start() { wait_readable(); }
  // Reads at once what is there, at most `limit` bytes (rounded up to a chunk); returns how many it handed
  // on.
  std::size_t drain(std::size_t limit);
  // Queues bytes. Error kHost when more than kMaxQueue would wait, or when the other side is gone.
  Expected<void> send(std::string_view bytes);
  // Nothing is received or sent afterwards. Idempotent.
  void close();

 private:
  explicit StreamPort(boost::asio::io_context& loop, Receiver receiver)
      : stream_(loop), receiver_(std::move(receiver)) {}

  void wait_readable();
  void wait_writable();
  // Writes what the socket takes; false when the other side is gone.
  bool flush();
  std::size_t queued() const { return queue_.size() - sent_; }

  boost::asio::posix::stream_descriptor stream_;
  Receiver receiver_;
  std::string queue_;
  std::size_t sent_ = 0;  // bytes of queue_ already written
  bool writing_ = false;
  bool ended_ = false;  // nothing more comes
};

}  // namespace ktstr
