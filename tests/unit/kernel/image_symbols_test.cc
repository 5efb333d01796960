#include "host/kernel/image_symbols.h"

#include <algorithm>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "host/kernel/kallsyms_decoder.h"
#include "host/kernel/symbol_sources.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/functions_only_image.h"

namespace ktstr::test {
namespace {

// With the per-CPU section linked at 0, and with the others.
class FunctionsOnly : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto elf = ElfView::parse(bytes_of(image_.elf), "'k'");
    ASSERT_TRUE(elf) << elf.error().to_string();
    elf_ = std::move(*elf);
    auto btf = Btf::parse(elf_.section(".BTF")->bytes);
    ASSERT_TRUE(btf) << btf.error().to_string();
    btf_.emplace(std::move(*btf));
    auto functions = decode_kallsyms(elf_, "'k'");
    ASSERT_TRUE(functions) << functions.error().to_string();
    functions_ = std::move(*functions);
  }
  SymbolTable complete(const Btf* btf) const {
    auto table = complete_symbols(functions_, elf_, btf, "'k'");
    EXPECT_TRUE(table) << table.error().to_string();
    return table ? *table : SymbolTable();
  }

  FunctionsOnlyImage image_ = make_functions_only(GetParam());
  ElfView elf_;
  std::optional<Btf> btf_;
  SymbolTable functions_;
};

TEST_P(FunctionsOnly, AreRecognised) {
  EXPECT_TRUE(has_functions_only(functions_, elf_));
  EXPECT_FALSE(has_functions_only(complete(&*btf_), elf_));
  const std::string whole = make_elf_with_kallsyms(KallsymsFormat::kPcRelative);
  const ElfView other = ElfView::parse(bytes_of(whole), "'k'").value();
  EXPECT_FALSE(has_functions_only(decode_kallsyms(other, "'k'").value(), other)) << "no section to tell by";
}

TEST_P(FunctionsOnly, AreCompletedWithDataThatTheImageTellsOf) {
  const SymbolTable table = complete(&*btf_);
  EXPECT_EQ(table.source(), SymbolSource::kImage);
  EXPECT_EQ(table.find("init_task"), image_.init_task);
  EXPECT_EQ(table.find("nr_cpu_ids"), image_.nr_cpu_ids);
  EXPECT_EQ(table.find("__per_cpu_offset"), image_.per_cpu_offset);
  EXPECT_EQ(table.find("init_mm"), image_.init_mm);
  EXPECT_EQ(table.find("init_top_pgt"), image_.init_top_pgt);
  EXPECT_EQ(table.find("runqueues"), image_.per_cpu_section + 0x40);
  EXPECT_EQ(table.find("cpu_number"), image_.per_cpu_section + 0x100);
  EXPECT_EQ(table.find("__per_cpu_start"), image_.per_cpu_section);
  EXPECT_EQ(table.find("__per_cpu_end"), image_.per_cpu_section + kPerCpuBytes);
  EXPECT_EQ(table.find("_end").value_or(1) % 4096, 0u);
  EXPECT_GE(table.find("_end"), kernel_extent(elf_).end);
  for (std::size_t i = 0; i < functions_.size(); ++i) {
    const auto there = table.addresses(functions_.name(i));
    EXPECT_NE(std::find(there.begin(), there.end(), functions_.address_at(i)), there.end())
        << functions_.name(i);
  }
}

TEST_P(FunctionsOnly, ClassesAreFoundByTheirFunctions) {
  const SymbolTable table = complete(&*btf_);
  EXPECT_EQ(table.addresses("ext_sched_class"), std::vector{image_.ext_sched_class});
  EXPECT_EQ(table.nearest(image_.ext_sched_class)->name, "ext_sched_class");
  EXPECT_FALSE(table.find("fair_sched_class"));
  // Two of them: which is meant is not known.
  const ElfSection* data = elf_.section(".data");
  std::string twice = image_.elf;
  twice.replace(data->offset + 0x320, 32, twice, data->offset + 0x280, 32);
  const ElfView elf = ElfView::parse(bytes_of(twice), "'k'").value();
  EXPECT_TRUE(scheduling_classes(elf, *btf_, functions_).empty());
}

TEST_P(FunctionsOnly, WhatHasTwoPlacesStaysAmbiguousAndWhatHasOneIsThereOnce) {
  const SymbolTable table = complete(&*btf_);
  EXPECT_EQ(table.addresses("twice").size(), 2u);
  EXPECT_FALSE(table.find("twice"));
  // Both a function and an export.
  EXPECT_EQ(table.addresses("symbol_7").size(), 1u);
  std::size_t entries = 0;
  for (std::size_t i = 0; i < table.size(); ++i) entries += table.name(i) == "symbol_7" ? 1U : 0U;
  EXPECT_EQ(entries, 1u);
}

