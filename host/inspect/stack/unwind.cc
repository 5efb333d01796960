#include "host/inspect/stack/unwind.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

namespace ktstr {

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);

// struct pt_regs (arch/x86/include/asm/ptrace.h) as words: r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di
// orig_ax ip cs flags sp ss. The last five are what the processor pushes.
constexpr std::size_t kPtRegsWords = 21;
constexpr std::size_t kR13 = 2;
constexpr std::size_t kBp = 4;
constexpr std::size_t kR10 = 7;
constexpr std::size_t kAx = 10;
constexpr std::size_t kDx = 12;
constexpr std::size_t kDi = 14;
constexpr std::size_t kIretWords = 5;
constexpr std::size_t kIretIp = 0;
constexpr std::size_t kIretCs = 1;
constexpr std::size_t kIretSp = 3;
// The low two bits of CS are the privilege level.
constexpr std::uint64_t kCplBits = 3;

// inactive_task_frame as words.
constexpr std::size_t kInactiveWords = 7;
constexpr std::size_t kInactiveBp = 5;
constexpr std::size_t kInactiveReturn = 6;

using Register = OrcRule::Register;
using Type = OrcRule::Type;
using End = StackTrace::End;

class Unwind {
 public:
  Unwind(KernelReader& reader, ReadBudget& budget, const Unwinder& unwinder, const StackStart& start,
         std::span<const StackBounds> stacks)
      : reader_(reader),
        budget_(budget),
        unwinder_(unwinder),
        stacks_(stacks),
        ip_(start.ip),
        sp_(start.sp),
        bp_(start.bp),
        exact_(start.running),
        registers_(start.registers) {}

  StackTrace run() {
    add({.ip = ip_, .exact = exact_});
    while (step()) {
      if (trace_.frames.size() == kMaxFrames) {
        trace_.end = End::kLimit;
        return std::move(trace_);
      }
      add({.ip = ip_, .exact = exact_});
    }
    if (!trace_.note.empty()) scan();
    return std::move(trace_);
  }

 private:
  void add(const Frame& frame) { trace_.frames.push_back(frame); }

  // Goes to the caller. False at the end; `note` says why when it came early.
  bool step() {
    if (unwinder_.orc == nullptr) return early("the kernel has no ORC tables");
    // A call may be the last instruction of its function: its rule is the one of the byte before the return
    // address.
    const std::uint64_t link = ip_.value() - unwinder_.slide - (exact_ ? 0 : 1);
    const auto rule = unwinder_.orc->find(link);
    if (!rule) return early(fmt::format("no ORC rule for {}", ip_));
    if (rule->type == Type::kEndOfStack) {
      trace_.end = End::kComplete;
      return false;
    }
    const auto cfa = caller_sp(*rule);
    if (!cfa) return false;
    const Kva old_sp = sp_;
    if (!find_ip(*rule, *cfa)) return false;
    if (!find_bp(*rule, *cfa)) return false;
    exact_ = rule->signal;
    const StackBounds* stack = stack_of(old_sp, 1);
    if (stack != nullptr && stack == stack_of(sp_, 1) && sp_ <= old_sp)
      return early(fmt::format("the frame of {} leads down the stack", trace_.frames.back().ip));
    return true;
  }

  // The stack pointer before the call (or where pt_regs begins).
  std::optional<Kva> caller_sp(const OrcRule& rule) {
    const auto offset = static_cast<std::uint64_t>(std::int64_t{rule.sp_offset});
    const auto from_register = [this](std::optional<std::uint64_t> value) -> std::optional<Kva> {
      if (value) return Kva(*value);
      early(fmt::format("the ORC rule of {} needs a register that is not known", ip_));
      return std::nullopt;
    };
    switch (rule.sp_register) {
      case Register::kSp:
        return sp_ + offset;
      case Register::kBp:
        return bp_ + offset;
      case Register::kSpIndirect: {
        const auto value = word(sp_);
        if (!value) return std::nullopt;
        return Kva(*value) + offset;
      }
      case Register::kBpIndirect: {
        const auto value = word(bp_ + offset);
        if (!value) return std::nullopt;
        return Kva(*value);
      }
      case Register::kAx:
        return from_register(registers_ ? std::optional(registers_->ax) : std::nullopt);
      case Register::kDx:
        return from_register(registers_ ? std::optional(registers_->dx) : std::nullopt);
      case Register::kDi:
        return from_register(registers_ ? std::optional(registers_->di) : std::nullopt);
      case Register::kR10:
        return from_register(registers_ ? std::optional(registers_->r10) : std::nullopt);
      case Register::kR13:
        return from_register(registers_ ? std::optional(registers_->r13) : std::nullopt);
      default:
        early(fmt::format("the ORC rule of {} is undefined", ip_));
        return std::nullopt;
    }
  }

