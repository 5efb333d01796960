#include "host/inspect/scx/scx_dumper.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/xxh3.h"

namespace ktstr {
namespace {

constexpr std::uint64_t kInterruptFlag = 1 << 9;  // RFLAGS.IF

// A kernel that does not say its HZ: jiffies_64 started at -300 s as an unsigned 32-bit number of ticks
// (INITIAL_JIFFIES), and a run queue's clock counts from boot too.
std::uint32_t deduce_hz(std::uint64_t jiffies, std::uint64_t clock_ns) {
  std::uint32_t best = 0;
  double least = 0.2;  // farther off than that is no answer
  for (const std::uint32_t hz : {100U, 250U, 300U, 1000U}) {
    const std::uint64_t first = static_cast<std::uint32_t>(-300 * static_cast<std::int64_t>(hz));
    const double seconds = static_cast<double>(jiffies - first) / hz;
    const double off = std::abs(seconds / (static_cast<double>(clock_ns) / 1e9) - 1);
    if (off >= least) continue;
    least = off;
    best = hz;
  }
  return best;
}

std::uint32_t hz_of(const ScxPlan& plan, const GuestKernel& kernel, ScxCaptured& captured) {
  ReadBudget budget(1 << 16, 1000);
  const auto jiffies_at = kernel.symbol("jiffies_64");
  const auto clock = kernel.types()->place(plan.rq.layout.type(), "clock");
  if (!jiffies_at || !clock || captured.objects.cpus.empty()) return 0;
  const auto jiffies = captured.memory.read<std::uint64_t>(*jiffies_at, budget);
  const auto now =
      captured.memory.read<std::uint64_t>(captured.objects.cpus.front().rq + clock->offset, budget);
  return jiffies && now && *now != 0 ? deduce_hz(*jiffies, *now) : 0;
}

std::vector<VcpuWitness> witnesses(std::span<const std::optional<VcpuRegisters>> registers) {
  std::vector<VcpuWitness> all;
  for (const auto& one : registers) {
    VcpuWitness& witness = all.emplace_back();
    if (one) witness = {one->cr3, one->cr4, one->idt_base, one->idt_limit, std::nullopt};
  }
  return all;
}

// Parts of the image that no kernel changes: its build id and its banner.
std::vector<ImageBytes> unchanging(const KernelImage& image) {
  std::vector<ImageBytes> all;
  if (const ElfSection* notes = image.elf().section(".notes"); notes != nullptr && !notes->bytes.empty())
    all.push_back({notes->address, notes->bytes});
  return all;
}

}  // namespace

ktstr::v1::Vcpu describe_vcpu(std::uint32_t cpu, const VcpuRegisters& registers, const GuestKernel& kernel) {
  ktstr::v1::Vcpu vcpu;
  vcpu.set_cpu(cpu);
  vcpu.set_rip(registers.rip);
  vcpu.set_rsp(registers.rsp);
  vcpu.set_rflags(registers.rflags);
  vcpu.set_cr3(registers.cr3);
  vcpu.set_user_mode((registers.cs & 3) != 0);
  vcpu.set_interrupts_enabled((registers.rflags & kInterruptFlag) != 0);
  if (registers.halted) vcpu.set_halted(*registers.halted);
  if (!vcpu.user_mode()) vcpu.set_symbol(kernel.describe(Kva(registers.rip)));
  for (const std::uint64_t value :
       {registers.rax, registers.rbx, registers.rcx, registers.rdx, registers.rsi, registers.rdi,
        registers.rbp, registers.rsp, registers.r8, registers.r9, registers.r10, registers.r11, registers.r12,
        registers.r13, registers.r14, registers.r15})
    vcpu.add_general(value);
  return vcpu;
}

ScxDumper::ScxDumper(const KernelImage& image, KernelSymbols symbols, std::uint32_t cpus)
    : image_(image),
      symbols_(std::move(symbols)),
      types_(*image.btf()),
      plan_(make_scx_plan(types_, cpus)),
      hz_(image.config().hz()) {}

Expected<std::unique_ptr<ScxDumper>> ScxDumper::create(const KernelImage& image, const SymbolFiles& named,
                                                       std::uint32_t cpus) {
  if (image.btf() == nullptr) {
    return fail(ErrorCode::kKernelLacks,
                fmt::format("kernel {} has no BTF, so its structures cannot be read; build it with "
                            "CONFIG_DEBUG_INFO_BTF=y (pahole is needed)",
                            image.release()));
  }
  auto symbols = find_symbols(image, named);
  if (!symbols) return std::unexpected(std::move(symbols.error()));
  return std::unique_ptr<ScxDumper>(new ScxDumper(image, std::move(*symbols), cpus));
}

Expected<void> ScxDumper::locate(const StoppedGuest& guest) {
  const auto vcpus = witnesses(guest.registers);
  const auto expected = unchanging(image_);
  auto location = find_kernel({.memory = guest.memory,
                               .symbols = symbols_.table,
                               .vcpus = vcpus,
                               .vmcoreinfo = guest.vmcoreinfo,
                               .text = guest.text,
                               .expected = expected});
  if (!location) return std::unexpected(std::move(location.error()));
  location_ = std::move(*location);
  kernel_.emplace(symbols_.table, &types_, location_->slide);
  return {};
}

Expected<KernelMemory> ScxDumper::view(const GuestMemory& memory) const {
  auto layout = make_layout(*location_, symbols_.table, memory.end());
  if (!layout) return std::unexpected(std::move(layout.error()));
  return KernelMemory(memory, *layout);
}

Expected<ScxCaptured> ScxDumper::capture(const StoppedGuest& guest, Kva sched, CapturedMemory reuse) {
  const auto begin = std::chrono::steady_clock::now();
  auto memory = view(guest.memory);
  if (!memory) return std::unexpected(std::move(memory.error()));
  ScxCaptured captured;
  captured.memory = std::move(reuse);
  if (!captured.memory.prepare(0)) return fail(ErrorCode::kHost, "no address space is left for a dump");
  ReadBudget budget(1 << 20, 10'000);
  // Not there yet in early boot: then there are no CPUs in the dump, and it says why.
  [[maybe_unused]] const auto loaded = kernel_->load_per_cpu_offsets({types_, *memory, budget});
  CaptureHints hints{.sched = sched, .stack_pointers = {}};
  for (const auto& one : guest.registers)
    hints.stack_pointers.push_back(one && (one->cs & 3) == 0 ? Kva(one->rsp) : Kva());
  captured.objects = capture_scx(plan_, *kernel_, *memory, captured.memory, hints);
  captured.took = std::chrono::steady_clock::now() - begin;
  for (std::uint32_t cpu = 0; cpu < guest.registers.size(); ++cpu) {
    auto& vcpu = captured.vcpus.emplace_back();
    vcpu.set_cpu(cpu);
    if (guest.registers[cpu]) vcpu = describe_vcpu(cpu, *guest.registers[cpu], *kernel_);
  }
  if (std::ranges::any_of(guest.registers, [](const auto& one) { return one && !one->halted; })) {
    auto& absence = captured.objects.absent.emplace_back();
    absence.set_what("Vcpu.halted");
    absence.set_reason("the registers come from a memory image, which does not say which CPUs were halted");
  }
  return captured;
}

ktstr::v1::Dump ScxDumper::inspect(ScxCaptured& captured) const {
  const auto begin = std::chrono::steady_clock::now();
  captured.memory.seal();
  InspectInput input;
  input.vcpus = captured.vcpus;
  if (!orc_) orc_ = OrcTable::parse(image_.elf(), image_.image_path());
  input.orc = *orc_ ? &**orc_ : nullptr;
  input.hz = hz_ != 0 ? hz_ : hz_of(plan_, *kernel_, captured);
  auto dump = inspect_scx(plan_, *kernel_, captured.memory, captured.objects, input);
  auto& header = *dump.mutable_header();
  CpuSet untold;
  for (const auto& vcpu : captured.vcpus) {
    if (!vcpu.has_stopped_after_ns()) untold.insert(vcpu.cpu());
  }
  if (!untold.empty()) {
    auto* absence = dump.add_absent();
    absence->set_what("Vcpu.stopped_after_ns");
    absence->set_reason(
        fmt::format("nothing tells when vCPU {} stopped; rendezvous_ns of the header is until all had",
                    untold.to_string()));
  }
  if (!*orc_) {
    auto* absence = dump.add_absent();
    absence->set_what("unwound stacks");
    absence->set_reason(orc_->error().to_string());
  }
  header.set_kernel_release(image_.release());
  header.set_build_id(image_.build_id());
  if (const ElfSection* btf = image_.elf().section(".BTF")) header.set_btf_xxh3(Xxh3::hex_of(btf->bytes));
  header.set_symbols_from(symbols_.table.origin());
  header.set_location(location_->evidence);
  header.set_captured_bytes(captured.memory.bytes());
  header.set_captured_objects(captured.memory.objects());
  header.set_capture_ns(static_cast<std::uint64_t>(captured.took.count()));
  header.set_inspect_ns(static_cast<std::uint64_t>((std::chrono::steady_clock::now() - begin).count()));
  return dump;
}

}  // namespace ktstr
