#include "host/machine/tcg/stream_port.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

#include <fmt/core.h>

#include "common/units.h"

namespace ktstr {
namespace {

constexpr std::size_t kChunk = std::size_t{64} << 10;
constexpr std::size_t kPerTurn = 4 * kChunk;

}  // namespace

Expected<std::shared_ptr<StreamPort>> StreamPort::create(boost::asio::io_context& loop, UniqueFd fd,
                                                         Receiver receiver) {
  std::shared_ptr<StreamPort> port(new StreamPort(loop, std::move(receiver)));
  boost::system::error_code error;
  port->stream_.assign(fd.get(), error);
  if (!error) {
    // The descriptor belongs to stream_ from here on.
    (void)fd.release();
    port->stream_.non_blocking(true, error);
  }
  if (error) return fail(ErrorCode::kHost, fmt::format("cannot watch a descriptor: {}", error.message()));
  return port;
}

void StreamPort::wait_readable() {
  if (ended_ || !stream_.is_open()) return;
  stream_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       if (error) return;
                       self->drain(kPerTurn);
                       self->wait_readable();
                     });
}

std::size_t StreamPort::drain(std::size_t limit) {
  const auto self = shared_from_this();  // the receiver may let go of us
  std::array<std::byte, kChunk> chunk;
  std::size_t total = 0;
  while (total < limit && !ended_ && stream_.is_open()) {
    const ssize_t got = ::read(stream_.native_handle(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got <= 0) {
      ended_ = true;
      break;
    }
    total += static_cast<std::size_t>(got);
    receiver_(std::span(chunk).first(static_cast<std::size_t>(got)));
  }
  return total;
}

Expected<void> StreamPort::send(std::string_view bytes) {
  if (!stream_.is_open()) return fail(ErrorCode::kHost, "cannot send to the guest: the machine does not run");
  if (bytes.size() > kMaxQueue - queued()) {
    return fail(ErrorCode::kHost,
                fmt::format("the guest has left {} unread, {} more do not fit into the queue of {}",
                            format_size(queued()), format_size(bytes.size()), format_size(kMaxQueue)));
  }
  // Drop the written part once it is the larger half, so that the cost stays linear.
  if (sent_ > queue_.size() / 2) {
    queue_.erase(0, sent_);
    sent_ = 0;
  }
  queue_.append(bytes);
  if (writing_) return {};
  if (!flush()) return fail(ErrorCode::kHost, "cannot send to the guest: the other end is closed");
  wait_writable();
  return {};
}

bool StreamPort::flush() {
  while (queued() > 0) {
    const ssize_t sent =
        ::send(stream_.native_handle(), queue_.data() + sent_, queued(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN;
    sent_ += static_cast<std::size_t>(sent);
  }
  queue_.clear();
  sent_ = 0;
  return true;
}

void StreamPort::wait_writable() {
  if (queued() == 0 || !stream_.is_open()) return;
  writing_ = true;
  stream_.async_wait(boost::asio::posix::descriptor_base::wait_write,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       self->writing_ = false;
                       if (error || !self->stream_.is_open()) return;
                       if (self->flush()) self->wait_writable();
                     });
}

void StreamPort::close() {
  boost::system::error_code ignored;
  stream_.close(ignored);
}

}  // namespace ktstr
