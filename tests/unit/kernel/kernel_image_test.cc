#include "host/kernel/kernel_image.h"

#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "host/kernel/bytes.h"
#include "tests/unit/common/prng.h"
#include "tests/unit/common/scratch_dir.h"
#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

namespace fs = std::filesystem;

class KernelImageTest : public testing::Test {
 protected:
  Expected<KernelImage> open(const std::string& contents) { return open_path(write_image(contents)); }
  // A new file each time: some file systems flush a file to disk that is truncated and written again.
  std::string write_image(const std::string& contents) {
    fs::remove(scratch_.path("image"));
    return scratch_.file("image", contents);
  }
  Expected<KernelImage> open_path(const std::string& path) { return KernelImage::open(path, cache_); }
  // The message of the error that opening `contents` gives; always kUsage, and always naming the file.
  std::string error_of(const std::string& contents) {
    auto image = open(contents);
    if (image) return "no error";
    EXPECT_EQ(image.error().code(), ErrorCode::kUsage);
    EXPECT_NE(image.error().to_string().find(scratch_.path("image")), std::string::npos)
        << image.error().to_string();
    return image.error().to_string();
  }

  ScratchDir scratch_;
  ImageCache cache_{scratch_.path("cache")};
};

#define EXPECT_MENTIONS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(KernelImageTest, OpensABzImageOfEveryMethod) {
  const std::string elf = make_elf({.btf = make_btf()});
  for (const auto method : {Compression::kGzip, Compression::kBzip2, Compression::kLzma, Compression::kXz,
                            Compression::kLz4, Compression::kZstd}) {
    auto image = open(make_bzimage(make_payload(elf, method)));
    ASSERT_TRUE(image) << image.error().to_string();
    EXPECT_TRUE(as_text(image->payload()) == elf);
  }
}

TEST_F(KernelImageTest, TellsWhatABzImageIs) {
  auto image = open(make_bzimage(make_payload(make_elf({.btf = make_btf()}), Compression::kZstd)));
  ASSERT_TRUE(image) << image.error().to_string();
  EXPECT_EQ(image->kind(), ImageKind::kBzImage);
  EXPECT_EQ(image->image_path(), scratch_.path("image"));
  EXPECT_EQ(image->release(), kRelease);
  EXPECT_EQ(image->uts_version(), kUtsVersion);
  EXPECT_EQ(image->protocol_version(), 0x20f);
  EXPECT_EQ(image->init_size(), 0x3c00000u);
  EXPECT_EQ(image->build_id(), "0123456789abcdeffedc");
  EXPECT_TRUE(image->has_pvh_entry());
  EXPECT_EQ(image->pvh_entry(), 0x1000200u);
  EXPECT_TRUE(image->sched_ext().present);
  EXPECT_MENTIONS(image->sched_ext().reason, "BTF");
  EXPECT_EQ(image->config().source(), "derived");
  EXPECT_FALSE(image->modules_dir());
  EXPECT_TRUE(image->image_fd());
}

TEST_F(KernelImageTest, TheSecondTimeThePayloadComesFromTheCache) {
  const std::string contents = make_bzimage();
  EXPECT_FALSE(open(contents)->payload_from_cache());
  auto image = open(contents);
  EXPECT_TRUE(image->payload_from_cache());
  EXPECT_EQ(image->cache_note(), "");
  EXPECT_TRUE(as_text(image->payload()) == make_elf());
}

