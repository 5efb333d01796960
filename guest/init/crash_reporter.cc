#include "guest/init/crash_reporter.h"

#include <fcntl.h>
#include <linux/reboot.h>
#include <poll.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <ctime>
#include <exception>
#include <typeinfo>

#include "common/frame_codec.h"
#include "guest/init/crash_text.h"
#include "guest/init/debug_port.h"
#include "guest/init/own_symbols.h"

namespace ktstr::guest {
namespace {

constexpr std::size_t kMaxFrames = 48;
constexpr int kPortLimitMs = 2000;

// What the handlers need. A signal handler has no other way to reach anything, hence globals.
std::atomic<pid_t> g_owner{0};
std::atomic<int> g_port{-1};
std::atomic<std::uint16_t> g_debug_port{0};
std::atomic<std::uint32_t> g_sequence{0};
std::atomic<int> g_depth{0};

alignas(16) std::array<char, 65536> g_stack;
CrashText<512> g_reason;
CrashText<8192> g_backtrace;
std::array<char, 10240> g_frame;

pid_t own_pid() {
  return static_cast<pid_t>(::syscall(SYS_getpid));
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

struct Trace {
  const OwnSymbols* symbols;
  std::size_t count;
};

_Unwind_Reason_Code add_frame(_Unwind_Context* context, void* data) {
  Trace& trace = *static_cast<Trace*>(data);
  int before = 0;
  const std::uintptr_t address = _Unwind_GetIPInfo(context, &before);
  if (address == 0 || trace.count == kMaxFrames) return _URC_END_OF_STACK;
  // A return address may already belong to the next function; the call itself is one byte earlier.
  const OwnSymbols::Symbol symbol = trace.symbols->find(before != 0 ? address : address - 1);
  g_backtrace << "#";
  g_backtrace.dec(trace.count++) << " ";
  g_backtrace.hex(address);
  if (!symbol.name.empty()) {
    g_backtrace << " " << symbol.name << "+";
    g_backtrace.hex(symbol.offset);
  }
  g_backtrace << "\n";
  return _URC_NO_REASON;
}

void make_backtrace() {
  const OwnSymbols symbols;
  Trace trace{.symbols = &symbols, .count = 0};
  _Unwind_Backtrace(add_frame, &trace);
  g_backtrace << "build id ";
  for (const std::byte byte : symbols.build_id()) {
    const auto value = std::to_integer<unsigned>(byte);
    const std::array<char, 2> digits = {"0123456789abcdef"[value >> 4], "0123456789abcdef"[value & 15]};
    g_backtrace << std::string_view(digits.data(), digits.size());
  }
  g_backtrace << "\n";
}

void send_frame() {
  const int port = g_port.load();
  const std::uint16_t debug_port = g_debug_port.load();
  if (port < 0 && debug_port == 0) return;
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const std::size_t size = encode_crash_frame(
      g_frame, static_cast<std::uint64_t>(now.tv_sec) * 1000000000U + static_cast<std::uint64_t>(now.tv_nsec),
      g_sequence.load(), g_reason.view(), g_backtrace.view());
  if (debug_port != 0) {
    static_cast<void>(write_debug_port(debug_port, std::span(g_frame.data(), size)));
    return;
  }
  pollfd entry{.fd = port, .events = POLLOUT, .revents = 0};
  if (::poll(&entry, 1, kPortLimitMs) != 1 || (entry.revents & POLLOUT) == 0) return;
  // Blocking: the write returns when the host has the bytes, so switching off cannot lose them.
  const int flags = ::fcntl(port, F_GETFL);
  if (flags >= 0) ::fcntl(port, F_SETFL, flags & ~O_NONBLOCK);
  write_all(port, {g_frame.data(), size});
}

// `g_reason` is set. Everything up to the end of the machine.
[[noreturn]] void report_and_power_off() {
  write_console("\nktstr-guest: PANIC: ");
  write_console(g_reason.view());
  write_console("\n");
  make_backtrace();
  write_console(g_backtrace.view());
  send_frame();
  power_off();
}

// True for the first crash; a crash within the report ends the machine with what is known by then.
bool enter() {
  const int depth = g_depth.fetch_add(1);
  if (depth == 0) return true;
  if (depth == 1) {
    write_console("\nktstr-guest: PANIC: crashed again while reporting the crash\n");
    send_frame();
  }
  power_off();
}

std::string_view signal_name(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGILL:
      return "SIGILL";
    case SIGFPE:
      return "SIGFPE";
    case SIGABRT:
      return "SIGABRT";
    case SIGSYS:
      return "SIGSYS";
    default:
      return "SIGTRAP";
  }
}

void on_signal(int signal, siginfo_t* info, void* context) {
  if (own_pid() != g_owner.load()) {
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    ::sigaction(signal, &standard, nullptr);
    ::raise(signal);  // delivered when this handler returns
    return;
  }
  enter();
  const auto* machine = static_cast<const ucontext_t*>(context);
  g_reason << "PID 1 got " << signal_name(signal) << " (code ";
  if (info->si_code < 0) g_reason << "-";
  g_reason.dec(static_cast<std::uint64_t>(info->si_code < 0 ? -info->si_code : info->si_code))
      << ") at address ";
  g_reason.hex(reinterpret_cast<std::uintptr_t>(info->si_addr)) << ", rip ";
  g_reason.hex(static_cast<std::uint64_t>(machine->uc_mcontext.gregs[REG_RIP])) << ", rsp ";
  g_reason.hex(static_cast<std::uint64_t>(machine->uc_mcontext.gregs[REG_RSP]));
  report_and_power_off();
}

[[noreturn]] void on_terminate() {
  if (own_pid() != g_owner.load()) ::_exit(134);
  enter();
  g_reason << "PID 1 called std::terminate";
  if (const std::exception_ptr current = std::current_exception()) {
    try {
      std::rethrow_exception(current);
    } catch (const std::exception& error) {
      g_reason << ": " << typeid(error).name() << ": " << error.what();
    } catch (...) {
      g_reason << ": an exception that is no std::exception";
    }
  }
  report_and_power_off();
}

// Protobuf, just enough of it.
class Encoder {
 public:
  explicit Encoder(std::span<char> out) : out_(out) {}
  void byte(unsigned value) {
    if (used_ < out_.size()) out_[used_] = static_cast<char>(value);
    ++used_;
  }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) byte(static_cast<unsigned>(value & 0x7f) | 0x80U);
    byte(static_cast<unsigned>(value));
  }
  void fixed(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) byte(static_cast<unsigned>(value >> (8 * i)) & 0xffU);
  }
  void text(unsigned tag, std::string_view value) {
    byte(tag);
    varint(value.size());
    for (const char c : value) byte(static_cast<unsigned char>(c));
  }
  std::size_t used() const { return used_; }
  bool fits() const { return used_ <= out_.size(); }

 private:
  std::span<char> out_;
  std::size_t used_ = 0;
};

