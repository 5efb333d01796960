// AML encodings, against numbers worked out from ACPI 6.5 chapter 20.
#include "host/machine/kvm/acpi/aml.h"

#include <gtest/gtest.h>

namespace ktstr::kvm::aml {
namespace {

Bytes raw(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(Aml, IntegersTakeTheShortestForm) {
  EXPECT_EQ(integer(0), raw({0x00}));
  EXPECT_EQ(integer(1), raw({0x01}));
  EXPECT_EQ(integer(2), raw({0x0a, 2}));
  EXPECT_EQ(integer(0xff), raw({0x0a, 0xff}));
  EXPECT_EQ(integer(0x100), raw({0x0b, 0x00, 0x01}));
  EXPECT_EQ(integer(0xffff), raw({0x0b, 0xff, 0xff}));
  EXPECT_EQ(integer(0x10000), raw({0x0c, 0, 0, 1, 0}));
  EXPECT_EQ(integer(0x100000000), raw({0x0e, 0, 0, 0, 0, 1, 0, 0, 0}));
}

TEST(Aml, PackageLengthCountsItself) {
  EXPECT_EQ(package_length(0), raw({0x01}));
  EXPECT_EQ(package_length(62), raw({0x3f}));
  // 64 does not fit into six bits: one more byte, length 63 + 2.
  EXPECT_EQ(package_length(63), raw({0x41, 0x04}));
  EXPECT_EQ(package_length(0xfff - 2), raw({0x4f, 0xff}));
  EXPECT_EQ(package_length(0xfff - 1), raw({0x81, 0x00, 0x01}));  // 0x1001 in all
  EXPECT_EQ(package_length(0xfffff - 3), raw({0x8f, 0xff, 0xff}));
  EXPECT_EQ(package_length(0xfffff - 2), raw({0xc1, 0x00, 0x00, 0x01}));
}

TEST(Aml, NamesArePaddedToFourCharacters) {
  EXPECT_EQ(name_string("_S5"), raw({'_', 'S', '5', '_'}));
  EXPECT_EQ(name_string("\\_SB"), raw({'\\', '_', 'S', 'B', '_'}));
  EXPECT_EQ(name("_UID", integer(0)), raw({0x08, '_', 'U', 'I', 'D', 0x00}));
}

TEST(Aml, EisaIdOfASerialPort) {
  // The number that every PC's firmware has for PNP0501: 0x0105d041.
  EXPECT_EQ(eisa_id("PNP0501"), raw({0x0c, 0x41, 0xd0, 0x05, 0x01}));
}

TEST(Aml, PackageOfIntegers) {
  EXPECT_EQ(package({5, 0}), raw({0x12, 0x05, 0x02, 0x0a, 0x05, 0x00}));
}

TEST(Aml, ResourceTemplateIsABufferWithAnEndTag) {
  EXPECT_EQ(resource_template({memory32_fixed(0xd0000000, 0x1000), edge_interrupt(5)}),
            raw({0x11, 0x1a,                                               // buffer, package length
                 0x0a, 0x17,                                               // its size: 12 + 9 + 2
                 0x86, 0x09, 0x00, 0x01, 0,    0, 0, 0xd0, 0, 0x10, 0, 0,  // Memory32Fixed
                 0x89, 0x06, 0x00, 0x03, 0x01, 5, 0, 0,    0,              // Interrupt
                 0x79, 0x00}));
  EXPECT_EQ(io_ports(0x3f8, 8), raw({0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08}));
}

TEST(Aml, DeviceAndScopeWrapTheirContent) {
  EXPECT_EQ(device("COM1", name("_UID", integer(1))),
            raw({0x5b, 0x82, 0x0b, 'C', 'O', 'M', '1', 0x08, '_', 'U', 'I', 'D', 0x01}));
  EXPECT_EQ(scope("\\_SB", {}), raw({0x10, 0x06, '\\', '_', 'S', 'B', '_'}));
}

}  // namespace
}  // namespace ktstr::kvm::aml
