#include "host/machine/tcg/gdb_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include <fmt/core.h>

#include "common/quote.h"

namespace ktstr {
namespace {

unsigned checksum(std::string_view bytes) {
  unsigned sum = 0;
  for (const char byte : bytes) sum += static_cast<unsigned char>(byte);
  return sum & 0xff;
}

bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// "T05thread:01;", "S05": the guest has stopped. "W00", "X09": it is gone.
bool is_stop_report(std::string_view payload) {
  return payload.size() >= 3 && std::string_view("TSWX").find(payload[0]) != std::string_view::npos &&
         is_hex(payload[1]) && is_hex(payload[2]);
}

}  // namespace

std::string gdb_packet(std::string_view payload) {
  return fmt::format("${}#{:02x}", payload, checksum(payload));
}

std::optional<std::string> gdb_unpack(std::string_view packed) {
  std::string payload;
  for (std::size_t i = 0; i < packed.size(); ++i) {
    std::size_t count = 1;
    char byte = packed[i];
    if (byte == '}' || byte == '*') {
      if (++i == packed.size()) return std::nullopt;
      if (byte == '}') {
        byte = static_cast<char>(packed[i] ^ 0x20);
      } else {
        // ' ' is three more; counts below that have no printable character, and '~' is the last one.
        if (payload.empty() || packed[i] < ' ' || packed[i] > '~') return std::nullopt;
        byte = payload.back();
        count = static_cast<std::size_t>(packed[i] - 29);
      }
    }
    if (payload.size() + count > GdbClient::kMaxPayload) return std::nullopt;
    payload.append(count, byte);
  }
  return payload;
}

GdbClient::GdbClient(UniqueFd socket) : socket_(std::move(socket)) {
  fcntl(socket_.get(), F_SETFL, O_NONBLOCK);
}

std::unexpected<Error> GdbClient::broken(std::string message, int errno_value) {
  broken_message_ = std::move(message);
  broken_errno_ = errno_value;
  return std::unexpected(Error::from_errno(ErrorCode::kHost, broken_message_, broken_errno_));
}

Expected<void> GdbClient::wait(short events, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return broken("QEMU's gdb stub does not answer", ETIMEDOUT);
    pollfd ready{.fd = socket_.get(), .events = events, .revents = 0};
    const int count = poll(&ready, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (count > 0) return {};
    if (count < 0 && errno != EINTR) return broken("poll on the gdb socket", errno);
  }
}

Expected<void> GdbClient::send(std::string_view bytes, Clock::time_point deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (auto ready = wait(POLLOUT, deadline); !ready) return ready;
    } else if (errno != EINTR) {
      return broken("the gdb connection is closed", ECONNRESET);
    }
  }
  return {};
}

Expected<void> GdbClient::read_some(Clock::time_point deadline) {
  if (auto ready = wait(POLLIN, deadline); !ready) return ready;
  std::array<char, 4096> chunk;
  const ssize_t got = ::read(socket_.get(), chunk.data(), chunk.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return {};
  if (got <= 0) return broken("the gdb connection is closed", ECONNRESET);
  buffer_.append(chunk.data(), static_cast<std::size_t>(got));
  return {};
}

void GdbClient::drain() {
  buffer_.clear();
  std::array<char, 4096> chunk;
  for (std::size_t read = 0; read < kMaxNoise && broken_errno_ == 0; read += chunk.size()) {
    // An end of the connection shows itself to the next command.
    if (::read(socket_.get(), chunk.data(), chunk.size()) <= 0) return;
  }
}

Expected<std::optional<GdbClient::Item>> GdbClient::next_item() {
  const std::size_t begin = std::min(buffer_.find_first_of("$-"), buffer_.size());
  noise_ += begin;
  buffer_.erase(0, begin);
  if (noise_ > kMaxNoise) return broken("QEMU's gdb stub floods us", EPROTO);
  if (buffer_.empty()) return std::nullopt;
  if (buffer_[0] == '-') {
    buffer_.erase(0, 1);
    return Item{.nak = true};
  }
  const std::size_t end = buffer_.find('#');
  if (std::min(end, buffer_.size()) > kMaxPacket + 1) {
    return broken("QEMU's gdb stub sends a packet of more than 16 KiB", EPROTO);
  }
  if (end == std::string::npos || buffer_.size() < end + 3) return std::nullopt;
  const std::string packed = buffer_.substr(1, end - 1);
  const std::string digits = buffer_.substr(end + 1, 2);
  buffer_.erase(0, end + 3);
  unsigned sum = 256;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + 2, sum, 16);
  noise_ += packed.size();
  if (error != std::errc{} || stop != digits.data() + 2 || sum != checksum(packed)) {
    return Item{.damaged = true};
  }
  auto payload = gdb_unpack(packed);
  if (!payload) return broken(fmt::format("QEMU's gdb stub sends {}", quote(packed)), EPROTO);
  return Item{.payload = std::move(*payload)};
}

