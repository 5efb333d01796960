#include "host/machine/tcg/register_text.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <span>

#include <fmt/core.h>

namespace ktstr {
namespace {

struct General {
  std::string_view long_name;   // in long mode
  std::string_view short_name;  // outside; empty: does not exist there
  std::uint64_t VcpuRegisters::*member;
};

constexpr std::array kGeneral = {
    General{"RAX", "EAX", &VcpuRegisters::rax},    General{"RBX", "EBX", &VcpuRegisters::rbx},
    General{"RCX", "ECX", &VcpuRegisters::rcx},    General{"RDX", "EDX", &VcpuRegisters::rdx},
    General{"RSI", "ESI", &VcpuRegisters::rsi},    General{"RDI", "EDI", &VcpuRegisters::rdi},
    General{"RBP", "EBP", &VcpuRegisters::rbp},    General{"RSP", "ESP", &VcpuRegisters::rsp},
    General{"R8", "", &VcpuRegisters::r8},         General{"R9", "", &VcpuRegisters::r9},
    General{"R10", "", &VcpuRegisters::r10},       General{"R11", "", &VcpuRegisters::r11},
    General{"R12", "", &VcpuRegisters::r12},       General{"R13", "", &VcpuRegisters::r13},
    General{"R14", "", &VcpuRegisters::r14},       General{"R15", "", &VcpuRegisters::r15},
    General{"RIP", "EIP", &VcpuRegisters::rip},    General{"RFL", "EFL", &VcpuRegisters::rflags},
    General{"CR0", "CR0", &VcpuRegisters::cr0},    General{"CR2", "CR2", &VcpuRegisters::cr2},
    General{"CR3", "CR3", &VcpuRegisters::cr3},    General{"CR4", "CR4", &VcpuRegisters::cr4},
    General{"EFER", "EFER", &VcpuRegisters::efer},
};

// The hex numbers after "<name>=" (blanks may stand on both sides of the '='), as many as `values` has room
// for. False when the name is not there or a number is missing or has more than 16 digits.
bool read_hex(std::string_view text, std::string_view name, std::span<std::uint64_t> values) {
  for (std::size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    const bool starts_word = at == 0 || text[at - 1] == ' ' || text[at - 1] == '\n' || text[at - 1] == '\r';
    std::size_t next = text.find_first_not_of(' ', at + name.size());
    if (!starts_word || next == std::string_view::npos || text[next] != '=') continue;
    ++next;
    for (std::uint64_t& value : values) {
      next = text.find_first_not_of(' ', next);
      if (next == std::string_view::npos) return false;
      const char* begin = text.data() + next;
      const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value, 16);
      if (error != std::errc{}) return false;
      next = static_cast<std::size_t>(end - text.data());
    }
    return true;
  }
  return false;
}

std::unexpected<Error> missing(std::string_view name) {
  return fail(ErrorCode::kHost, fmt::format("QEMU's register text has no readable {}", name));
}

// Segment lines are "CS =0010 0000000000000000 ffffffff 00af9b00 ...": selector, base, limit, flags.
Expected<void> read_segments(std::string_view text, VcpuRegisters& regs) {
  std::array<std::uint64_t, 2> selector_base;
  const auto read = [&](std::string_view name) { return read_hex(text, name, selector_base); };
  if (!read("CS")) return missing("CS");
  regs.cs = static_cast<std::uint16_t>(selector_base[0]);
  if (!read("SS")) return missing("SS");
  regs.ss = static_cast<std::uint16_t>(selector_base[0]);
  if (!read("FS")) return missing("FS");
  regs.fs_base = selector_base[1];
  if (!read("GS")) return missing("GS");
  regs.gs_base = selector_base[1];
  // "GDT=     fffffe0000001000 0000007f": base, limit.
  std::array<std::uint64_t, 2> base_limit;
  if (!read_hex(text, "GDT", base_limit)) return missing("GDT");
  regs.gdt_base = base_limit[0];
  regs.gdt_limit = static_cast<std::uint32_t>(base_limit[1]);
  if (!read_hex(text, "IDT", base_limit)) return missing("IDT");
  regs.idt_base = base_limit[0];
  regs.idt_limit = static_cast<std::uint32_t>(base_limit[1]);
  return {};
}

}  // namespace

Expected<VcpuRegisters> parse_register_text(std::string_view text) {
  if (text.size() > kMaxRegisterText) {
    return fail(ErrorCode::kHost, fmt::format("QEMU's register text has {} bytes", text.size()));
  }
  VcpuRegisters regs;
  std::uint64_t value = 0;
  const bool long_mode = read_hex(text, "RIP", {&value, 1});
  for (const General& general : kGeneral) {
    const std::string_view name = long_mode ? general.long_name : general.short_name;
    if (name.empty()) continue;
    if (!read_hex(text, name, {&value, 1})) return missing(name);
    regs.*general.member = value;
  }
  if (auto segments = read_segments(text, regs); !segments)
    return std::unexpected(std::move(segments.error()));
  if (!read_hex(text, "HLT", {&value, 1})) return missing("HLT");
  regs.halted = value != 0;
  return regs;
}

}  // namespace ktstr