  bool find_ip(const OrcRule& rule, Kva cfa) {
    switch (rule.type) {
      case Type::kCall: {
        const auto value = word(cfa - kWord);
        if (!value) return false;
        ip_ = Kva(*value);
        sp_ = cfa;
        registers_.reset();
        bp_saved_.reset();
        return true;
      }
      case Type::kRegs: {
        const auto regs = words<kPtRegsWords>(cfa);
        if (!regs) return false;
        registers_ = StackStart::Registers{.ax = (*regs)[kAx],
                                           .dx = (*regs)[kDx],
                                           .di = (*regs)[kDi],
                                           .r10 = (*regs)[kR10],
                                           .r13 = (*regs)[kR13]};
        bp_saved_ = Kva((*regs)[kBp]);
        return take_iret(std::span(*regs).last<kIretWords>());
      }
      case Type::kRegsPartial: {
        const auto frame = words<kIretWords>(cfa);
        if (!frame) return false;
        bp_saved_.reset();
        return take_iret(*frame);
      }
      default:
        return early(fmt::format("the ORC rule of {} is undefined", ip_));
    }
  }

  bool take_iret(std::span<const std::uint64_t, kIretWords> frame) {
    if ((frame[kIretCs] & kCplBits) != 0) {
      trace_.end = End::kUserMode;
      return false;
    }
    ip_ = Kva(frame[kIretIp]);
    sp_ = Kva(frame[kIretSp]);
    return true;
  }

  bool find_bp(const OrcRule& rule, Kva cfa) {
    const auto offset = static_cast<std::uint64_t>(std::int64_t{rule.bp_offset});
    std::optional<std::uint64_t> value;
    switch (rule.bp_register) {
      case Register::kUndefined:
        if (bp_saved_) bp_ = *bp_saved_;
        return true;
      case Register::kPrevSp:
        value = word(cfa + offset);
        break;
      case Register::kBp:
        value = word(bp_ + offset);
        break;
      default:
        return early(fmt::format("the ORC rule of {} is undefined", trace_.frames.back().ip));
    }
    if (!value) return false;
    bp_ = Kva(*value);
    return true;
  }

  // Reads from the stack; what lies outside of all stacks, or can not be read, ends the unwinding.
  template <std::size_t kCount>
  std::optional<std::array<std::uint64_t, kCount>> words(Kva place) {
    if (stack_of(place, kCount * kWord) == nullptr) {
      early(fmt::format("{} is on no stack", place));
      return std::nullopt;
    }
    const auto read = reader_.read<std::array<std::uint64_t, kCount>>(place, budget_);
    if (read) return *read;
    early(read.error().to_string());
    return std::nullopt;
  }
  std::optional<std::uint64_t> word(Kva place) {
    const auto read = words<1>(place);
    return read ? std::optional((*read)[0]) : std::nullopt;
  }

  const StackBounds* stack_of(Kva place, std::uint64_t size) const {
    for (const StackBounds& stack : stacks_) {
      if (place >= stack.begin && place < stack.end && stack.end - place >= size) return &stack;
    }
    return nullptr;
  }

  bool early(std::string why) {
    trace_.note = std::move(why);
    return false;
  }

  // Every word above the stack pointer that may be a return address.
  void scan() {
    const StackBounds* stack = stack_of(sp_, 1);
    if (stack == nullptr) return;
    const Kva begin((sp_.value() + kWord - 1) & ~(kWord - 1));
    const std::uint64_t size = std::min(stack->end - std::min(begin, stack->end), kMaxScan) / kWord * kWord;
    std::array<std::uint64_t, 64> piece;
    trace_.end = End::kScanned;
    for (std::uint64_t done = 0; done < size;) {
      const std::uint64_t bytes = std::min<std::uint64_t>(size - done, sizeof piece);
      const auto read = reader_.read(
          begin + done, std::as_writable_bytes(std::span(piece)).first(static_cast<std::size_t>(bytes)),
          budget_);
      if (!read) return;
      for (std::uint64_t n = 0; n < bytes / kWord; ++n) {
        // A return address has a call before it.
        if (!unwinder_.text.contains(piece[n]) || piece[n] == unwinder_.text.begin) continue;
        if (trace_.frames.size() == kMaxFrames) {
          trace_.end = End::kLimit;
          return;
        }
        add({.ip = Kva(piece[n]), .guess = true});
      }
      done += bytes;
    }
  }

  KernelReader& reader_;
  ReadBudget& budget_;
  const Unwinder& unwinder_;
  std::span<const StackBounds> stacks_;
  StackTrace trace_;
  Kva ip_;
  Kva sp_;
  Kva bp_;
  bool exact_;
  std::optional<StackStart::Registers> registers_;
  std::optional<Kva> bp_saved_;  // rbp of the pt_regs that were just passed
};

}  // namespace

StackTrace unwind(KernelReader& reader, ReadBudget& budget, const Unwinder& unwinder, const StackStart& start,
                  std::span<const StackBounds> stacks) {
  return Unwind(reader, budget, unwinder, start, stacks).run();
}

FaultOr<StackStart> sleeping_task(KernelReader& reader, ReadBudget& budget, Kva sp) {
  const auto frame = reader.read<std::array<std::uint64_t, kInactiveWords>>(sp, budget);
  if (!frame) return std::unexpected(frame.error());
  return StackStart{.ip = Kva((*frame)[kInactiveReturn]),
                    .sp = sp + kInactiveWords * kWord,
                    .bp = Kva((*frame)[kInactiveBp]),
                    .running = false,
                    .registers = {}};
}

}  // namespace ktstr