TEST_F(KernelImageTest, PayloadDescriptorsHoldTheElf) {
  for (const std::string& contents : {make_bzimage(), make_elf()}) {
    auto image = open(contents);
    ASSERT_TRUE(image);
    auto fd = image->payload_fd();
    ASSERT_TRUE(fd);
    std::string data(image->payload().size(), '\0');
    EXPECT_EQ(::read(fd->get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
    EXPECT_TRUE(data == make_elf());
  }
}

TEST_F(KernelImageTest, StaysValidWhenMoved) {
  auto opened = open(make_bzimage());
  const auto payload = opened->payload();
  const KernelImage image = std::move(*opened);
  EXPECT_EQ(image.payload().data(), payload.data());
  EXPECT_NE(image.elf().section(".rodata"), nullptr);
}

TEST_F(KernelImageTest, OpensAVmlinux) {
  auto image = open(make_elf({.btf = make_btf()}));
  ASSERT_TRUE(image) << image.error().to_string();
  EXPECT_EQ(image->kind(), ImageKind::kVmlinux);
  EXPECT_EQ(image->release(), kRelease);
  EXPECT_EQ(image->uts_version(), kUtsVersion);
  EXPECT_EQ(image->protocol_version(), 0);
  EXPECT_GT(image->init_size(), image->payload().size());
  EXPECT_FALSE(image->image_fd());
  EXPECT_FALSE(fs::exists(scratch_.path("cache")));
}

TEST_F(KernelImageTest, WithoutAVersionInTheHeaderTheBannerTells) {
  std::string contents = make_bzimage();
  poke<std::uint16_t>(contents, kVersionPointer, 0);
  EXPECT_EQ(open(contents)->release(), kRelease);
}

TEST_F(KernelImageTest, AHostileReleaseIsNotTaken) {
  for (const char* release : {"../../etc", "a/b", "", ".hidden", "x\x1b[2J"}) {
    EXPECT_MENTIONS(error_of(make_elf({.banner = std::string("Linux version ") + release + " (x) #1"})),
                    "Linux");
  }
  EXPECT_MENTIONS(error_of(make_elf({.banner = "Linux version 7" + std::string(100, '7') + " #1"})), "Linux");
}

TEST_F(KernelImageTest, TheConfigurationComesFromTheBestPlace) {
  fs::create_directories(scratch_.path("boot"));
  const std::string beside = scratch_.file(std::string("boot/config-") + kRelease, "CONFIG_BESIDE=y\n");
  const std::string path = std::string("boot/vmlinuz-") + kRelease;
  auto image = open_path(scratch_.file(path, make_bzimage()));
  ASSERT_TRUE(image);
  EXPECT_EQ(image->config().source(), beside);
  EXPECT_TRUE(image->config().enabled("BESIDE"));
  const std::string elf = make_elf({.config = "CONFIG_EMBEDDED=y\n"});
  image = open_path(scratch_.file(path, make_bzimage(make_payload(elf, Compression::kXz))));
  EXPECT_EQ(image->config().source(), "ikconfig");
  scratch_.file(std::string("boot/config-") + kRelease, "this is no configuration\n");
  image = open_path(scratch_.file(path, make_bzimage()));
  EXPECT_EQ(image->config().source(), "derived");
  EXPECT_MENTIONS(image->config_note(), "line 1");
}

TEST_F(KernelImageTest, OpensAnUnpackedPackage) {
  const std::string modules = std::string("p/usr/lib/modules/") + kRelease;
  fs::create_directories(scratch_.path(modules + "/kernel"));
  scratch_.file(modules + "/vmlinuz", make_bzimage());
  scratch_.file(modules + "/config", "CONFIG_SCHED_CLASS_EXT=y\n");
  auto image = open_path(scratch_.path("p"));
  ASSERT_TRUE(image) << image.error().to_string();
  EXPECT_EQ(image->image_path(), scratch_.path(modules + "/vmlinuz"));
  EXPECT_EQ(image->modules_dir(), scratch_.path(modules));
  EXPECT_TRUE(image->sched_ext().present);
  EXPECT_MENTIONS(image->sched_ext().reason, "CONFIG_SCHED_CLASS_EXT=y in");
}

TEST_F(KernelImageTest, SaysWhyThereIsNoSchedExt) {
  auto image =
      open(make_bzimage(make_payload(make_elf({.btf = make_btf({.sched_ext = false})}), Compression::kGzip)));
  EXPECT_FALSE(image->sched_ext().present);
  EXPECT_MENTIONS(image->sched_ext().reason, "CONFIG_SCHED_CLASS_EXT is not set");
  image = open(make_elf());
  EXPECT_FALSE(image->sched_ext().present);
  EXPECT_MENTIONS(image->sched_ext().reason, "CONFIG_DEBUG_INFO_BTF");
  image = open(make_elf({.config = "CONFIG_SMP=y\n"}));
  EXPECT_MENTIONS(image->sched_ext().reason, "CONFIG_SCHED_CLASS_EXT is not set in ikconfig");
  image = open(make_elf({.btf = "damaged"}));
  EXPECT_EQ(image->btf(), nullptr);
  EXPECT_MENTIONS(image->sched_ext().reason, "damaged");
}

TEST_F(KernelImageTest, RefusesWhatIsNoKernel) {
  auto missing = open_path(scratch_.path("none"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::kUsage);
  EXPECT_MENTIONS(missing.error().to_string(), "No such file");
  EXPECT_MENTIONS(error_of(""), "it is empty");
  EXPECT_MENTIONS(error_of("hello, world\n"), "it is a text file");
  EXPECT_MENTIONS(error_of(std::string(10'000, '\0')), "is no x86-64 kernel");
  EXPECT_MENTIONS(error_of(make_elf({.banner = "just a program"})), "is no Linux kernel");
  auto folder = open_path(scratch_.path(""));
  ASSERT_FALSE(folder);
  EXPECT_MENTIONS(folder.error().to_string(), "holds no kernel");
  EXPECT_MENTIONS(open_path("/dev/null").error().to_string(), "is no kernel");
  ASSERT_EQ(::mkfifo(scratch_.path("fifo").c_str(), 0600), 0);
  EXPECT_MENTIONS(open_path(scratch_.path("fifo")).error().to_string(), "is no kernel");
  std::string module = make_elf();
  poke<std::uint16_t>(module, offsetof(Elf64_Ehdr, e_type), ET_REL);
  EXPECT_MENTIONS(error_of(module), "kernel module");
}

TEST_F(KernelImageTest, RefusesForeignArchitecturesByName) {
  std::string arm(4096, '\0');
  arm.replace(0, 2, "MZ");
  arm.replace(0x38, 4, "ARMd");
  EXPECT_MENTIONS(error_of(arm), "aarch64");
  std::string elf = make_elf();
  poke<std::uint16_t>(elf, offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
  EXPECT_MENTIONS(error_of(elf), "aarch64");
  // A bzImage of a 32-bit kernel whose header is too old to say so.
  elf = make_elf();
  elf[EI_CLASS] = ELFCLASS32;
  poke<std::uint16_t>(elf, offsetof(Elf64_Ehdr, e_machine), EM_386);
  std::string old = make_bzimage(make_payload(elf, Compression::kGzip));
  poke<std::uint16_t>(old, kProtocol, 0x20b);
  EXPECT_MENTIONS(error_of(old), "32-bit x86");
}

TEST_F(KernelImageTest, RefusesEveryTruncation) {
  const std::string contents = make_bzimage();
  const std::string path = scratch_.file("image", contents);
  for (std::size_t size = contents.size(); size-- > 0;) {
    fs::resize_file(path, size);
    auto image = open_path(path);
    ASSERT_FALSE(image) << "of " << contents.size() << " bytes " << size << " were enough";
    ASSERT_EQ(image.error().code(), ErrorCode::kUsage);
  }
}

TEST_F(KernelImageTest, RefusesAPayloadThatIsDamaged) {
  const std::string elf = make_elf();
  std::string contents = make_bzimage(make_payload(elf, Compression::kZstd));
  contents[5 * 512 + 256 + 40] ^= 0x55;
  EXPECT_MENTIONS(error_of(contents), "zstd-compressed payload is damaged");
  EXPECT_MENTIONS(error_of(make_bzimage(make_payload("no ELF inside", Compression::kGzip))), "no ELF");
  EXPECT_MENTIONS(error_of(make_bzimage(make_payload(elf.substr(0, elf.size() - 10), Compression::kXz))),
                  "truncated");
}

// Not a single damaged byte may do more than give an error or another harmless answer.
TEST_F(KernelImageTest, SurvivesRandomDamage) {
  const std::string elf = make_elf({.btf = make_btf(), .config = "CONFIG_A=y\n"});
  const ImageCache no_cache("");
  Prng random(42);
  for (int round = 0; round < 400; ++round) {
    std::string spoiled = elf;
    for (int i = 0; i < 4; ++i)
      spoiled[random.below(spoiled.size())] = static_cast<char>(random.next() & 0xff);
    static_cast<void>(KernelImage::open(write_image(spoiled), no_cache));
    if (round % 4 != 0) continue;
    std::string image = make_bzimage(make_payload(spoiled, Compression::kGzip));
    image[random.below(0x270)] = static_cast<char>(random.next() & 0xff);
    static_cast<void>(KernelImage::open(write_image(image), no_cache));
  }
}

}  // namespace
}  // namespace ktstr::test
