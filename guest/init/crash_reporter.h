// The crash reporter: PID 1 never dies silently.
//
// When PID 1 dies the kernel panics with "Attempted to kill init!" and no word about why. So fatal signals
// and std::terminate end here: reason and backtrace go to the kernel console ("ktstr-guest: PANIC: ...") and
// as an InitCrash frame to the host, then the machine is switched off.
//
// Everything on that path works without the heap and without locks, because the heap may be what broke: fixed
// buffers, a hand-written protobuf encoding of the one message that is needed, a symbol look-up over a
// mapping of our own ELF file. The unwinder of libgcc finds its tables through the program headers and takes
// no lock in a static program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ktstr::guest {

// Installs handlers on an alternate stack for SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS and SIGTRAP,
// and the terminate handler. They act for the calling process only: a forked child that still has them dies
// of the signal as usual.
void install_crash_reporter();
// Tells where frames go; the descriptor must stay open.
void set_crash_frame_port(int fd);
// The same for frames that leave by the debug port.
void set_crash_debug_port(std::uint16_t port);
// Tells the sequence number that the next frame on that port would have.
void set_crash_sequence(std::uint32_t sequence);

// Reports `reason` like a crash, with the caller's backtrace, and switches the machine off.
[[noreturn]] void die(std::string_view reason);
// Switches the machine off; when that fails: restarts it, halts it, sleeps for ever. A process other than PID
// 1 exits with status 134 instead.
[[noreturn]] void power_off();
// Writes to the kernel console (descriptor of /dev/console, or whatever stderr is). No heap, no locks.
void write_console(std::string_view text);

// The wire form of Frame{guest_ns, init_crash{reason, backtrace}} with its 16-byte header, made without the
// heap. Returns the bytes used, 0 when `out` is too small. Text should be ASCII (protobuf wants UTF-8).
std::size_t encode_crash_frame(std::span<char> out, std::uint64_t guest_ns, std::uint32_t sequence,
                               std::string_view reason, std::string_view backtrace);

}  // namespace ktstr::guest