TEST_P(FunctionsOnly, NothingLiesOutsideOfItsSection) {
  const SymbolTable table = complete(&*btf_);
  EXPECT_TRUE(table.addresses("outside").empty());
  EXPECT_TRUE(table.addresses("lost").empty());
  EXPECT_TRUE(table.addresses("far_away").empty());
}

TEST_P(FunctionsOnly, AbsentDataIsSaidToBeNotKnown) {
  const SymbolTable table = complete(&*btf_);
  const auto address = table.address("scx_tasks");
  ASSERT_FALSE(address);
  EXPECT_EQ(address.error().code(), ErrorCode::kKernelLacks);
  EXPECT_EQ(address.error().message(), table.lacks("scx_tasks"));
  EXPECT_NE(table.lacks("scx_tasks").find("CONFIG_KALLSYMS_ALL"), std::string::npos);
  EXPECT_NE(table.origin().find("CONFIG_KALLSYMS_ALL"), std::string::npos);
}

TEST_P(FunctionsOnly, AnAddressAmidTheDataBelongsToNoSymbol) {
  const SymbolTable table = complete(&*btf_);
  EXPECT_TRUE(table.nearest(elf_.section(".text")->address));
  EXPECT_EQ(table.nearest(image_.init_task)->name, "init_task") << "its beginning is known";
  EXPECT_FALSE(table.nearest(image_.init_task + 8));
  EXPECT_FALSE(table.nearest(image_.nr_cpu_ids + 0x20));
  EXPECT_FALSE(table.nearest(0x40)) << "an offset";
  EXPECT_FALSE(table.nearest(0));
}

TEST_P(FunctionsOnly, ExportsAreReadWithoutBtfToo) {
  const SymbolTable table = complete(nullptr);
  EXPECT_EQ(table.find("init_task"), image_.init_task);
  EXPECT_FALSE(table.find("runqueues"));
  EXPECT_FALSE(table.find("init_top_pgt"));
  EXPECT_EQ(exported_symbols(elf_, nullptr), exported_symbols(elf_, &*btf_));
}

TEST_P(FunctionsOnly, TheInitialCopyOfPerCpuVariablesIsFound) {
  const auto load = complete(&*btf_).find("__per_cpu_load");
  ASSERT_TRUE(load);
  // Virtual and physical addresses of the kernel's segment differ by as much as those of its per-CPU one
  // would.
  const ElfSection* section = elf_.section(".data..percpu");
  EXPECT_EQ(*load, 0xffffffff81000000 + section->offset);
}

TEST_P(FunctionsOnly, AnyByteMayBeWrong) {
  // The sections' contents; headers are elf_view_test's.
  const std::size_t begin = elf_.section(".data")->offset;
  for (std::size_t at = begin; at < image_.elf.size(); at += 3) {
    std::string spoiled = image_.elf;
    spoiled[at] = static_cast<char>(~spoiled[at]);
    const auto elf = ElfView::parse(bytes_of(spoiled), "'k'");
    if (!elf) continue;
    const auto table = complete_symbols(functions_, *elf, &*btf_, "'k'");
    ASSERT_TRUE(table);
    const AddressRange extent = kernel_extent(*elf);
    for (const char* name : {"init_task", "init_mm", "init_top_pgt", "nr_cpu_ids"}) {
      for (const std::uint64_t address : table->addresses(name))
        EXPECT_TRUE(extent.contains(address)) << name;
    }
  }
}

TEST_P(FunctionsOnly, SearchCompletesThemAndKeepsThem) {
  ScratchDir scratch;
  const std::string path = scratch.path(std::string("vmlinuz-") + kRelease);
  std::ofstream(path, std::ios::binary) << make_bzimage(make_payload(image_.elf, Compression::kGzip));
  for (int i = 0; i < 2; ++i) {  // decoded, then from the cache
    const auto image = KernelImage::open(path, ImageCache(scratch.path("images")));
    ASSERT_TRUE(image) << image.error().to_string();
    const auto symbols = find_symbols(*image);
    ASSERT_TRUE(symbols) << symbols.error().to_string();
    EXPECT_EQ(symbols->table.source(), SymbolSource::kImage);
    EXPECT_EQ(symbols->table.find("init_top_pgt"), image_.init_top_pgt);
    EXPECT_EQ(symbols->table.find("runqueues"), image_.per_cpu_section + 0x40);
    EXPECT_EQ(symbols->table.origin(), image_origin("'" + path + "'"));
    EXPECT_FALSE(symbols->table.nearest(image_.init_task + 8));
  }
}

INSTANTIATE_TEST_SUITE_P(PerCpuSection, FunctionsOnly, testing::Bool(), [](const auto& instance) {
  return std::string(instance.param ? "LinkedAtZero" : "LinkedLikeOthers");
});

}  // namespace
}  // namespace ktstr::test
