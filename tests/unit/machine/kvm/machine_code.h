// MachineCode: x86-64 instructions written down as bytes, for guest programs of a few instructions. One
// function an instruction, named as an assembler would; each gives its own text and bytes in one place
// (Intel SDM volume 2).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace ktstr::kvm::tiny {

// Code that will lie at `base`.
class MachineCode {
 public:
  explicit MachineCode(std::uint64_t base) : base_(base) {}

  const std::vector<std::uint8_t>& bytes() const { return bytes_; }
  // Address of the next instruction.
  std::uint64_t here() const { return base_ + bytes_.size(); }
  // Fills up to `address` with one-byte nops.
  MachineCode& until(std::uint64_t address) {
    while (here() < address) nop();
    return *this;
  }

  MachineCode& nop() { return raw({0x90}); }
  MachineCode& nop5() { return raw({0x0f, 0x1f, 0x44, 0x00, 0x00}); }  // as ftrace has it
  MachineCode& endbr64() { return raw({0xf3, 0x0f, 0x1e, 0xfa}); }
  MachineCode& hlt() { return raw({0xf4}); }
  MachineCode& cli() { return raw({0xfa}); }
  MachineCode& pause() { return raw({0xf3, 0x90}); }
  MachineCode& ud2() { return raw({0x0f, 0x0b}); }
  MachineCode& ret() { return raw({0xc3}); }

  MachineCode& mov_al(std::uint8_t value) { return raw({0xb0, value}); }
  MachineCode& mov_eax(std::uint32_t value) { return raw({0xb8}).number(value, 4); }
  MachineCode& mov_ecx(std::uint32_t value) { return raw({0xb9}).number(value, 4); }
  MachineCode& mov_dx(std::uint16_t value) { return raw({0x66, 0xba}).number(value, 2); }
  MachineCode& mov_rax(std::uint64_t value) { return raw({0x48, 0xb8}).number(value, 8); }
  MachineCode& mov_rbx(std::uint64_t value) { return raw({0x48, 0xbb}).number(value, 8); }
  MachineCode& mov_rsp(std::uint64_t value) { return raw({0x48, 0xbc}).number(value, 8); }

  MachineCode& out_dx_al() { return raw({0xee}); }
  MachineCode& out_dx_eax() { return raw({0xef}); }
  MachineCode& in_al_dx() { return raw({0xec}); }
  MachineCode& in_eax_dx() { return raw({0xed}); }

  MachineCode& load_eax_rbx() { return raw({0x8b, 0x03}); }         // mov (%rbx), %eax
  MachineCode& store_rbx_eax() { return raw({0x89, 0x03}); }        // mov %eax, (%rbx)
  MachineCode& store_rbx_al() { return raw({0x88, 0x03}); }         // mov %al, (%rbx)
  MachineCode& store_rbx_rax() { return raw({0x48, 0x89, 0x03}); }  // mov %rax, (%rbx)
  MachineCode& inc_at_rbx() { return raw({0x48, 0xff, 0x03}); }     // incq (%rbx)
  MachineCode& lidt_rbx() { return raw({0x0f, 0x01, 0x1b}); }       // lidt (%rbx)
  MachineCode& inc_rcx() { return raw({0x48, 0xff, 0xc1}); }
  MachineCode& lea_rbx_rdi() { return raw({0x48, 0x8d, 0x1c, 0xfb}); }  // lea (%rbx,%rdi,8), %rbx
  MachineCode& sti() { return raw({0xfb}); }
  MachineCode& iretq() { return raw({0x48, 0xcf}); }
  // mov $msr, %ecx; mov $value, %eax; xor %edx, %edx; wrmsr
  MachineCode& write_msr(std::uint32_t msr, std::uint32_t value) {
    return mov_ecx(msr).mov_eax(value).raw({0x31, 0xd2, 0x0f, 0x30});
  }

  MachineCode& call(std::uint64_t target) { return raw({0xe8}).distance(target); }
  MachineCode& jmp(std::uint64_t target) { return raw({0xe9}).distance(target); }
  // dec %ecx; jnz target
  MachineCode& dec_ecx_jnz(std::uint64_t target) { return raw({0xff, 0xc9, 0x0f, 0x85}).distance(target); }

  // Several of them.
  MachineCode& out8(std::uint16_t port, std::uint8_t value) { return mov_dx(port).mov_al(value).out_dx_al(); }
  MachineCode& store32(std::uint64_t address, std::uint32_t value) {
    return mov_rbx(address).mov_eax(value).store_rbx_eax();
  }
  MachineCode& increment(std::uint64_t address) { return mov_rbx(address).inc_at_rbx(); }
  // As increment(), of the vCPU's own number there: each begins with its number in %rdi.
  MachineCode& increment_own(std::uint64_t address) { return mov_rbx(address).lea_rbx_rdi().inc_at_rbx(); }
  MachineCode& power_off() { return out8(0x600, 1U << 5 | 5U << 2).halt_for_ever(); }
  MachineCode& halt_for_ever() {
    const std::uint64_t loop = here();
    return cli().hlt().jmp(loop);
  }
  MachineCode& spin_for_ever() { return jmp(here()); }

  MachineCode& raw(std::initializer_list<std::uint8_t> bytes) {
    bytes_.insert(bytes_.end(), bytes);
    return *this;
  }

 private:
  MachineCode& number(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes_.push_back(static_cast<std::uint8_t>(value >> 8 * i));
    return *this;
  }
  MachineCode& distance(std::uint64_t target) { return number(target - (here() + 4), 4); }

  std::uint64_t base_;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace ktstr::kvm::tiny
