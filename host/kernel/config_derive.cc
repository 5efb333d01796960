#include "host/kernel/config_derive.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>

namespace ktstr {
namespace {

// option -> "y", "n" or a value
using Options = std::map<std::string, std::string>;

// A member that exists exactly when the option is on. When the struct itself is not in the BTF nothing is
// concluded.
struct MemberRule {
  const char* option;
  const char* structure;
  const char* member;
};

// include/linux/sched.h, kernel/sched/sched.h, include/linux/module.h, include/linux/device.h,
// include/linux/mutex_types.h: each stood in the same #ifdef in 6.12 and in 7.2.
constexpr std::array kMemberRules{
    MemberRule{"BPF_EVENTS", "module", "bpf_raw_events"},
    MemberRule{"CFS_BANDWIDTH", "cfs_rq", "runtime_enabled"},
    MemberRule{"CGROUPS", "task_struct", "cgroups"},
    MemberRule{"CGROUP_SCHED", "task_struct", "sched_task_group"},
    MemberRule{"CPUSETS", "task_struct", "mems_allowed"},
    MemberRule{"DEBUG_INFO_BTF_MODULES", "module", "btf_data"},
    MemberRule{"DYNAMIC_FTRACE", "module", "ftrace_callsites"},
    MemberRule{"EVENT_TRACING", "module", "trace_events"},
    MemberRule{"FAIR_GROUP_SCHED", "sched_entity", "cfs_rq"},
    MemberRule{"JUMP_LABEL", "module", "jump_entries"},
    MemberRule{"KALLSYMS", "module", "kallsyms"},
    MemberRule{"KPROBES", "module", "kprobes_text_start"},
    MemberRule{"MEMCG", "task_struct", "memcg_nr_pages_over_high"},
    MemberRule{"NO_HZ_COMMON", "rq", "nohz_csd"},
    MemberRule{"NO_HZ_FULL", "task_struct", "tick_dep_mask"},
    MemberRule{"NUMA", "device", "numa_node"},
    MemberRule{"NUMA_BALANCING", "task_struct", "numa_faults"},
    MemberRule{"PARAVIRT", "rq", "prev_steal_time"},
    MemberRule{"PERF_EVENTS", "task_struct", "perf_event_ctxp"},
    MemberRule{"PREEMPT_RCU", "task_struct", "rcu_read_lock_nesting"},
    MemberRule{"PREEMPT_RT", "mutex", "rtmutex"},
    MemberRule{"PSI", "task_struct", "psi_flags"},
    MemberRule{"RT_GROUP_SCHED", "task_group", "rt_se"},
    MemberRule{"SCHED_AUTOGROUP", "task_group", "autogroup"},
    MemberRule{"SCHED_CORE", "task_struct", "core_cookie"},
    MemberRule{"SCHED_HRTICK", "rq", "hrtick_timer"},
    MemberRule{"SCHED_INFO", "sched_info", "run_delay"},
    MemberRule{"SCHEDSTATS", "sched_statistics", "wait_start"},
    MemberRule{"TASKS_RCU", "task_struct", "rcu_tasks_holdout"},
    MemberRule{"TASKS_TRACE_RCU", "task_struct", "trc_reader_nesting"},
    MemberRule{"TRACEPOINTS", "module", "tracepoints_ptrs"},
    MemberRule{"UCLAMP_TASK", "task_struct", "uclamp"},
    MemberRule{"UCLAMP_TASK_GROUP", "task_group", "uclamp"},
    MemberRule{"UPROBES", "task_struct", "utask"},
    MemberRule{"VIRT_CPU_ACCOUNTING_GEN", "task_struct", "vtime"},
};

// A function or per-CPU variable that exists only when the option is on. Its absence proves nothing: it may
// have been inlined away or renamed.
struct SymbolRule {
  const char* option;
  const char* symbol;
  bool variable;
};

constexpr std::array kSymbolRules{
    SymbolRule{"BPF_JIT", "bpf_int_jit_compile", false},
    SymbolRule{"BPF_LSM", "bpf_lsm_file_open", false},
    SymbolRule{"BPF_SYSCALL", "__sys_bpf", false},
    SymbolRule{"CGROUP_BPF", "__cgroup_bpf_run_filter_skb", false},
    SymbolRule{"FUNCTION_TRACER", "register_ftrace_function", false},
    SymbolRule{"HOTPLUG_CPU", "_cpu_down", false},
    SymbolRule{"PREEMPT_DYNAMIC", "sched_dynamic_update", false},
    SymbolRule{"SCHED_CLUSTER", "x86_cluster_flags", false},
    SymbolRule{"SCHED_MC", "x86_core_flags", false},
    SymbolRule{"SCHED_SMT", "__update_idle_core", false},
    SymbolRule{"SMP", "cpu_sibling_map", true},
};

// include/linux/cgroup_subsys.h: SUBSYS(x) makes the enumerator x_cgrp_id.
struct ControllerRule {
  const char* option;
  const char* enumerator;
};

constexpr std::array kControllerRules{
    ControllerRule{"BLK_CGROUP", "io_cgrp_id"},
    ControllerRule{"CGROUP_CPUACCT", "cpuacct_cgrp_id"},
    ControllerRule{"CGROUP_DEVICE", "devices_cgrp_id"},
    ControllerRule{"CGROUP_DMEM", "dmem_cgrp_id"},
    ControllerRule{"CGROUP_FREEZER", "freezer_cgrp_id"},
    ControllerRule{"CGROUP_HUGETLB", "hugetlb_cgrp_id"},
    ControllerRule{"CGROUP_MISC", "misc_cgrp_id"},
    ControllerRule{"CGROUP_NET_CLASSID", "net_cls_cgrp_id"},
    ControllerRule{"CGROUP_NET_PRIO", "net_prio_cgrp_id"},
    ControllerRule{"CGROUP_PERF", "perf_event_cgrp_id"},
    ControllerRule{"CGROUP_PIDS", "pids_cgrp_id"},
    ControllerRule{"CGROUP_RDMA", "rdma_cgrp_id"},
};

void set(Options& options, const char* option, bool on) {
  options.insert_or_assign(option, std::string(1, on ? 'y' : 'n'));
}

bool is_on(const Options& options, const char* option) {
  const auto found = options.find(option);
  return found != options.end() && found->second == "y";
}

void apply_tables(Options& options, const Btf& btf) {
  std::map<std::string, std::optional<std::uint32_t>> structs;
  for (const MemberRule& rule : kMemberRules) {
    auto [found, is_new] = structs.try_emplace(rule.structure);
    if (is_new) found->second = btf.find_struct(rule.structure);
    if (found->second) set(options, rule.option, btf.has_member(*found->second, rule.member));
  }
  for (const SymbolRule& rule : kSymbolRules) {
    if (rule.variable ? btf.has_var(rule.symbol) : btf.has_func(rule.symbol)) set(options, rule.option, true);
  }
  const auto controllers = btf.enumerators("cgroup_subsys_id");
  if (controllers.empty()) return;
  for (const ControllerRule& rule : kControllerRules) {
    set(options, rule.option,
        std::find(controllers.begin(), controllers.end(), rule.enumerator) != controllers.end());
  }
}

// What takes more than one look.
void apply_special_cases(Options& options, const Btf& btf) {
  set(options, "DEBUG_INFO_BTF", true);
  if (const auto size = btf.member_size("cpumask", "bits"); size && *size > 0 && *size <= 65536) {
    options["NR_CPUS"] = fmt::format("{}", *size * 8);
  }
  const bool scheduler_known = btf.has_struct("task_struct");
  const bool sched_ext = btf.has_struct("sched_ext_entity");
  if (scheduler_known) set(options, "SCHED_CLASS_EXT", sched_ext);
  // 6.12 to 6.16 put the members into task_group itself, later kernels into an own struct that is always
  // there.
  if (sched_ext) {
    set(options, "EXT_GROUP_SCHED",
        btf.has_member("scx_task_group", "weight") || btf.has_member("task_group", "scx_weight"));
  }
  if (btf.has_struct("rcu_node")) set(options, "TREE_RCU", true);
  // The three are one choice (kernel/time/Kconfig).
  if (options.contains("NO_HZ_COMMON") && options.contains("NO_HZ_FULL")) {
    set(options, "NO_HZ_IDLE", is_on(options, "NO_HZ_COMMON") && !is_on(options, "NO_HZ_FULL"));
    set(options, "HZ_PERIODIC", !is_on(options, "NO_HZ_COMMON"));
  }
  // BPF_SYSCALL selects it.
  if (is_on(options, "BPF_SYSCALL")) set(options, "BPF", true);
  if (btf.has_func("___bpf_prog_run")) set(options, "BPF_JIT_ALWAYS_ON", false);
}

// init/Makefile puts "SMP" and one of PREEMPT, PREEMPT_LAZY, PREEMPT_DYNAMIC, PREEMPT_RT and the like into
// the version; PREEMPT_RT hides the others.
void apply_banner(Options& options, std::string_view version) {
  std::vector<std::string_view> words;
  while (!version.empty()) {
    const std::size_t end = std::min(version.find(' '), version.size());
    words.push_back(version.substr(0, end));
    version.remove_prefix(std::min(end + 1, version.size()));
  }
  const auto has = [&words](std::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  };
  if (words.empty() || !words.front().starts_with('#')) return;
  if (has("SMP")) set(options, "SMP", true);
  const bool rt = has("PREEMPT_RT");
  if (!options.contains("PREEMPT_RT")) set(options, "PREEMPT_RT", rt);
  if (!options.contains("PREEMPT_DYNAMIC") && !rt) set(options, "PREEMPT_DYNAMIC", has("PREEMPT_DYNAMIC"));
}

}  // namespace

KernelConfig derive_config(const DeriveInput& input) {
  Options options;
  set(options, "64BIT", true);
  set(options, "X86", true);
  set(options, "X86_64", true);
  if (input.pvh_entry) set(options, "PVH", true);
  if (input.btf != nullptr) {
    apply_tables(options, *input.btf);
    apply_special_cases(options, *input.btf);
  }
  apply_banner(options, input.uts_version);

  std::string text = fmt::format(
      "#\n# Derived by ktstr-vm from the kernel image of {}, which came without its configuration:\n"
      "# from its types (BTF), its version string and its ELF notes. Options that the image does not tell "
      "are left out.\n"
      "# CONFIG_NR_CPUS may be rounded up to a multiple of 64.\n#\n",
      input.release);
  for (const auto& [option, value] : options) {
    text += value == "n" ? fmt::format("# CONFIG_{} is not set\n", option)
                         : fmt::format("CONFIG_{}={}\n", option, value);
  }
  // Cannot fail: every line was made right here.
  return KernelConfig::parse(std::move(text), KernelConfig::Origin::kDerived).value_or(KernelConfig());
}

}  // namespace ktstr
