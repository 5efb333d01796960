// FrameTransport: what carries PID 1's frames.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/unique_fd.h"
#include "guest/scenario/supervisor.h"

namespace ktstr::guest {

class FrameTransport {
 public:
  virtual ~FrameTransport() = default;
  // As write(2) and read(2) on a non-blocking descriptor.
  virtual ssize_t write(std::span<const char> bytes) = 0;
  virtual ssize_t read(std::span<std::byte> bytes) = 0;
  // Waits until something can be written; false when `deadline` has come.
  virtual bool wait_writable(MonotonicTime deadline) = 0;
  // Writes wait until the host has taken the bytes.
  virtual void set_blocking(bool on) = 0;
  // Tells the crash reporter where frames go.
  virtual void announce_to_crash_reporter() const = 0;
  // What to poll; -1: nothing ever comes in, and everything can be written at once.
  virtual int fd() const = 0;
  bool one_way() const { return fd() < 0; }
};

// An open virtio-console port (or a socket, in tests).
//
// One write(2) takes at most 32 KiB (port_fops_write); O_NONBLOCK gives EAGAIN while the ring is full; a
// write without O_NONBLOCK returns when the host has consumed the buffer.
class PortTransport final : public FrameTransport {
 public:
  explicit PortTransport(UniqueFd fd);
  ssize_t write(std::span<const char> bytes) override;
  ssize_t read(std::span<std::byte> bytes) override;
  bool wait_writable(MonotonicTime deadline) override;
  void set_blocking(bool on) override;
  void announce_to_crash_reporter() const override;
  int fd() const override { return fd_.get(); }

 private:
  UniqueFd fd_;
};

// The debug port.
class DebugPortTransport final : public FrameTransport {
 public:
  explicit DebugPortTransport(std::uint16_t port) : port_(port) {}
  ssize_t write(std::span<const char> bytes) override;
  ssize_t read(std::span<std::byte> bytes) override;
  bool wait_writable(MonotonicTime /*deadline*/) override { return true; }
  void set_blocking(bool /*on*/) override {}
  void announce_to_crash_reporter() const override;
  int fd() const override { return -1; }

 private:
  std::uint16_t port_;
};

}  // namespace ktstr::guest
