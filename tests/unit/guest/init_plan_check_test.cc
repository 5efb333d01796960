#include <gtest/gtest.h>

#include "guest/init/plan_check.h"

namespace ktstr::guest {
namespace {

v1::RunPlan good_plan() {
  v1::RunPlan plan;
  plan.set_schema_version(kPlanVersion);
  plan.mutable_scheduler()->set_guest_path("/bin/scx_simple");
  v1::Step& step = *plan.mutable_scenario()->add_steps();
  v1::CgroupDef& cgroup = *step.add_cgroups();
  cgroup.set_name("a");
  v1::WorkSpec& work = *cgroup.add_works();
  work.set_workers(2);
  work.mutable_spin();
  step.mutable_hold()->set_full(true);
  return plan;
}

TEST(RefusePlan, TakesAGoodOne) {
  EXPECT_EQ(refuse_plan(good_plan(), 2), "");
}

TEST(RefusePlan, RefusesAnotherVersion) {
  v1::RunPlan plan = good_plan();
  plan.set_schema_version(2);
  EXPECT_EQ(refuse_plan(plan, 2), "the plan has schema version 2, this guest knows version 1");
}

TEST(RefusePlan, RefusesWhatCannotBeExecuted) {
  v1::RunPlan plan = good_plan();
  plan.mutable_scheduler()->set_guest_path("bin/x");
  EXPECT_NE(refuse_plan(plan, 2).find("guest_path 'bin/x'"), std::string::npos);
  plan.mutable_scheduler()->set_guest_path(std::string("/a\0b", 4));
  EXPECT_NE(refuse_plan(plan, 2), "");

  plan = good_plan();
  plan.mutable_scheduler()->add_args(std::string(kMaxArgLength + 1, 'x'));
  EXPECT_LT(refuse_plan(plan, 2).size(), 300U);
  EXPECT_NE(refuse_plan(plan, 2), "");
  plan = good_plan();
  for (int i = 0; i <= kMaxSchedulerArgs; ++i) plan.mutable_scheduler()->add_args("x");
  EXPECT_NE(refuse_plan(plan, 2).find("257 elements"), std::string::npos);
}

TEST(RefusePlan, RefusesLimitsWithoutUnit) {
  v1::RunPlan plan = good_plan();
  plan.mutable_limits()->set_attach_cpu("30");
  EXPECT_TRUE(refuse_plan(plan, 2).starts_with("limits.attach_cpu: "));
}

TEST(RefusePlan, RefusesAScenarioThatIsMissingOrWrong) {
  v1::RunPlan plan = good_plan();
  plan.mutable_scenario()->mutable_steps(0)->mutable_cgroups(0)->set_cpuset("0-7");
  EXPECT_TRUE(refuse_plan(plan, 2).starts_with("scenario.steps[0].cgroups[0].cpuset"));
  plan.clear_scenario();
  EXPECT_EQ(refuse_plan(plan, 2), "the plan has no scenario");
}

TEST(RefusePlan, APlanMustGoOnWithTheSchedulerThatIsAttached) {
  v1::RunPlan plan;
  v1::SchedulerSpec attached;
  attached.set_guest_path("/ktstr/bin/scx_simple");
  attached.add_args("-f");
  EXPECT_FALSE(refuse_other_scheduler(plan, attached).empty());
  *plan.mutable_scheduler() = attached;
  plan.mutable_scheduler()->set_host_path("elsewhere");
  EXPECT_EQ(refuse_other_scheduler(plan, attached), "");
  plan.mutable_scheduler()->add_args("-v");
  EXPECT_FALSE(refuse_other_scheduler(plan, attached).empty());
  *plan.mutable_scheduler() = attached;
  plan.mutable_scheduler()->set_guest_path("/ktstr/bin/scx_lavd");
  EXPECT_FALSE(refuse_other_scheduler(plan, attached).empty());
}

}  // namespace
}  // namespace ktstr::guest
