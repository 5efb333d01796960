// The kernel's own dump, as text, against a dump of ours: every CPU and task line must be there with equal
// values.
//
// The two are made one after the other. Where the guest ran on in between, some values move: waiting times,
// sequence numbers, slices. For those there are tolerances; all else must be equal. Only what the kernel's
// text has is compared, key by key, so a line may have more or fewer keys than those of the kernels known
// today.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "proto/dump.pb.h"

namespace ktstr {

// "key=value" pairs of a line, values as they are printed.
using KernelFields = std::map<std::string, std::string>;

struct KernelDumpTask {
  bool current = false;
  std::string state;
  std::string comm;
  std::int32_t pid = 0;
  std::string owner;  // "*root"; empty in kernels without sub-schedulers
  std::int64_t delta_ms = 0;
  KernelFields fields;
};

struct KernelDumpCpu {
  std::uint32_t cpu = 0;
  std::string curr_comm;
  std::int32_t curr_pid = 0;
  // Of the CPU line and the lines right below it, `class`, and the masks by name.
  KernelFields fields;
  std::vector<KernelDumpTask> tasks;
};

struct KernelDump {
  std::vector<KernelDumpCpu> cpus;
  std::map<std::string, std::uint64_t> events;
  bool truncated = false;
};

// Text of at most 16 MiB, of any kernel; lines it does not know (what schedulers print, stacks) are passed
// over. Also as it comes from the kernel log, with "[  12.345678] " before each line. Error kUsage: there is
// no "CPU states" in it, or a CPU or task line is not understood.
Expected<KernelDump> parse_kernel_dump(std::string_view text);

struct CompareTolerance {
  std::int64_t waiting_ms = 20;
  // Counters that only grow: ops_qseq, pnt_seq, ksync, qseq, events. The kernel's is the later value.
  std::uint64_t sequence = 16;
  // Tasks that may have left a run queue before the kernel printed it: its nr_run is less by as many as it
  // has task lines less than we have.
  std::int64_t tasks_left = 0;
  // slice and dsq_vtime, ns; a slice shrinks, vtime grows.
  std::uint64_t time_ns = 0;
  // Bits of a run queue's flags that come and go. SCX_RQ_CLK_VALID (kernel/sched/sched.h): its clock is
  // valid, which it is only between taking and releasing the run queue's lock.
  std::uint64_t rq_flags = std::uint64_t{1} << 5;
};

struct DumpDifference {
  std::uint32_t cpu = 0;
  std::int32_t pid = 0;  // 0: about the CPU
  std::string field;
  std::string ours;
  std::string kernel;

  // "CPU 1 pid 12: weight is '100', the kernel's dump has '200'"
  std::string to_string() const;
};

// Empty: every line of the kernel's is in the dump.
std::vector<DumpDifference> compare_with_kernel(const ktstr::v1::Dump& ours, const KernelDump& kernel,
                                                const CompareTolerance& tolerance);

}  // namespace ktstr