std::size_t text_size(std::string_view value) {
  std::array<char, 16> scratch{};
  Encoder size(scratch);
  size.varint(value.size());
  return 1 + size.used() + value.size();
}

}  // namespace

std::size_t encode_crash_frame(std::span<char> out, std::uint64_t guest_ns, std::uint32_t sequence,
                               std::string_view reason, std::string_view backtrace) {
  if (out.size() < kFrameHeaderSize) return 0;
  const std::span<char> body = out.subspan(kFrameHeaderSize);
  Encoder payload(body);
  payload.byte(1 << 3 | 1);  // Frame.guest_ns, fixed64
  payload.fixed(guest_ns, 8);
  payload.byte(15 << 3 | 2);  // Frame.init_crash
  payload.varint(text_size(reason) + text_size(backtrace));
  payload.text(1 << 3 | 2, reason);     // InitCrash.reason
  payload.text(2 << 3 | 2, backtrace);  // InitCrash.backtrace
  if (!payload.fits()) return 0;

  // The header of common/frame_codec.h: magic, length, CRC32C over length, sequence and payload, sequence.
  Encoder header(out.first(kFrameHeaderSize));
  header.fixed(kFrameMagic, 4);
  header.fixed(payload.used(), 4);
  header.fixed(0, 4);
  header.fixed(sequence, 4);
  const std::span<const std::byte> bytes = std::as_bytes(out);
  const std::uint32_t crc = crc32c(bytes.subspan(12, 4 + payload.used()), crc32c(bytes.subspan(4, 4)));
  Encoder checksum(out.subspan(8, 4));
  checksum.fixed(crc, 4);
  return kFrameHeaderSize + payload.used();
}

void write_console(std::string_view text) {
  const int console = ::open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
  write_all(console >= 0 ? console : STDERR_FILENO, text);
  if (console >= 0) ::close(console);
}

void install_crash_reporter() {
  g_owner.store(own_pid());
  stack_t stack{};
  stack.ss_sp = g_stack.data();
  stack.ss_size = g_stack.size();
  ::sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  // NODEFER: a second crash inside the handler must reach `enter`, not kill PID 1 at once.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP}) {
    ::sigaction(signal, &action, nullptr);
  }
  std::set_terminate(on_terminate);
}

void set_crash_frame_port(int fd) {
  g_port.store(fd);
}
void set_crash_debug_port(std::uint16_t port) {
  g_debug_port.store(port);
}
void set_crash_sequence(std::uint32_t sequence) {
  g_sequence.store(sequence);
}

void die(std::string_view reason) {
  enter();
  g_reason << reason;
  report_and_power_off();
}

void power_off() {
  // A unit test runs as root on somebody's machine.
  if (own_pid() != 1) ::_exit(134);
  // Each is a weaker wish than the one before.
  ::reboot(RB_POWER_OFF);
  write_console("ktstr-guest: the kernel does not power off, restarting\n");
  ::reboot(RB_AUTOBOOT);
  ::reboot(static_cast<int>(RB_HALT_SYSTEM));
  while (true) ::pause();
}

}  // namespace ktstr::guest
