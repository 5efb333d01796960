// GuestKernel: the kernel as it runs in the guest: its symbols where they are now, its per-CPU variables, its
// static keys.
//
// Symbols. A SymbolTable has the addresses that the kernel was linked for; KASLR adds one slide to all of
// them.
//
// Per-CPU variables (arch/x86/kernel/setup_percpu.c). Each CPU has its own copy of the per-CPU section, and
// __per_cpu_offset[cpu] is what must be added to the address of a variable in the section to come to that
// CPU's copy:
//
//   - where the section is linked at 0 (x86-64 before 6.15), a variable's symbol is its offset in the
//   section, the
//     slide has no part in it, and __per_cpu_offset[cpu] is the address of the copy;
//   - where it is linked like any other section (6.15 on), the symbol is an address, the slide is added, and
//     __per_cpu_offset[cpu] is "copy less section", whose sum with the address wraps around at 2^64.
//
// A `__percpu` pointer (of alloc_percpu()) is made by the kernel so that adding __per_cpu_offset[cpu] is
// right; it gets no slide in either case.
//
// Entries of CPUs that are not possible keep what the array was initialised with: 0, or, where the section is
// linked at 0, the address of the initial copy (__per_cpu_load).
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/kernel/kernel_types.h"
#include "host/kernel/symbol_table.h"
#include "host/kernel/typed_ref.h"
#include "host/memory/address.h"

namespace ktstr {

class GuestKernel {
 public:
  // The most that x86 can be configured for (NR_CPUS of MAXSMP).
  static constexpr std::uint32_t kMaxCpus = 8192;

  // `symbols` and `types` must outlive this; `types` may be nullptr: then per-CPU variables have no type of
  // their own. `slide` is what KASLR added.
  GuestKernel(const SymbolTable& symbols, const KernelTypes* types, std::uint64_t slide);

  const SymbolTable& symbols() const { return symbols_; }
  const KernelTypes* types() const { return types_; }
  std::uint64_t slide() const { return slide_; }

  // Where a symbol is now; not for per-CPU variables. nullopt also when the name stands for several.
  std::optional<Kva> symbol(std::string_view name) const;
  // The same, with a sentence that says why not.
  std::expected<Kva, std::string> require(std::string_view name) const;
  // "scx_vexit+0x1f", "scx_vexit" at its begin; "" outside of the kernel's image (modules, BPF programs).
  std::string describe(Kva address) const;
  // The symbol that begins exactly there: a function that a member points to, a named object.
  std::optional<std::string_view> function_name(Kva address) const;

  // A global variable that is a struct. An empty `struct_name`: of the type that BTF has for the variable.
  Datum<TypedRef> global(std::string_view name, std::string_view struct_name,
                         const ReadContext& context) const;
  // The struct that a global pointer points to, `path()` being "*name".
  Datum<TypedRef> pointed(std::string_view name, std::string_view struct_name,
                          const ReadContext& context) const;
  // A global integer of 1, 2, 4 or 8 bytes, sign-extended when `is_signed`.
  Datum<std::uint64_t> number(std::string_view name, std::size_t size, bool is_signed,
                              const ReadContext& context) const;

  // __per_cpu_offset[], index is the CPU; entries of CPUs that do not exist are 0.
  void set_per_cpu_offsets(std::vector<std::uint64_t> offsets);
  // Reads it from the guest, as far as nr_cpu_ids says. The answer is how many CPUs exist; Missing when the
  // array cannot be found or read.
  Datum<std::uint32_t> load_per_cpu_offsets(const ReadContext& context);
  const std::vector<std::uint64_t>& per_cpu_offsets() const { return per_cpu_offsets_; }
  bool has_cpu(std::uint32_t cpu) const {
    return cpu < per_cpu_offsets_.size() && per_cpu_offsets_[cpu] != 0;
  }
  // The CPUs that exist, ascending.
  std::vector<std::uint32_t> cpus() const;
  // nr_cpu_ids of the guest, 1 to kMaxCpus: one more than the highest possible CPU.
  Datum<std::uint32_t> nr_cpu_ids(const ReadContext& context) const;

  // What per-CPU offsets are added to for this variable.
  std::optional<std::uint64_t> per_cpu_base(std::string_view name) const;
  // A CPU's copy of a per-CPU variable. nullopt: no such symbol, or no such CPU.
  std::optional<Kva> per_cpu(std::string_view name, std::uint32_t cpu) const;
  // What a `__percpu` pointer points to on a CPU. nullopt when there is no such CPU.
  std::optional<Kva> per_cpu_pointer(Kva pointer, std::uint32_t cpu) const;
  // per_cpu() with a type: that of `struct_name`, or BTF's own when it is empty. The path is "per_cpu(name,
  // 3)".
  Datum<TypedRef> per_cpu_ref(std::string_view name, std::uint32_t cpu, std::string_view struct_name,
                              const ReadContext& context) const;

  // Whether a static key (struct static_key, static_key_true or static_key_false) is on, as
  // static_key_enabled() has it: a negative count means that it is just being switched on.
  Datum<bool> static_key(std::string_view name, const ReadContext& context) const;

 private:
  Datum<Kva> locate(std::string_view name) const;
  Datum<TypeInfo> type_of(std::string_view name, std::string_view struct_name,
                          const ReadContext& context) const;
  // Bytes from a link-time address up to the next symbol that is not at the same place.
  std::uint64_t room_at(std::uint64_t address) const;

  const SymbolTable& symbols_;
  const KernelTypes* types_;
  std::uint64_t slide_;
  std::vector<std::uint64_t> per_cpu_offsets_;
};

}  // namespace ktstr