Expected<std::string> GdbClient::converse(std::string_view command, Answer wanted,
                                          Clock::time_point deadline) {
  if (broken_errno_ != 0) {
    return std::unexpected(Error::from_errno(ErrorCode::kHost, broken_message_, broken_errno_));
  }
  drain();
  noise_ = 0;
  int repeats = 0;
  const std::string packet = gdb_packet(command);
  if (auto sent = send(packet, deadline); !sent) return std::unexpected(std::move(sent.error()));
  while (true) {
    auto item = next_item();
    if (!item) return std::unexpected(std::move(item.error()));
    if (!*item) {
      if (auto read = read_some(deadline); !read) return std::unexpected(std::move(read.error()));
      continue;
    }
    if ((*item)->nak || (*item)->damaged) {
      if (++repeats > kMaxRepeats) return broken("the gdb connection damages packets", EPROTO);
      const std::string_view again = (*item)->nak ? std::string_view(packet) : "-";
      if (auto sent = send(again, deadline); !sent) return std::unexpected(std::move(sent.error()));
      continue;
    }
    std::string& payload = (*item)->payload;
    if (is_stop_report(payload) == (wanted == Answer::kStop)) return std::move(payload);
    // A refusal, where a stop was wanted: nothing else will come.
    if (wanted == Answer::kStop) {
      return fail(ErrorCode::kHost,
                  fmt::format("QEMU's gdb stub answers {} to {}", quote(payload), quote(command)));
    }
  }
}

Expected<std::string> GdbClient::execute(std::string_view command, std::chrono::nanoseconds limit) {
  return converse(command, Answer::kOrdinary, Clock::now() + limit);
}

Expected<void> GdbClient::order(const std::string& command, std::chrono::nanoseconds limit) {
  const auto answer = execute(command, limit);
  if (!answer) return std::unexpected(answer.error());
  if (*answer == "OK") return {};
  const std::string words = answer->empty() ? "that it does not know" : quote(*answer);
  return fail(ErrorCode::kHost, fmt::format("QEMU's gdb stub answers {} to {}", words, quote(command)));
}

Expected<void> GdbClient::insert_breakpoint(std::uint64_t address, std::chrono::nanoseconds limit) {
  return order(fmt::format("Z1,{:x},1", address), limit);
}

Expected<void> GdbClient::remove_breakpoint(std::uint64_t address, std::chrono::nanoseconds limit) {
  return order(fmt::format("z1,{:x},1", address), limit);
}

Expected<void> GdbClient::keep_timers_in_steps(std::chrono::nanoseconds limit) {
  // SSTEP_ENABLE (1) and SSTEP_NOIRQ (2), without SSTEP_NOTIMER (4): include/hw/core/cpu.h.
  return order("Qqemu.sstep=3", limit);
}

Expected<void> GdbClient::step(std::uint32_t cpu, std::chrono::nanoseconds limit) {
  // Thread ids count from 1, in hex (gdbstub/system.c, gdb_get_cpu_index).
  const auto stop =
      converse(fmt::format("vCont;s:{:x}", std::uint64_t{cpu} + 1), Answer::kStop, Clock::now() + limit);
  if (!stop) return std::unexpected(stop.error());
  if ((*stop)[0] == 'T' || (*stop)[0] == 'S') return {};
  return fail(ErrorCode::kHost, fmt::format("the guest is gone after a step ({})", quote(*stop)));
}

}  // namespace ktstr
