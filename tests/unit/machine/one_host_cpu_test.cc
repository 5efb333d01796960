#include "host/machine/tcg/one_host_cpu.h"

#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "host/machine/tcg/child_process.h"

namespace ktstr {
namespace {

unsigned usable_cpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  return sched_getaffinity(0, sizeof(mask), &mask) == 0 ? static_cast<unsigned>(CPU_COUNT(&mask)) : 0;
}

// Cpus_allowed_list of proc(5) for each thread.
std::vector<std::string> allowed(pid_t process) {
  std::vector<std::string> all;
  for (const auto& thread :
       std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
    std::ifstream status(thread.path() / "status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("Cpus_allowed_list:\t")) all.push_back(line.substr(line.find('\t') + 1));
  }
  return all;
}

TEST(OneHostCpu, DifferentOnesAreTakenWhileThereAreAny) {
  if (usable_cpus() < 2) GTEST_SKIP() << "one CPU only";
  const auto first = OneHostCpu::take();
  ASSERT_TRUE(first) << first.error().to_string();
  const auto second = OneHostCpu::take();
  ASSERT_TRUE(second) << second.error().to_string();
  EXPECT_NE(first->cpu(), second->cpu());
}

TEST(OneHostCpu, WhenAllAreTakenOneIsShared) {
  std::vector<OneHostCpu> taken;
  for (unsigned i = 0; i < usable_cpus() + 1; ++i) {
    auto one = OneHostCpu::take();
    ASSERT_TRUE(one) << one.error().to_string();
    taken.push_back(*std::move(one));
  }
}

TEST(OneHostCpu, AProcessIsConfinedToIt) {
  auto child = ChildProcess::spawn({"/bin/sleep", "100"}, {});
  ASSERT_TRUE(child) << child.error().to_string();
  const auto taken = OneHostCpu::take();
  ASSERT_TRUE(taken) << taken.error().to_string();
  const auto confined = taken->confine(child->pid());
  ASSERT_TRUE(confined) << confined.error().to_string();
  EXPECT_EQ(allowed(child->pid()), std::vector<std::string>{std::to_string(taken->cpu())});
  const int policy = sched_getscheduler(child->pid());
  // Which of the two depends on our rights.
  EXPECT_TRUE(policy == (SCHED_FIFO | SCHED_RESET_ON_FORK) || policy == SCHED_OTHER) << policy;
}

TEST(OneHostCpu, AProcessThatIsGoneIsAnError) {
  const auto taken = OneHostCpu::take();
  ASSERT_TRUE(taken) << taken.error().to_string();
  EXPECT_FALSE(taken->confine(0x3fffffff));
}

}  // namespace
}  // namespace ktstr
