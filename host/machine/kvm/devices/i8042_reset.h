// I8042Reset: the keyboard controller of a PC (ports 0x60 to 0x64), of which only the reset line is there.
//
// Its status says "a byte for you to read, none of yours waiting" for ever: Linux' probe (i8042_flush() of
// drivers/input/serio/i8042.c) gives up on a controller that does not run empty after 17 bytes, 35 exits,
// where an idle status costs it two time-outs of 10,000 reads; and kb_wait() of its reboot code goes on at
// once.
//
// Port 0x61 lies between: speaker gate and the output of timer 2, which always reads as expired, so that a
// calibration against it ends (and is refused as too short).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "common/error.h"
#include "host/machine/kvm/devices/bus.h"

namespace ktstr::v1 {
class I8042State;
}

namespace ktstr::kvm {

class I8042Reset : public BusDevice {
 public:
  static constexpr std::uint64_t kPorts = 5;

  // `reset` is called on the vCPU's thread at every reset command; Linux gives it up to ten times.
  explicit I8042Reset(std::function<void()> reset);

  std::string_view name() const override { return "i8042"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  // See device_state.cc.
  void save(v1::I8042State& to) const;
  Expected<void> load(const v1::I8042State& from);

 private:
  const std::function<void()> reset_;
  std::atomic<std::uint8_t> system_control_{0};
};

}  // namespace ktstr::kvm
