// The symbols that are read out of an image, compared with what the guest's kernel says of itself; and the
// dump of a kernel whose image names functions only.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include "host/kernel/image_symbols.h"
#include "host/kernel/kallsyms_decoder.h"
#include "host/kernel/kernel_image.h"
#include "host/kernel/symbol_file.h"
#include "host/kernel/symbol_sources.h"
#include "tests/vm/run/dump_vm_test.h"

namespace ktstr::vmtest {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class SymbolsOfSeries : public VmTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(SymbolsOfSeries, AreThoseThatTheGuestHas) {
  KTSTR_NEEDS(folder_of_kernel, kernel(GetParam()));
  KTSTR_NEEDS(reader, environment("KTSTR_READ_KALLSYMS"));
  // A kernel that we built has a vmlinux beside it, which is not what is to be compared.
  fs::path path = folder_of_kernel;
  if (fs::exists(path / "bzImage")) {
    fs::copy_file(path / "bzImage", folder() / "bzImage");
    path = folder() / "bzImage";
  }
  const auto image = KernelImage::open(path.string(), ImageCache((folder() / "images").string()));
  ASSERT_TRUE(image) << image.error().to_string();
  const auto symbols = find_symbols(*image);
  ASSERT_TRUE(symbols) << symbols.error().to_string();
  const SymbolTable& table = symbols->table;
  ASSERT_EQ(table.source(), SymbolSource::kKallsyms);

  // It is no scheduler, so the run fails when it has done its work.
  const VmRun run = run_seeded(GetParam(), {"--scheduler", reader, "--duration", "1s"});
  std::istringstream log(text_of(run.folder / "scheduler.log"));
  std::string line;
  std::size_t count = 0;
  std::size_t compared = 0;
  while (std::getline(log, line)) {
    if (const auto at = line.find("symbols: "); at != std::string::npos)
      count = std::stoul(line.substr(at + 9));
    const auto at = line.find("symbol ");
    if (at == std::string::npos) continue;
    std::istringstream fields(line.substr(at + 7));
    std::size_t number = 0;
    std::uint64_t address = 0;
    std::string name;
    fields >> number >> std::hex >> address >> name;
    ASSERT_LT(number, table.size()) << line;
    EXPECT_EQ(table.name(number), name);
    EXPECT_EQ(table.address_at(number), address) << name;
    ++compared;
  }
  EXPECT_EQ(table.size(), count) << run.describe();
  EXPECT_GT(compared, 100u);
}

INSTANTIATE_TEST_SUITE_P(Symbols, SymbolsOfSeries, ::testing::Values("6.12-BUILT", "6.18", "7.2"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::erase_if(
                               name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return "Of" + name;
                         });

// Kernels of which nothing but the image is there, and that names functions only (CONFIG_KALLSYMS_ALL=n).
class SymbolsFunctionsOnly : public DumpVmTest {
 protected:
  // The image of a kernel that we built, without the vmlinux and the System.map beside it.
  std::string image_alone(const std::string& built) const {
    const fs::path image = folder() / "bzImage";
    fs::copy_file(fs::path(built) / "bzImage", image);
    return image.string();
  }
  VmRun stall(const std::string& image) const {
    return run({"--kernel", image, "--deterministic=" + seed(), "--scheduler", fault_scheduler(),
                "--scheduler-args", "--stall-after 1 --timeout-ms 3000", "--duration", "8s"});
  }

  static std::string absent(const Dump& dump, const std::string& what) {
    const auto found = std::find_if(dump.absent().begin(), dump.absent().end(),
                                    [&](const auto& absence) { return absence.what() == what; });
    return found != dump.absent().end() ? found->reason() : "";
  }
  static void expect_not_known(const Dump& dump, const std::vector<std::string>& layers) {
    for (const std::string& what : layers)
      EXPECT_NE(absent(dump, what).find("CONFIG_KALLSYMS_ALL"), std::string::npos)
          << what << absent(dump, what);
  }
  // CPUs and tasks, whatever the kernel.
  static void expect_cpus_and_tasks(const Dump& dump) {
    EXPECT_EQ(dump.header().trap_exit_kind(), static_cast<std::uint64_t>(kStallKind));
    EXPECT_EQ(dump.header().faults(), 0U) << (dump.faults().empty() ? "" : dump.faults(0).path());
    EXPECT_NE(dump.header().symbols_from().find("CONFIG_KALLSYMS_ALL"), std::string::npos);
    EXPECT_EQ(dump.cpus_size(), static_cast<int>(dump.header().nr_cpu_ids()));
    EXPECT_EQ(count(dump, Dsq::LOCAL), dump.header().nr_cpu_ids());
    EXPECT_GT(dump.tasks_size(), 30);
    const Task* init = find_init(dump);
    ASSERT_NE(init, nullptr);
    EXPECT_EQ(init->sched_class(), "rt_sched_class");
    const Task* kthreadd = find_task(dump, "kthreadd");
    ASSERT_NE(kthreadd, nullptr);
    EXPECT_EQ(kthreadd->sched_class(), "ext_sched_class");
    EXPECT_EQ(absent(dump, "scx_tasks"), "");
    EXPECT_EQ(absent(dump, "the task tree"), "");
  }
  // Every CPU and every task of the dump that the kernel printed.
  static void expect_agrees_with(const Dump& dump, const std::string& text) {
    const auto printed = parse_kernel_dump(text);
    ASSERT_TRUE(printed) << printed.error().to_string();
    EXPECT_FALSE(printed->cpus.empty());
    for (const DumpDifference& difference : compare_with_kernel(dump, *printed, kNext))
      ADD_FAILURE() << difference.to_string();
  }
  // Before 6.16 the scheduler is in static variables, which nothing in the image names.
  static void expect_old(const Dump& dump, const VmRun& run) {
    expect_cpus_and_tasks(dump);
    expect_not_known(dump, {"schedulers", "user DSQs", "global DSQs", "idle masks"});
    expect_agrees_with(dump, text_of(run.folder / "scheduler.log"));
  }
};

TEST_F(SymbolsFunctionsOnly, OfAKernelBuiltSo) {
  KTSTR_NEEDS(built, kernel("6.12-NOKALLSYMSALL"));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const VmRun run = stall(image_alone(built));
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  expect_old(dump_of(run), run);
}

// Other kernels have their data's names, too; without these they are such kernels as well.
class SymbolsFunctionsAlone : public SymbolsFunctionsOnly, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    SymbolsFunctionsOnly::SetUp();
    if (const char* old = std::getenv("XDG_CACHE_HOME"); old != nullptr) old_cache_ = old;
    // A cache of its own, with the machine's QEMU.
    const fs::path usual = fs::path(ImageCache::default_folder()).parent_path();
    fs::create_directories(folder() / "cache/ktstr-vm");
    if (fs::exists(usual / "qemu")) fs::create_symlink(usual / "qemu", folder() / "cache/ktstr-vm/qemu");
    setenv("XDG_CACHE_HOME", (folder() / "cache").c_str(), 1);
  }
  void TearDown() override {
    if (old_cache_)
      setenv("XDG_CACHE_HOME", old_cache_->c_str(), 1);
    else
      unsetenv("XDG_CACHE_HOME");
    SymbolsFunctionsOnly::TearDown();
  }

