// Symbols of real kernels, where the machine has some (packaged_kernels.h), compared with what else the image
// says: its sections, its banner, and the addresses of all exported symbols in __ksymtab.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "host/kernel/bytes.h"
#include "host/kernel/image_symbols.h"
#include "host/kernel/kallsyms_decoder.h"
#include "host/kernel/symbol_sources.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/packaged_kernels.h"

namespace ktstr::test {
namespace {

struct SymbolsCase {
  PackagedImage image;
  KallsymsFormat format;
};

class PackagedSymbols : public testing::TestWithParam<SymbolsCase> {
 protected:
  void SetUp() override {
    const std::string path = find_packaged_image(GetParam().image);
    if (path.empty()) GTEST_SKIP() << "no packaged kernel " << GetParam().image.series << "* in the cache";
    auto opened = KernelImage::open(path, cache_);
    ASSERT_TRUE(opened) << opened.error().to_string();
    image_.emplace(std::move(*opened));
    auto found = find_symbols(*image_);
    ASSERT_TRUE(found) << found.error().to_string();
    symbols_ = std::move(*found);
  }

  ScratchDir scratch_;
  ImageCache cache_{scratch_.path("images")};
  std::optional<KernelImage> image_;
  KernelSymbols symbols_;
};

TEST_P(PackagedSymbols, AgreeWithTheImage) {
  const SymbolTable& table = symbols_.table;
  const auto tables = find_kallsyms(image_->elf(), "'k'");
  ASSERT_TRUE(tables);
  EXPECT_EQ(tables->format, GetParam().format);
  EXPECT_EQ(table.size(), tables->count);
  EXPECT_GT(table.size(), 100'000u);
  // No kallsyms to compare with: sections and the banner are.
  const auto agrees = check_symbols(table, image_->elf(), nullptr);
  EXPECT_TRUE(agrees) << agrees.error().to_string();
  for (const char* name : {"init_task", "runqueues", "schedule", "__per_cpu_offset", "init_top_pgt",
                           "phys_base", "page_offset_base", "init_css_set"}) {
    EXPECT_TRUE(table.address(name)) << table.address(name).error().to_string();
  }
  if (image_->sched_ext().present) {
    for (const char* name : {"scx_root", "scx_tasks", "__scx_enabled", "scx_dump_state", "ext_sched_class"}) {
      EXPECT_TRUE(table.address(name)) << table.address(name).error().to_string();
    }
  }
  const auto at = table.nearest(*table.find("schedule") + 5);
  ASSERT_TRUE(at);
  EXPECT_EQ(at->name, "schedule");
  EXPECT_EQ(at->offset, 5u);
  const std::size_t ambiguous = table.count_ambiguous();
  EXPECT_GT(ambiguous, 1000u);
  EXPECT_LT(ambiguous, 3000u);
}

// A kernel that names everything shows that what is read elsewhere is right: exports, per-CPU variables,
// sections and initial values, which are all that a kernel without CONFIG_KALLSYMS_ALL has (image_symbols.h).
TEST_P(PackagedSymbols, AgreeWithWhatTheImageTellsOtherwise) {
  const ElfView& elf = image_->elf();
  const SymbolTable& table = symbols_.table;
  EXPECT_FALSE(has_functions_only(table, elf));
  const auto compare = [&](const std::vector<ImageSymbol>& found) {
    for (const ImageSymbol& one : found) {
      const auto known = table.addresses(one.name);
      EXPECT_NE(std::find(known.begin(), known.end(), one.address), known.end()) << one.name;
    }
    return found.size();
  };
  EXPECT_GT(compare(exported_symbols(elf, image_->btf())), 5000u);
  EXPECT_GT(compare(btf_variables(elf, *image_->btf())), 200u);
  EXPECT_EQ(compare(initialised_pointers(elf, *image_->btf(), table.find("init_task").value_or(0))), 2u);
  const std::size_t classes = image_->sched_ext().present ? 6 : 5;
  EXPECT_EQ(compare(scheduling_classes(elf, *image_->btf(), table)), classes);
  for (const ImageSymbol& one : section_symbols(elf)) {
    if (one.name == "_etext") continue;  // the section's end; the symbol stands behind some padding
    EXPECT_EQ(table.find(one.name).value_or(one.address), one.address) << one.name;
  }
}

// Without the names of its data.
TEST_P(PackagedSymbols, FunctionsAloneAreCompleted) {
  const ElfView& elf = image_->elf();
  const SymbolTable& all = symbols_.table;
  const std::uint64_t begin = all.find("_stext").value_or(0);
  const std::uint64_t end = all.find("_etext").value_or(0);
  SymbolTable::Builder builder(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all.address_at(i) >= begin && all.address_at(i) <= end) builder.add(all.name(i), all.address_at(i));
  }
  const SymbolTable functions =
      std::move(builder).finish(SymbolSource::kKallsyms, "functions", kernel_extent(elf));
  ASSERT_TRUE(has_functions_only(functions, elf));
  const auto table = complete_symbols(functions, elf, image_->btf(), "'k'");
  ASSERT_TRUE(table) << table.error().to_string();
  // All that finding the kernel, its CPUs and its tasks needs.
  for (const char* name :
       {"_text", "_end", "init_task", "runqueues", "__per_cpu_offset", "__per_cpu_start", "__per_cpu_end",
        "nr_cpu_ids", "init_top_pgt", "phys_base", "page_offset_base", "jiffies_64", "nr_node_ids",
        "asm_exc_page_fault", "asm_exc_divide_error", "entry_SYSCALL_64"}) {
    ASSERT_TRUE(table->find(name)) << name;
    EXPECT_EQ(table->find(name), all.find(name)) << name;
  }
  if (image_->sched_ext().present) {
    EXPECT_FALSE(table->find("scx_root"));
  }
}

// struct kernel_symbol (include/linux/export-internal.h): value, name and namespace, each relative to its own
// place.
TEST_P(PackagedSymbols, AgreeWithEveryExport) {
  constexpr std::size_t kEntry = 12;
  const ElfSection* strings = image_->elf().section("__ksymtab_strings");
  ASSERT_NE(strings, nullptr);
  std::size_t compared = 0;
  for (const char* section_name : {"__ksymtab", "__ksymtab_gpl"}) {
    const ElfSection* section = image_->elf().section(section_name);
    if (section == nullptr) continue;
    for (std::size_t at = 0; at + kEntry <= section->bytes.size(); at += kEntry) {
      const auto target = [&](std::size_t field) {
        const std::int64_t offset = *load<std::int32_t>(section->bytes, at + field);
        return section->address + at + field + static_cast<std::uint64_t>(offset);
      };
      const auto name = load_string(strings->bytes, target(4) - strings->address, SymbolTable::kMaxName);
      ASSERT_TRUE(name);
      const auto found = symbols_.table.addresses(*name);
      EXPECT_NE(std::find(found.begin(), found.end(), target(0)), found.end()) << *name;
      ++compared;
    }
  }
  EXPECT_GT(compared, 5000u);
}

INSTANTIATE_TEST_SUITE_P(
    Kernels, PackagedSymbols,
    testing::Values(SymbolsCase{{"v72", "KTSTR_TEST_KERNEL_72", "7.2."}, KallsymsFormat::kPcRelative},
                    SymbolsCase{{"v618", "KTSTR_TEST_KERNEL_618", "6.18."}, KallsymsFormat::kRelativeBase},
                    SymbolsCase{{"v612", "KTSTR_TEST_KERNEL_612", "6.12."}, KallsymsFormat::kAbsolutePercpu}),
    [](const auto& instance) { return std::string(instance.param.image.name); });

}  // namespace
}  // namespace ktstr::test
