#include "host/machine/tcg/qmp_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include <fmt/core.h>

#include "common/quote.h"

namespace ktstr {
namespace {

using nlohmann::json;

// The string at `key`, "" when there is none.
std::string string_at(const json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

}  // namespace

QmpClient::QmpClient(UniqueFd socket) : socket_(std::move(socket)) {
  fcntl(socket_.get(), F_SETFL, O_NONBLOCK);
}

std::unexpected<Error> QmpClient::broken(std::string message, int errno_value) {
  broken_message_ = std::move(message);
  broken_errno_ = errno_value;
  return std::unexpected(Error::from_errno(ErrorCode::kHost, broken_message_, broken_errno_));
}

Expected<void> QmpClient::wait(short events, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0)
      return std::unexpected(Error::from_errno(ErrorCode::kHost, "QEMU does not answer", ETIMEDOUT));
    pollfd ready{.fd = socket_.get(), .events = events, .revents = 0};
    const int count = poll(&ready, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (count > 0) return {};
    if (count < 0 && errno != EINTR) return fail_errno(ErrorCode::kHost, "poll on the QMP socket");
  }
}

Expected<void> QmpClient::send(std::string_view text, Clock::time_point deadline) {
  bool started = false;
  while (!text.empty()) {
    const ssize_t sent = ::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      started = true;
      text.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return broken("the QMP connection is closed", ECONNRESET);
    if (auto ready = wait(POLLOUT, deadline); !ready) {
      // Half a command is on its way: nothing that follows could be understood.
      if (started) return broken("QEMU took only half of a command", EPROTO);
      return ready;
    }
  }
  return {};
}

Expected<void> QmpClient::read_some() {
  std::array<char, 65536> chunk;
  const ssize_t got = ::read(socket_.get(), chunk.data(), chunk.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return {};
  if (got <= 0) return broken("the QMP connection is closed", ECONNRESET);
  buffer_.append(chunk.data(), static_cast<std::size_t>(got));
  return {};
}

Expected<json> QmpClient::next_message() {
  while (true) {
    const std::size_t newline = buffer_.find('\n', scanned_);
    // Without a newline in sight the buffer is one line that goes on.
    if (newline == std::string::npos ? buffer_.size() > kMaxLine : newline > kMaxLine) {
      return broken("QEMU sends a QMP line of more than 1 MiB", EPROTO);
    }
    if (newline == std::string::npos) {
      scanned_ = buffer_.size();
      return json();
    }
    const std::string line = buffer_.substr(0, newline);
    buffer_.erase(0, newline + 1);
    scanned_ = 0;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    json message = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!message.is_object()) return broken(fmt::format("QEMU does not speak QMP: {}", quote(line)), EPROTO);
    if (!message.contains("event")) return message;
    if (events_.size() >= kMaxEvents) return broken("QEMU floods us with QMP events", EPROTO);
    json data = message.value("data", json::object());
    if (!data.is_object()) data = json::object();
    events_.push_back({string_at(message, "event"), std::move(data)});
  }
}

Expected<json> QmpClient::next_message(Clock::time_point deadline) {
  while (true) {
    auto message = next_message();
    if (!message || !message->is_null()) return message;
    if (auto ready = wait(POLLIN, deadline); !ready) return std::unexpected(std::move(ready.error()));
    if (auto read = read_some(); !read) return std::unexpected(std::move(read.error()));
  }
}

Expected<void> QmpClient::handshake(std::chrono::nanoseconds limit) {
  const auto greeting = next_message(Clock::now() + limit);
  if (!greeting) return std::unexpected(greeting.error());
  if (!greeting->contains("QMP")) return broken("QEMU does not greet as QMP wants it", EPROTO);
  const auto answer = execute("qmp_capabilities", json::object(), limit);
  if (!answer) return std::unexpected(answer.error());
  return {};
}

Expected<json> QmpClient::execute(std::string_view command, const json& arguments,
                                  std::chrono::nanoseconds limit) {
  if (broken_errno_ != 0) {
    return std::unexpected(Error::from_errno(ErrorCode::kHost, broken_message_, broken_errno_));
  }
  const auto deadline = Clock::now() + limit;
  const std::uint64_t id = ++last_id_;
  json request = {{"execute", command}, {"id", id}};
  if (!arguments.empty()) request["arguments"] = arguments;
  if (auto sent = send(request.dump(-1, ' ', true, json::error_handler_t::replace) + "\n", deadline); !sent) {
    return propagate(std::move(sent.error()), fmt::format("sending QMP {}", command));
  }
  while (true) {
    auto answer = next_message(deadline);
    if (!answer) return propagate(std::move(answer.error()), fmt::format("waiting for QMP {}", command));
    const auto answer_id = answer->find("id");
    // An older id: the late answer to a command whose limit had passed.
    if (answer_id != answer->end() && (!answer_id->is_number_unsigned() || *answer_id != id)) continue;
    if (const auto result = answer->find("return"); result != answer->end() && answer_id != answer->end()) {
      json value = std::move(*result);
      keep_events();
      return value;
    }
    const auto refused = answer->find("error");
    if (refused == answer->end()) return broken("QEMU answers with neither return nor error", EPROTO);
    keep_events();
    return fail(ErrorCode::kHost,
                fmt::format("QEMU refuses {}: {}", command, quote(string_at(*refused, "desc"), 500)));
  }
}

void QmpClient::keep_events() {
  while (true) {
    // Damage is remembered for the next call. No command waits, so nothing but a late answer is thrown away.
    const auto message = next_message();
    if (!message || message->is_null()) return;
  }
}

Expected<void> QmpClient::pump() {
  if (broken_errno_ != 0) {
    return std::unexpected(Error::from_errno(ErrorCode::kHost, broken_message_, broken_errno_));
  }
  const auto read = read_some();
  // What came before an end still counts, so it is looked at first.
  while (true) {
    const auto message = next_message();
    if (!message) return std::unexpected(message.error());
    if (message->is_null()) break;
    // Only a late answer can come without a command waiting for it.
  }
  return read;
}

std::vector<QmpEvent> QmpClient::take_events() {
  return std::exchange(events_, {});
}

}  // namespace ktstr