  // Leaves in the cache of the run what the image's symbols would be.
  static void keep_functions(const std::string& path) {
    const auto image = KernelImage::open(path, ImageCache(ImageCache::default_folder()));
    ASSERT_TRUE(image) << image.error().to_string();
    const auto all = decode_kallsyms(image->elf(), "'k'");
    ASSERT_TRUE(all) << all.error().to_string();
    const auto begin = all->find("_stext");
    const auto end = all->find("_etext");
    ASSERT_TRUE(begin && end);
    SymbolTable::Builder builder(all->size());
    for (std::size_t i = 0; i < all->size(); ++i) {
      if (all->address_at(i) >= *begin && all->address_at(i) <= *end)
        builder.add(all->name(i), all->address_at(i));
    }
    const SymbolTable functions =
        std::move(builder).finish(SymbolSource::kKallsyms, "functions", kernel_extent(image->elf()));
    ASSERT_TRUE(has_functions_only(functions, image->elf()));
    const auto completed = complete_symbols(functions, image->elf(), image->btf(), "'k'");
    ASSERT_TRUE(completed) << completed.error().to_string();
    keep_symbols(image->cache_entry(), *completed);
  }

 private:
  std::optional<std::string> old_cache_;
};

TEST_P(SymbolsFunctionsAlone, AreEnoughForADump) {
  const std::string series = GetParam();
  KTSTR_NEEDS(folder_of_kernel, kernel(series));
  KTSTR_NEEDS(scheduler, fault_scheduler());
  const bool old = series == "6.12-BUILT";
  const std::string image = old ? image_alone(folder_of_kernel) : folder_of_kernel;
  ASSERT_NO_FATAL_FAILURE(keep_functions(image));
  const VmRun run = stall(image);
  ASSERT_EQ(run.exit_code, 4) << run.describe();
  const Dump dump = dump_of(run);
  // How long a task may wait is a member of struct scx_sched in 7.2, before that a static variable.
  if (series == "7.2")
    EXPECT_TRUE(has_finding(dump, "waiting"));
  else
    expect_not_known(dump, {"ScxGlobals.scx_watchdog_timeout"});
  if (old) return expect_old(dump, run);
  // The scheduler is what the trapped function was called with; its queues are found by it.
  expect_cpus_and_tasks(dump);
  expect_complete(dump, kStallKind);
  EXPECT_GE(count(dump, Dsq::USER), 5U);
  expect_not_known(dump, {"scx_root", "idle masks"});
  expect_agrees_with(dump, dump.scheds(0).exit_info().dump());
}

INSTANTIATE_TEST_SUITE_P(Symbols, SymbolsFunctionsAlone, ::testing::Values("6.12-BUILT", "6.18", "7.2"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::erase_if(
                               name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return "Of" + name;
                         });

}  // namespace
}  // namespace ktstr::vmtest
