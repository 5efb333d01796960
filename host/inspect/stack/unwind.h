// Unwinding of the kernel's stacks, from outside.
//
// By ORC as the kernel does it itself (OrcTable): each frame's rule gives the stack pointer of its caller and
// where the return address lies. The unwinding crosses from an interrupt's stack to the task's where the
// rules say so, and ends at the entry from user mode.
//
// Where ORC does not help (a module, a BPF program, a stack that is damaged) the rest of the stack is
// scanned: every word that points into the kernel's text behind the first instruction may be a return
// address. Such frames are marked as guesses: some of them are left over from earlier calls.
//
// Everything read from the stack is taken as a hint only: reads stay inside the stacks the caller named, each
// step on one stack goes up, and the number of frames is bounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/inspect/stack/orc_table.h"
#include "host/kernel/symbol_table.h"
#include "host/memory/address.h"
#include "host/memory/kernel_reader.h"
#include "host/memory/read_budget.h"

namespace ktstr {

// Most frames of one stack.
inline constexpr std::size_t kMaxFrames = 64;
// Most bytes that a scan looks at: THREAD_SIZE with KASAN is 32 KiB.
inline constexpr std::uint64_t kMaxScan = std::uint64_t{32} << 10;

// A stack, [begin, end).
struct StackBounds {
  Kva begin;
  Kva end;
};

// Where to begin.
struct StackStart {
  Kva ip;
  Kva sp;
  Kva bp;
  // Of a running vCPU `ip` is the next instruction to execute; of a sleeping task it is a return address.
  bool running = true;
  // Further registers of a running vCPU; some rules of entry code need them.
  struct Registers {
    std::uint64_t ax = 0, dx = 0, di = 0, r10 = 0, r13 = 0;
  };
  std::optional<Registers> registers;
};

struct Frame {
  Kva ip;
  bool guess = false;  // found by scanning
  // `ip` is an instruction that was interrupted (or is about to run), not a return address: the symbol is
  // that of ip itself, not of ip - 1.
  bool exact = false;

  bool operator==(const Frame&) const = default;
};

struct StackTrace {
  enum class End {
    kComplete,    // ORC says that there is no caller
    kUserMode,    // the frame above is in user mode
    kLimit,       // kMaxFrames
    kScanned,     // ORC ended early, the rest are guesses
    kOutOfReach,  // ORC ended early, and there was nothing to scan
  };
  std::vector<Frame> frames;  // innermost first; the first is where it began
  End end = End::kOutOfReach;
  // Why ORC ended early: "no rule for 0xffffffffc0001234"; empty when it did not.
  std::string note;
};

struct Unwinder {
  const OrcTable* orc = nullptr;  // optional: without it stacks are scanned only
  std::uint64_t slide = 0;        // KernelLocation::slide
  AddressRange text;              // the kernel's text where it runs, _stext to _etext
};

// The stack of a vCPU or a task. `stacks` are those it may use (task, interrupt and exception stacks), the
// one it is on among them.
StackTrace unwind(KernelReader& reader, ReadBudget& budget, const Unwinder& unwinder, const StackStart& start,
                  std::span<const StackBounds> stacks);

// Where a task that is not running will go on: `sp` is its thread.sp, below which __switch_to_asm() saved
// struct inactive_task_frame (arch/x86/include/asm/switch_to.h): r15, r14, r13, r12, bx, bp and the return
// address, of eight bytes each.
FaultOr<StackStart> sleeping_task(KernelReader& reader, ReadBudget& budget, Kva sp);

}  // namespace ktstr
