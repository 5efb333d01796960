// GdbClient: our end of QEMU's gdb stub (the remote serial protocol, GDB manual, appendix "Remote Protocol").
//
// A packet is '$' payload '#' and two hex digits, the sum of the payload's bytes. The receiver answers '+',
// or '-' to have it once more; then comes the packet with the answer. In an answer "x*c" stands for x
// repeated c - 29 more times, and "}c" for the byte c ^ 0x20.
//
// There are two ways to stop a guest by accident. QEMU takes *any* byte that comes while the guest runs for a
// wish to stop it, and says nothing (gdbstub/gdbstub.c, gdb_read_byte), so this client must be asked only
// while the guest is stopped. And an acknowledgement is a byte as well: it could still be on its way when the
// guest is let go over another connection. So this client never says '+'. QEMU does not miss it: the '$' of
// the next packet makes it forget the answer it would repeat (same place). The last byte QEMU got from us is
// thus always part of a command that it has answered.
//
// QEMU has a hostile guest inside, so nothing it says is believed: packets are bounded, before and after
// unpacking, and so is what lies between them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

class GdbClient {
 public:
  static constexpr std::size_t kMaxPacket = std::size_t{16} << 10;   // bytes between '$' and '#'
  static constexpr std::size_t kMaxPayload = std::size_t{64} << 10;  // unpacked
  static constexpr std::size_t kMaxNoise = std::size_t{1} << 20;     // bytes before an answer that are not it
  static constexpr int kMaxRepeats = 3;                              // of a packet, in either direction

  // `socket` is a connected stream socket; it is made non-blocking.
  explicit GdbClient(UniqueFd socket);

  // All calls need a stopped guest. Errors (kHost): errno ETIMEDOUT when `limit` passed, ECONNRESET when the
  // peer is gone, EPROTO when it does not speak the protocol; after these every further call fails, because
  // answers do not say what they answer. Without errno: QEMU refused.

  // Sends one command, of printable characters but '$', '#', '}' and '*', and returns the answer, unpacked.
  // Reports of a stop that nobody waits for are skipped: older QEMU (7.2) sends one at every stop.
  Expected<std::string> execute(std::string_view command, std::chrono::nanoseconds limit);

  // Hardware breakpoints, for all vCPUs and address spaces. QEMU counts: two inserts need two removes.
  Expected<void> insert_breakpoint(std::uint64_t address, std::chrono::nanoseconds limit);
  Expected<void> remove_breakpoint(std::uint64_t address, std::chrono::nanoseconds limit);

  // Timers of the guest run during steps, as they do with one thread for each vCPU anyway. Otherwise the
  // `hlt` of a QEMU with a single thread never ends. Interrupts are held back all the same.
  Expected<void> keep_timers_in_steps(std::chrono::nanoseconds limit);

  // Lets vCPU `cpu` alone execute one instruction, with interrupts held back, and waits for the stop after
  // it. Breakpoints do not count meanwhile. It can be that the vCPU has executed nothing: guest_traps.h.
  Expected<void> step(std::uint32_t cpu, std::chrono::nanoseconds limit);

  // Throws away what has arrived, without waiting. Has to be done now and then: older QEMU (7.2)
  // reports every stop, and stands still when these reports fill the socket.
  void drain();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Answer { kOrdinary, kStop };

  Expected<std::string> converse(std::string_view command, Answer wanted, Clock::time_point deadline);
  // OK or not.
  Expected<void> order(const std::string& command, std::chrono::nanoseconds limit);
  Expected<void> send(std::string_view bytes, Clock::time_point deadline);
  Expected<void> wait(short events, Clock::time_point deadline);
  Expected<void> read_some(Clock::time_point deadline);
  // The next thing in the buffer: a payload, or a '-'. nullopt when there is nothing whole.
  struct Item {
    bool nak = false;
    bool damaged = false;
    std::string payload = {};
  };
  Expected<std::optional<Item>> next_item();
  std::unexpected<Error> broken(std::string message, int errno_value);

  UniqueFd socket_;
  std::string buffer_;
  std::size_t noise_ = 0;  // bytes skipped since the last command
  int broken_errno_ = 0;
  std::string broken_message_;
};

// "$payload#sum". For tests too.
std::string gdb_packet(std::string_view payload);
// What stands between '$' and '#', unpacked; nullopt when that is not possible or gives more than
// kMaxPayload.
std::optional<std::string> gdb_unpack(std::string_view packed);

}  // namespace ktstr
