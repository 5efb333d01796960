#include "host/kernel/setup_header.h"

#include <gtest/gtest.h>

#include "tests/unit/kernel/test_image.h"

namespace ktstr::test {
namespace {

Expected<SetupHeader> parse(const std::string& image) {
  return parse_setup_header(bytes_of(image).first(std::min(image.size(), kMaxSetupSize)), image.size(),
                            "'k'");
}

std::string error_of(const std::string& image) {
  auto header = parse(image);
  if (header) return "no error";
  EXPECT_EQ(header.error().code(), ErrorCode::kUsage);
  return header.error().to_string();
}

TEST(SetupHeader, ReadsTheFields) {
  const std::string payload(1000, 'p');
  auto header = parse(make_bzimage(payload));
  ASSERT_TRUE(header) << header.error().to_string();
  EXPECT_EQ(header->protocol, 0x20f);
  EXPECT_EQ(header->setup_size, 5u * 512);
  EXPECT_EQ(header->payload_offset, 5u * 512 + 256);
  EXPECT_EQ(header->payload_size, payload.size());
  EXPECT_EQ(header->init_size, 0x3c00000u);
  EXPECT_EQ(header->version, std::string(kRelease) + " (me@here) " + kUtsVersion);
}

TEST(SetupHeader, ZeroSetupSectorsMeanFour) {
  std::string image = make_bzimage();
  poke<std::uint8_t>(image, kSetupSects, 0);
  EXPECT_EQ(parse(image)->setup_size, 5u * 512);
}

TEST(SetupHeader, OldProtocolsLackTheLaterFields) {
  std::string image = make_bzimage();
  poke<std::uint16_t>(image, kProtocol, 0x208);
  poke<std::uint16_t>(image, kXloadflags, 0);
  auto header = parse(image);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->init_size, 0u);
  EXPECT_EQ(header->xloadflags, 0u);
  poke<std::uint16_t>(image, kProtocol, 0x207);
  EXPECT_NE(error_of(image).find("boot protocol 2.07 is too old"), std::string::npos) << error_of(image);
}

TEST(SetupHeader, RefusesOtherKindsOfX86Kernels) {
  std::string image = make_bzimage();
  poke<std::uint8_t>(image, kLoadflags, 0);
  EXPECT_NE(error_of(image).find("zImage"), std::string::npos);
  image = make_bzimage();
  poke<std::uint16_t>(image, kXloadflags, 0x7e);
  EXPECT_NE(error_of(image).find("32-bit x86"), std::string::npos);
  image = make_bzimage();
  poke<std::uint16_t>(image, kBootFlag, 0);
  EXPECT_NE(error_of(image).find("no bzImage"), std::string::npos);
}

TEST(SetupHeader, RefusesEveryTruncation) {
  const std::string image = make_bzimage();
  for (std::size_t size = 0; size < image.size(); ++size) {
    ASSERT_FALSE(parse(image.substr(0, size)))
        << "of " << image.size() << " bytes " << size << " were enough";
  }
}

TEST(SetupHeader, RefusesPayloadsOutsideTheFile) {
  std::string image = make_bzimage();
  poke<std::uint32_t>(image, kPayloadLength, 0xffffffff);
  EXPECT_NE(error_of(image).find("truncated"), std::string::npos);
  poke<std::uint32_t>(image, kPayloadLength, 0);
  EXPECT_NE(error_of(image).find("no payload"), std::string::npos);
  image = make_bzimage();
  poke<std::uint32_t>(image, kPayloadOffset, 0xfffffff0);
  EXPECT_NE(error_of(image).find("truncated"), std::string::npos);
  image = make_bzimage();
  poke<std::uint32_t>(image, kSyssize, 0xffffffff);
  EXPECT_NE(error_of(image).find("truncated"), std::string::npos);
}

TEST(SetupHeader, IgnoresAWildVersionPointer) {
  std::string image = make_bzimage();
  poke<std::uint16_t>(image, kVersionPointer, 0xffff);
  EXPECT_EQ(parse(image)->version, "");
  poke<std::uint16_t>(image, kVersionPointer, 0);
  EXPECT_EQ(parse(image)->version, "");
}

TEST(SetupHeader, TellsForeignImages) {
  const auto at = [](std::size_t offset, std::string_view magic) {
    std::string image(4096, '\0');
    image.replace(offset, magic.size(), magic);
    return describe_foreign_image(bytes_of(image));
  };
  EXPECT_EQ(at(0x38, "ARMd"), "an aarch64 kernel (Image)");
  EXPECT_EQ(at(0x38, "RSC\x05"), "a RISC-V kernel (Image)");
  EXPECT_EQ(at(4, "zimg"), "an EFI zboot kernel of another architecture");
  EXPECT_EQ(at(0, "\x1f\x8b"), "a file compressed with gzip");
  EXPECT_EQ(at(0, "MZ"), "an EFI or DOS program without a Linux boot header");
  EXPECT_EQ(at(0, "no idea"), "");
  EXPECT_EQ(describe_foreign_image(bytes_of("#!/bin/sh\n")), "a text file");
  EXPECT_EQ(describe_foreign_image({}), "");
}

}  // namespace
}  // namespace ktstr::test
