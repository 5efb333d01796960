#include "host/kernel/btf.h"

#include <gtest/gtest.h>

#include "host/kernel/config_derive.h"
#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

using Kind = ConfigValue::Kind;

TEST(Btf, AnswersAboutTypes) {
  auto btf = Btf::parse(bytes_of(make_btf()));
  ASSERT_TRUE(btf) << btf.error().to_string();
  EXPECT_TRUE(btf->has_struct("sched_ext_entity"));
  EXPECT_FALSE(btf->has_struct("no_such"));
  EXPECT_EQ(btf->struct_size("cpumask"), 16u);
  EXPECT_EQ(btf->struct_size("no_such"), std::nullopt);
  EXPECT_EQ(btf->member_size("cpumask", "bits"), 16u);
  EXPECT_EQ(btf->member_size("cpumask", "no_such"), std::nullopt);
  EXPECT_TRUE(btf->has_member("task_struct", "cgroups"));
  EXPECT_TRUE(btf->has_member("task_struct", "inner_member"));
  EXPECT_FALSE(btf->has_member("task_struct", ""));
  EXPECT_FALSE(btf->has_member("no_such", "cgroups"));
  EXPECT_TRUE(btf->has_func("x86_core_flags"));
  EXPECT_FALSE(btf->has_func("cpu_sibling_map"));
  EXPECT_TRUE(btf->has_var("cpu_sibling_map"));
  EXPECT_EQ(btf->enumerators("cgroup_subsys_id"),
            (std::vector<std::string>{"cpuset_cgrp_id", "pids_cgrp_id"}));
  EXPECT_TRUE(btf->enumerators("no_such").empty());
}

TEST(Btf, AForwardDeclarationIsNoStruct) {
  auto btf = Btf::parse(bytes_of(make_btf({.sched_ext = false})));
  ASSERT_TRUE(btf);
  EXPECT_FALSE(btf->has_struct("sched_ext_entity"));
}

TEST(Btf, SurvivesTruncationAndEveryByteSetToExtremes) {
  const std::string good = make_btf();
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(Btf::parse(bytes_of(good.substr(0, size))));
  }
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const char value : {'\0', '\x01', '\x7f', '\xff'}) {
      std::string spoiled = good;
      spoiled[at] = value;
      if (auto btf = Btf::parse(bytes_of(spoiled))) {
        derive_config({.release = "1", .uts_version = "", .btf = &*btf, .pvh_entry = false});
      }
    }
  }
}

TEST(DeriveConfig, TellsWhatTheTypesShow) {
  auto btf = Btf::parse(bytes_of(make_btf()));
  const KernelConfig config =
      derive_config({.release = kRelease, .uts_version = kUtsVersion, .btf = &*btf, .pvh_entry = true});
  EXPECT_EQ(config.source(), "derived");
  EXPECT_FALSE(config.complete());
  EXPECT_EQ(config.text().find("#\n# Derived by ktstr-vm"), 0u);
  EXPECT_NE(config.text().find(kRelease), std::string::npos);
  EXPECT_EQ(config.lookup("NR_CPUS").text, "128");
  for (const char* on :
       {"X86_64", "SMP", "SCHED_CLASS_EXT", "EXT_GROUP_SCHED", "PREEMPT_RCU", "PREEMPT_DYNAMIC",
        "NO_HZ_COMMON", "NO_HZ_IDLE", "CGROUPS", "CGROUP_PIDS", "SCHED_MC", "DEBUG_INFO_BTF", "PVH"}) {
    EXPECT_EQ(config.lookup(on).kind, Kind::kYes) << on;
  }
  for (const char* off :
       {"PREEMPT_RT", "NO_HZ_FULL", "HZ_PERIODIC", "SCHED_CORE", "CGROUP_RDMA", "NUMA_BALANCING"}) {
    EXPECT_EQ(config.lookup(off).kind, Kind::kNo) << off;
  }
  // A function that is not there proves nothing, a struct that is not there neither.
  for (const char* unknown : {"SCHED_SMT", "BPF_SYSCALL", "KALLSYMS", "KALLSYMS_ALL", "UCLAMP_TASK_GROUP"}) {
    EXPECT_EQ(config.lookup(unknown).kind, Kind::kAbsent) << unknown;
  }
}

TEST(DeriveConfig, TellsTheOtherWayRound) {
  auto btf = Btf::parse(bytes_of(make_btf({.sched_ext = false, .preempt_rcu = false, .no_hz_full = true})));
  const KernelConfig config =
      derive_config({.release = "1", .uts_version = "#2", .btf = &*btf, .pvh_entry = false});
  for (const char* off : {"SCHED_CLASS_EXT", "PREEMPT_RCU", "NO_HZ_IDLE", "PREEMPT_DYNAMIC"}) {
    EXPECT_EQ(config.lookup(off).kind, Kind::kNo) << off;
  }
  EXPECT_EQ(config.lookup("NO_HZ_FULL").kind, Kind::kYes);
  EXPECT_EQ(config.lookup("EXT_GROUP_SCHED").kind, Kind::kAbsent);
  EXPECT_EQ(config.lookup("PVH").kind, Kind::kAbsent);
}

TEST(DeriveConfig, WithoutTypesTheBannerRemains) {
  const KernelConfig rt = derive_config(
      {.release = "1", .uts_version = "#1 SMP PREEMPT_RT Debian", .btf = nullptr, .pvh_entry = false});
  EXPECT_EQ(rt.lookup("PREEMPT_RT").kind, Kind::kYes);
  EXPECT_EQ(rt.lookup("PREEMPT_DYNAMIC").kind, Kind::kAbsent);
  EXPECT_EQ(rt.lookup("SMP").kind, Kind::kYes);
  EXPECT_EQ(rt.lookup("SCHED_CLASS_EXT").kind, Kind::kAbsent);
  const KernelConfig none = derive_config(
      {.release = "1", .uts_version = "rubbish PREEMPT_RT", .btf = nullptr, .pvh_entry = false});
  EXPECT_EQ(none.lookup("PREEMPT_RT").kind, Kind::kAbsent);
}

}  // namespace
}  // namespace ktstr::test
