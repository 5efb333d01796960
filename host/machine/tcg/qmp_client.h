// QmpClient: our end of QEMU's machine protocol (docs/interop/qmp-spec).
//
// QMP is one JSON object a line. QEMU greets; we answer with qmp_capabilities; from then on every command
// gets one answer with the command's id, and events may stand between any two lines. A command here waits for
// its answer on its own descriptor, so the event loop stands still meanwhile; events that pass by are kept
// and handed out by take_events.
//
// QEMU has a hostile guest inside, so nothing it says is believed: a line is at most kMaxLine bytes, events
// that nobody fetches are bounded, and a line that is not a JSON object ends the conversation with an error.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/unique_fd.h"

namespace ktstr {

struct QmpEvent {
  std::string name;     // "SHUTDOWN", "STOP", ...
  nlohmann::json data;  // an object
};

class QmpClient {
 public:
  static constexpr std::size_t kMaxLine = std::size_t{1} << 20;
  static constexpr std::size_t kMaxEvents = 4096;

  // `socket` is a connected stream socket; it is made non-blocking.
  explicit QmpClient(UniqueFd socket);

  // Takes the greeting and leaves negotiation mode. Errors as of execute.
  Expected<void> handshake(std::chrono::nanoseconds limit);

  // Runs one command and returns its "return" value. Errors (kHost): errno ETIMEDOUT when `limit` passed (a
  // late answer is thrown away later), ECONNRESET when the peer is gone, EPROTO when it does not speak QMP;
  // without errno: QEMU refused, with its words. After ECONNRESET and EPROTO every further call fails.
  Expected<nlohmann::json> execute(std::string_view command, const nlohmann::json& arguments,
                                   std::chrono::nanoseconds limit);

  // Takes what has arrived, without waiting. Errors as of execute.
  Expected<void> pump();
  // Events since the last call, in order.
  std::vector<QmpEvent> take_events();
  bool has_events() const { return !events_.empty(); }
  int fd() const { return socket_.get(); }

 private:
  using Clock = std::chrono::steady_clock;

  Expected<void> wait(short events, Clock::time_point deadline);
  Expected<void> send(std::string_view text, Clock::time_point deadline);
  Expected<void> read_some();
  // The next line that is no event; events before it are kept. Null when there is no whole line.
  Expected<nlohmann::json> next_message();
  Expected<nlohmann::json> next_message(Clock::time_point deadline);
  // Keeps the events that lie in the buffer behind an answer: nobody would look there until more arrives.
  void keep_events();
  std::unexpected<Error> broken(std::string message, int errno_value);

  UniqueFd socket_;
  std::string buffer_;
  std::size_t scanned_ = 0;  // bytes of buffer_ that hold no newline
  std::vector<QmpEvent> events_;
  std::uint64_t last_id_ = 0;
  int broken_errno_ = 0;
  std::string broken_message_;
};

}  // namespace ktstr
