// Symbols of real kernels, where the machine has some (packaged_kernels.h), compared with what else the image
// says: its sections, its banner, and the addresses of all exported symbols in __ksymtab.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "host/kernel/bytes.h"
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
