#include "host/kernel/kernel_config.h"

#include <gtest/gtest.h>

#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

using Kind = ConfigValue::Kind;

KernelConfig parse(const std::string& text) {
  auto config = KernelConfig::parse(text, KernelConfig::Origin::kFile, "/x");
  EXPECT_TRUE(config) << config.error().to_string();
  return config.value_or(KernelConfig());
}

TEST(KernelConfig, LooksOptionsUp) {
  const KernelConfig config = parse(
      "#\n# Linux/x86 7.2.3 Kernel Configuration\n#\nCONFIG_SMP=y\n\n# CONFIG_PREEMPT_RT is not set\n"
      "CONFIG_VIRTIO_MMIO=m\nCONFIG_NR_CPUS=8192\nCONFIG_CC_VERSION_TEXT=\"gcc 12 is not "
      "set\"\nCONFIG_OFF=n\n"
      "CONFIG_SMP_X=m");
  EXPECT_EQ(config.lookup("CONFIG_SMP").kind, Kind::kYes);
  EXPECT_EQ(config.lookup("SMP").kind, Kind::kYes);
  EXPECT_EQ(config.lookup("PREEMPT_RT").kind, Kind::kNo);
  EXPECT_EQ(config.lookup("OFF").kind, Kind::kNo);
  EXPECT_EQ(config.lookup("VIRTIO_MMIO").kind, Kind::kModule);
  EXPECT_EQ(config.lookup("NR_CPUS").kind, Kind::kValue);
  EXPECT_EQ(config.lookup("NR_CPUS").text, "8192");
  EXPECT_EQ(config.lookup("CC_VERSION_TEXT").text, "\"gcc 12 is not set\"");
  EXPECT_EQ(config.lookup("SM").kind, Kind::kAbsent);
  EXPECT_EQ(config.lookup("ZZZ").kind, Kind::kAbsent);
  EXPECT_EQ(config.lookup("").kind, Kind::kAbsent);
  EXPECT_TRUE(config.enabled("VIRTIO_MMIO"));
  EXPECT_FALSE(config.enabled("NR_CPUS"));
  EXPECT_EQ(config.source(), "/x");
  EXPECT_TRUE(config.complete());
  EXPECT_EQ(config.text().back(), '\n');
  EXPECT_EQ(config.options().size(), 7u);
}

TEST(KernelConfig, TheLastOfTwoLinesCounts) {
  const KernelConfig config = parse("CONFIG_A=y\nCONFIG_B=1\n# CONFIG_A is not set\nCONFIG_B=2\n");
  EXPECT_EQ(config.lookup("A").kind, Kind::kNo);
  EXPECT_EQ(config.lookup("B").text, "2");
}

TEST(KernelConfig, StaysValidWhenMovedAndCopied) {
  KernelConfig config = parse("CONFIG_A=y\n");
  const KernelConfig copy = config;  // NOLINT(performance-unnecessary-copy-initialization)
  const KernelConfig moved = std::move(config);
  EXPECT_TRUE(copy.enabled("A"));
  EXPECT_TRUE(moved.enabled("A"));
}

TEST(KernelConfig, RefusesOtherTexts) {
  for (const char* text :
       {"hello\n", "CONFIG_A\n", "CONFIG_=y\n", "A=y\n", "CONFIG_A B=y\n", "export CONFIG_A=y\n"}) {
    auto config = KernelConfig::parse(std::string("CONFIG_X=y\n") + text, KernelConfig::Origin::kFile);
    ASSERT_FALSE(config) << text;
    EXPECT_NE(config.error().to_string().find("line 2"), std::string::npos);
  }
  EXPECT_FALSE(KernelConfig::parse(std::string("CONFIG_A=\0\n", 11), KernelConfig::Origin::kFile));
  EXPECT_FALSE(
      KernelConfig::parse(std::string(KernelConfig::kMaxTextSize, '\n'), KernelConfig::Origin::kFile));
}

TEST(KernelConfig, ReadsFiles) {
  const ScratchDir scratch;
  const std::string path = scratch.file("config", "CONFIG_A=y\n");
  EXPECT_TRUE(KernelConfig::read_file(path)->enabled("A"));
  EXPECT_EQ(KernelConfig::read_file(path)->source(), path);
  EXPECT_FALSE(KernelConfig::read_file(scratch.path("none")));
  EXPECT_FALSE(KernelConfig::read_file(scratch.path("")));
}

TEST(KernelConfig, FindsTheEmbeddedOne) {
  const std::string elf = make_elf({.config = "CONFIG_EMBEDDED=y\n"});
  auto config = KernelConfig::find_embedded(bytes_of(elf));
  ASSERT_TRUE(config);
  EXPECT_TRUE(config->enabled("EMBEDDED"));
  EXPECT_EQ(config->source(), "ikconfig");
  EXPECT_FALSE(KernelConfig::find_embedded(bytes_of(make_elf())));
}

TEST(KernelConfig, PassesOverBrokenEmbeddings) {
  const std::string good = "IKCFG_ST" + compress("CONFIG_A=y\n", Compression::kGzip) + "IKCFG_ED";
  for (const std::string& decoy : {std::string("IKCFG_ST"), std::string("IKCFG_STIKCFG_ED"),
                                   "IKCFG_ST" + good.substr(8, 12) + "IKCFG_ED",
                                   "IKCFG_ST" + compress("no config", Compression::kGzip) + "IKCFG_ED"}) {
    EXPECT_FALSE(KernelConfig::find_embedded(bytes_of(decoy)));
    auto config = KernelConfig::find_embedded(bytes_of(decoy + "xx" + good));
    EXPECT_TRUE(config && config->enabled("A"));
  }
  EXPECT_FALSE(KernelConfig::find_embedded(bytes_of(good.substr(0, good.size() - 1))));
}

TEST(KernelConfig, AnEmbeddedBombIsBounded) {
  const std::string bomb =
      "IKCFG_ST" + compress(std::string(20 << 20, '\n'), Compression::kGzip) + "IKCFG_ED";
  EXPECT_FALSE(KernelConfig::find_embedded(bytes_of(bomb)));
}

TEST(KernelConfig, HzIsANumberThatAKernelCanHave) {
  const auto hz = [](const std::string& value) {
    return KernelConfig::parse("CONFIG_HZ=" + value + "\n", KernelConfig::Origin::kFile).value().hz();
  };
  EXPECT_EQ(hz("250"), 250u);
  EXPECT_EQ(hz("1000"), 1000u);
  for (const char* value : {"y", "250x", "-250", "10001", "99999999999999999999", "\"250\""})
    EXPECT_EQ(hz(value), 0u) << value;
  EXPECT_EQ(KernelConfig().hz(), 0u);
}

TEST(KernelConfig, NothingIsKnownByDefault) {
  const KernelConfig config;
  EXPECT_EQ(config.source(), "none");
  EXPECT_FALSE(config.complete());
  EXPECT_EQ(config.lookup("A").kind, Kind::kAbsent);
}

}  // namespace
}  // namespace ktstr::test
