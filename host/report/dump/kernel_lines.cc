#include "host/report/dump/kernel_lines.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "common/cpu_set.h"
#include "common/kick_masks.h"
#include "host/report/dump/enum_names.h"
#include "host/report/dump/safe_text.h"

namespace ktstr {

using ktstr::v1::Cpu;
using ktstr::v1::Dump;
using ktstr::v1::Sched;
using ktstr::v1::Task;

namespace {

constexpr std::uint32_t kStateShift = 8;  // SCX_TASK_STATE_SHIFT, the same in all kernels so far
constexpr std::uint64_t kMsPerSecond = 1000;
constexpr std::int64_t kNsPerUs = 1000;

std::string named(const ktstr::v1::TaskName& task) {
  return fmt::format("{}[{}]", printable_utf8(task.comm()), task.pid());
}

}  // namespace

std::string bitmap_text(std::string_view cpu_list, std::uint32_t bits) {
  const auto cpus = CpuSet::parse(cpu_list);
  if (!cpus) return printable_utf8(cpu_list);
  bits = std::clamp<std::uint32_t>(bits, 1, CpuSet::kMaxCpus);
  std::vector<std::uint32_t> words((bits + 31) / 32, 0);
  for (const std::uint32_t cpu : cpus->cpus()) {
    if (cpu < bits) words[cpu / 32] |= std::uint32_t{1} << cpu % 32;
  }
  // The first group has only the digits that the bits above the last multiple of 32 need.
  const std::uint32_t first_bits = bits % 32 == 0 ? 32 : bits % 32;
  std::string text = fmt::format("{:0{}x}", words.back(), (first_bits + 3) / 4);
  for (std::size_t at = words.size() - 1; at-- > 0;) text += fmt::format(",{:08x}", words[at]);
  return text;
}

KernelLines::KernelLines(const Dump& dump) : dump_(dump), nr_cpu_ids_(dump.header().nr_cpu_ids()) {
  if (nr_cpu_ids_ == 0) {
    for (const Cpu& cpu : dump.cpus())
      nr_cpu_ids_ = std::max(nr_cpu_ids_, std::min(cpu.cpu(), CpuSet::kMaxCpus - 1) + 1);
  }
  const EnumNames names(dump);
  state_mask_ = static_cast<std::uint32_t>(names.value("scx_ent_flags", "SCX_TASK_STATE_MASK", 0));
  for (const Sched& sched : dump.scheds()) {
    shows_owner_ = shows_owner_ || sched.has_level();
    shows_slice_ = shows_slice_ || sched.events_size() > 0;
    places_.emplace(sched.address(), sched.place());
    if (dumped_ == nullptr || (sched.address() != 0 && sched.address() == dump.header().trap_sched())) {
      dumped_ = &sched;
    }
  }
  for (const ktstr::v1::Dsq& dsq : dump.dsqs()) {
    if (dsq.kind() == ktstr::v1::Dsq::RESCUE) rescues_.emplace(dsq.index(), dsq.nr());
  }
  by_address_.reserve(static_cast<std::size_t>(dump.tasks_size()));
  by_pid_.reserve(static_cast<std::size_t>(dump.tasks_size()));
  for (const Task& task : dump.tasks()) {
    by_address_.emplace(task.address(), &task);
    by_pid_.emplace(task.pid(), &task);
  }
}

const Task* KernelLines::find(std::uint64_t address, std::int32_t pid) const {
  if (address != 0) {
    const auto at = by_address_.find(address);
    return at == by_address_.end() ? nullptr : at->second;
  }
  const auto at = by_pid_.find(pid);
  return at == by_pid_.end() ? nullptr : at->second;
}

std::vector<const Task*> KernelLines::tasks_of(const Cpu& cpu) const {
  std::vector<const Task*> tasks;
  if (runs_ext(cpu)) tasks.push_back(find(cpu.curr().address(), cpu.curr().pid()));
  for (const std::int32_t pid : cpu.runnable_list()) tasks.push_back(find(0, pid));
  return tasks;
}

bool KernelLines::skipped(const Cpu& cpu) {
  return cpu.runnable_list_size() == 0 && cpu.curr_class() == "idle_sched_class";
}

std::vector<std::string> KernelLines::cpu(const Cpu& cpu) const {
  std::vector<std::string> lines;
  std::string first =
      fmt::format("CPU {:<4}: nr_run={} flags={:#x}", cpu.cpu(), cpu.nr_running(), cpu.flags());
  if (cpu.has_cpu_released()) first += fmt::format(" cpu_rel={}", cpu.cpu_released() ? 1 : 0);
  if (cpu.has_ops_qseq()) first += fmt::format(" ops_qseq={}", cpu.ops_qseq());
  if (cpu.has_pnt_seq()) first += fmt::format(" pnt_seq={}", cpu.pnt_seq());
  if (cpu.has_kick_sync()) first += fmt::format(" ksync={}", cpu.kick_sync());
  lines.push_back(std::move(first));
  if (cpu.has_rescue_budget()) lines.push_back(rescue(cpu));
  lines.push_back(
      fmt::format("          curr={} class={}", named(cpu.curr()), printable_utf8(cpu.curr_class())));
  for (const NamedKickMask& mask : kKickMasks) {
    const std::string& cpus = kick_mask(cpu, dumped_, mask.which);
    if (!cpus.empty())
      lines.push_back(fmt::format("  {:<15}: {}", mask.name, bitmap_text(cpus, nr_cpu_ids_)));
  }
  return lines;
}

std::string KernelLines::rescue(const Cpu& cpu) const {
  const auto waiting = rescues_.find(cpu.cpu());
  return fmt::format("          rescue={} budget={}us rescuing={}",
                     waiting == rescues_.end() ? 0 : waiting->second, cpu.rescue_budget() / kNsPerUs,
                     cpu.has_rescue_curr() ? named(cpu.rescue_curr()) : "none[-1]");
}

std::uint32_t KernelLines::state_mask(const Task& task) const {
  if (state_mask_ != 0) return state_mask_;
  // Two bits up to 7.1, three since: whichever gives the state that was read.
  const std::uint32_t three = task.flags() >> kStateShift & 7;
  return (task.has_scx_state() && three == task.scx_state() ? 7u : 3u) << kStateShift;
}

std::uint32_t KernelLines::scx_state(const Task& task) const {
  if (task.has_scx_state()) return task.scx_state();
  const std::uint32_t mask = state_mask(task);
  return (task.flags() & mask) >> std::countr_zero(mask);
}

std::uint32_t KernelLines::flags_without_state(const Task& task) const {
  return task.flags() & ~state_mask(task);
}

std::int64_t KernelLines::delta_ms(const Task& task) const {
  const std::uint64_t hz = dump_.header().hz() == 0 ? kMsPerSecond : dump_.header().hz();
  const std::uint64_t ahead = task.runnable_at() - dump_.header().jiffies();
  const bool waited = static_cast<std::int64_t>(ahead) <= 0;
  const std::uint64_t ticks = waited ? std::uint64_t{0} - ahead : ahead;
  // A mad runnable_at must not overflow.
  const auto ms = static_cast<std::int64_t>(ticks / hz % (std::uint64_t{1} << 52) * kMsPerSecond +
                                            ticks % hz * kMsPerSecond / hz);
  return waited ? -ms : ms;
}

std::string KernelLines::owner(const Task& task) const {
  const std::uint64_t root = dump_.globals().scx_root();
  const std::uint64_t address = task.has_sched() ? task.sched() : root;
  const auto place = places_.find(address);
  const bool own = dumped_ != nullptr && (address == 0 || dumped_->address() == address);
  const std::string name = place != places_.end() && !place->second.empty() ? place->second : "root";
  return fmt::format("{}{}", own ? "*" : "", printable_utf8(name));
}

std::string KernelLines::dsq_id(const Task& task) {
  return task.dsq() == 0 ? "(n/a)" : fmt::format("{:#x}", task.dsq_id());
}

std::vector<std::string> KernelLines::task(const Task& task, bool current) const {
  std::vector<std::string> lines;
  const std::string state = task.state_char().empty() ? "?" : printable_utf8(task.state_char());
  lines.push_back(fmt::format(" {}{} {}[{}]{} {:+}ms", current ? '*' : ' ', state,
                              printable_utf8(task.comm()), task.pid(), shows_owner_ ? " " + owner(task) : "",
                              delta_ms(task)));
  lines.push_back(fmt::format("      scx_state/flags={}/{:#x} dsq_flags={:#x} ops_state/qseq={}/{}",
                              scx_state(task), flags_without_state(task), task.dsq_flags(),
                              task.ops_state() & 3,
                              task.has_ops_state_qseq() ? task.ops_state_qseq() : task.ops_state() >> 2));
  std::string place = fmt::format("      sticky/holding_cpu={}/{} dsq_id={}", task.sticky_cpu(),
                                  task.holding_cpu(), dsq_id(task));
  if (!shows_slice_) place += fmt::format(" dsq_vtime={}", task.dsq_vtime());
  lines.push_back(std::move(place));
  if (shows_slice_) {
    lines.push_back(
        fmt::format("      dsq_vtime={} slice={} weight={}", task.dsq_vtime(), task.slice(), task.weight()));
  }
  std::string cpus = fmt::format("      cpus={}", bitmap_text(task.cpus_mask(), nr_cpu_ids_));
  if (shows_slice_) cpus += fmt::format(" no_mig={}", task.migration_disabled());
  lines.push_back(std::move(cpus));
  return lines;
}

}  // namespace ktstr
