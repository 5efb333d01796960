#include "host/kernel/kernel_location.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "common/quote.h"

namespace ktstr {

namespace {

// KERNEL_IMAGE_SIZE with KASLR, and the alignment at which it places the image (PMD_SIZE).
constexpr std::uint64_t kMaxSlide = std::uint64_t{1} << 30;
constexpr std::uint64_t kSlideAlign = std::uint64_t{2} << 20;
// The final IDT has all 256 gates of 16 bytes.
constexpr std::uint32_t kIdtLimit = 0xfff;
constexpr std::uint64_t kGateBytes = 16;
constexpr std::uint64_t kDivideError = 0;
constexpr std::uint64_t kPageFault = 14;
constexpr std::uint64_t kCr4La57 = std::uint64_t{1} << 12;
// CR3 without PCID, and without the bit that selects the user half (PTI_USER_PGTABLE_BIT is PAGE_SHIFT).
constexpr std::uint64_t kCr3Flags = 0xfff;
constexpr std::uint64_t kCr3UserHalf = 0x1000;
// __PAGE_OFFSET_BASE_L4 and _L5; KASLR moves them by multiples of 1 GiB.
constexpr Kva kPageOffset4{0xffff888000000000};
constexpr Kva kPageOffset5{0xff11000000000000};
constexpr std::uint64_t kPageOffsetAlign = std::uint64_t{1} << 30;
constexpr std::size_t kMaxBanner = 512;
constexpr std::string_view kBannerBegin = "Linux version ";
// For everything that is read here; the expected bytes have their own.
constexpr std::uint64_t kBudgetBytes = 1 << 20;
constexpr std::uint64_t kBudgetReads = 1 << 16;
constexpr std::size_t kMaxVcpus = 512;

std::string signed_hex(std::int64_t value) {
  const auto magnitude =
      value < 0 ? ~static_cast<std::uint64_t>(value) + 1 : static_cast<std::uint64_t>(value);
  return fmt::format("{}{:#x}", value < 0 ? "-" : "", magnitude);
}

std::string sentence(const std::vector<std::string>& parts) {
  return fmt::format("{}", fmt::join(parts, "; "));
}

// Address in a gate descriptor: three pieces (AMD64 APM vol. 2, 4.8.4). Nothing when it is not present.
std::optional<std::uint64_t> gate_address(const std::array<std::uint64_t, 2>& gate) {
  const bool present = (gate[0] >> 47 & 1) != 0;
  if (!present) return std::nullopt;
  return (gate[0] & 0xffff) | (gate[0] >> 48 << 16) | gate[1] << 32;
}

class Finder {
 public:
  explicit Finder(const KernelClues& clues) : clues_(clues), budget_(kBudgetBytes, kBudgetReads) {}

  Expected<KernelLocation> find() {
    if (auto done = find_levels(); !done) return std::unexpected(std::move(done).error());
    if (auto done = find_slide(); !done) return std::unexpected(std::move(done).error());
    if (auto done = find_physical_base(); !done) return std::unexpected(std::move(done).error());
    if (auto done = verify_tables(); !done) return std::unexpected(std::move(done).error());
    if (auto done = find_direct_map(); !done) return std::unexpected(std::move(done).error());
    if (auto done = verify_image(); !done) return std::unexpected(std::move(done).error());
    location_.evidence = fmt::format(
        "slide {:#x} by {}; phys_base {} by {}; verified by init_top_pgt and the image{}", location_.slide,
        fmt::join(slide_witnesses_, " and "), signed_hex(location_.physical_base), physical_witness_,
        location_.levels == PagingLevels::kFive ? "; page tables of 5 levels" : "");
    return std::move(location_);
  }

 private:
  std::span<const VcpuWitness> vcpus() const {
    return clues_.vcpus.first(std::min(clues_.vcpus.size(), kMaxVcpus));
  }

  Expected<> find_levels() {
    std::optional<PagingLevels> levels;
    for (const VcpuWitness& vcpu : vcpus()) {
      if (vcpu.cr3 == 0) continue;
      const auto own = (vcpu.cr4 & kCr4La57) != 0 ? PagingLevels::kFive : PagingLevels::kFour;
      if (levels && *levels != own)
        return fail(ErrorCode::kNoBoot,
                    "vCPUs use page tables of different depth: the kernel is still starting them");
      levels = own;
    }
    if (clues_.vmcoreinfo != nullptr && clues_.vmcoreinfo->paging) {
      if (levels && *levels != *clues_.vmcoreinfo->paging) {
        return fail(
            ErrorCode::kUsage,
            fmt::format(
                "VMCOREINFO tells of {} levels of page tables, CR4 of {}: the note belongs to another kernel",
                static_cast<int>(*clues_.vmcoreinfo->paging), static_cast<int>(*levels)));
      }
      levels = clues_.vmcoreinfo->paging;
    }
    if (!levels) {
      return fail(
          ErrorCode::kNoBoot,
          "where the kernel runs cannot be found: no vCPU has page tables, and there is no VMCOREINFO");
    }
    location_.levels = *levels;
    return {};
  }

  PageTableWalk walk(std::uint64_t root) const {
    return PageTableWalk(Gpa(root), location_.levels, clues_.physical_bits);
  }

  // Where the tables of a CR3 may lie: the kernel half first; bit 12 is part of the address where the kernel
  // was built without page-table isolation.
  static std::array<std::uint64_t, 2> roots(std::uint64_t cr3) {
    return {cr3 & ~(kCr3Flags | kCr3UserHalf), cr3 & ~kCr3Flags};
  }

  // Reads at a virtual address by the tables of `root`; within one page.
  template <typename T>
  FaultOr<T> read_by(std::uint64_t root, Kva kva) {
    const auto place = walk(root).translate(clues_.memory, kva, budget_);
    if (!place) return std::unexpected(place.error());
    return clues_.memory.read<T>(place->gpa, budget_);
  }

  // A slide must be one that KASLR chooses.
  static bool plausible(std::uint64_t slide) { return slide % kSlideAlign == 0 && slide < kMaxSlide; }

  // Takes a witness that said `slide`; the first decides, the others must agree.
  Expected<> agree(std::uint64_t slide, std::string who) {
    if (slide_witnesses_.empty()) {
      location_.slide = slide;
    } else if (slide != location_.slide) {
      return fail(ErrorCode::kUsage,
                  fmt::format("witnesses disagree on where the kernel runs: slide {:#x} by {}, {:#x} by {}; "
                              "kernel and symbols must be of the same build",
                              location_.slide, slide_witnesses_.front(), slide, who));
    }
    if (std::ranges::find(slide_witnesses_, who) == slide_witnesses_.end())
      slide_witnesses_.push_back(std::move(who));
    return {};
  }

  Expected<> find_slide() {
    if (clues_.text) {
      const auto text = clues_.symbols.address("_text");
      if (!text) return std::unexpected(text.error());
      const std::uint64_t slide = clues_.text->value() - *text;
      if (!plausible(slide)) {
        return fail(
            ErrorCode::kUsage,
            fmt::format("the kernel cannot run at {}: linked for {:#x}, that is a slide of {:#x}, and "
                        "slides are multiples of 2 MiB below 1 GiB",
                        *clues_.text, *text, slide));
      }
      if (auto done = agree(slide, "the address given for _text"); !done) return done;
    }
    if (clues_.vmcoreinfo != nullptr && clues_.vmcoreinfo->kernel_offset) {
      const std::uint64_t slide = *clues_.vmcoreinfo->kernel_offset;
      if (!plausible(slide)) {
        return fail(ErrorCode::kUsage,
                    fmt::format("VMCOREINFO: KERNELOFFSET={:x} is no multiple of 2 MiB below 1 GiB", slide));
      }
      if (auto done = agree(slide, "VMCOREINFO"); !done) return done;
    }
    for (std::size_t cpu = 0; cpu < vcpus().size(); ++cpu) {
      if (auto done = ask_idt(cpu); !done) return done;
      if (auto done = ask_lstar(cpu); !done) return done;
    }
    if (slide_witnesses_.empty()) {
      return fail(ErrorCode::kNoBoot,
                  fmt::format("where the kernel runs cannot be found yet: {}",
                              reasons_.empty() ? "no vCPU has an IDT" : sentence(reasons_)));
    }
    return {};
  }

  // Why a witness says nothing; a few are enough.
  void pass_over(std::string why) {
    if (reasons_.size() < 4) reasons_.push_back(std::move(why));
  }

  Expected<> ask_idt(std::size_t cpu) {
    const VcpuWitness& vcpu = vcpus()[cpu];
    if (vcpu.cr3 == 0 || vcpu.idt_base == 0) return {};
    if (vcpu.idt_limit != kIdtLimit) {
      pass_over(fmt::format("the IDT of vCPU {} has limit {:#x}, not yet the kernel's {:#x}", cpu,
                            vcpu.idt_limit, kIdtLimit));
      return {};
    }
    const auto divide_error = clues_.symbols.address("asm_exc_divide_error");
    if (!divide_error) return std::unexpected(divide_error.error());
    const auto page_fault = clues_.symbols.address("asm_exc_page_fault");
    if (!page_fault) return std::unexpected(page_fault.error());
    std::string why;
    for (const std::uint64_t root : roots(vcpu.cr3)) {
      const Kva idt(vcpu.idt_base);
      const auto gate0 = read_by<std::array<std::uint64_t, 2>>(root, idt + kDivideError * kGateBytes);
      const auto gate14 = read_by<std::array<std::uint64_t, 2>>(root, idt + kPageFault * kGateBytes);
      if (!gate0 || !gate14) {
        why = fmt::format("the IDT of vCPU {} cannot be read: {}", cpu,
                          (gate0 ? gate14.error() : gate0.error()).to_string());
        continue;
      }
      const auto handler0 = gate_address(*gate0);
      const auto handler14 = gate_address(*gate14);
      if (handler0 && handler14 && *handler0 - *divide_error == *handler14 - *page_fault &&
          plausible(*handler0 - *divide_error)) {
        return agree(*handler0 - *divide_error, fmt::format("the IDT of vCPU {}", cpu));
      }
      why = fmt::format(
          "the IDT of vCPU {} does not have this kernel's handlers (divide error {:#x}, page fault {:#x})",
          cpu, handler0.value_or(0), handler14.value_or(0));
    }
    pass_over(std::move(why));
    return {};
  }

  Expected<> ask_lstar(std::size_t cpu) {
    const auto& lstar = vcpus()[cpu].lstar;
    if (!lstar || *lstar == 0) return {};
    const auto entry = clues_.symbols.find("entry_SYSCALL_64");
    if (!entry) return {};
    if (!plausible(*lstar - *entry)) {
      pass_over(fmt::format("LSTAR of vCPU {} is {:#x}, not entry_SYSCALL_64 of this kernel", cpu, *lstar));
      return {};
    }
    return agree(*lstar - *entry, fmt::format("LSTAR of vCPU {}", cpu));
  }

  Expected<> find_physical_base() {
    const auto text = clues_.symbols.address("_text");
    if (!text) return std::unexpected(text.error());
    text_ = location_.kva(*text);
    const auto variable = clues_.symbols.find("phys_base");
    std::optional<std::int64_t> found;
    for (std::size_t cpu = 0; cpu < vcpus().size() && !found; ++cpu) {
      if (vcpus()[cpu].cr3 == 0) continue;
      for (const std::uint64_t root : roots(vcpus()[cpu].cr3)) {
        const auto place = walk(root).translate(clues_.memory, text_, budget_);
        if (!place) {
          pass_over(fmt::format("the tables of vCPU {} lack the kernel: {}", cpu, place.error().to_string()));
          continue;
        }
        const auto base = static_cast<std::int64_t>(place->gpa.value() - (text_ - kStartKernelMap));
        // The kernel's own opinion, read by the same tables; under a wrong root it is some other word.
        if (variable) {
          const auto own = read_by<std::int64_t>(root, location_.kva(*variable));
          if (!own || *own != base) {
            pass_over(
                fmt::format("the tables of vCPU {} put _text at {}, the variable phys_base says otherwise",
                            cpu, place->gpa));
            continue;
          }
        }
        found = base;
        physical_witness_ =
            fmt::format("the page tables of vCPU {}{}", cpu, variable ? " and the variable phys_base" : "");
        break;
      }
    }
    if (clues_.vmcoreinfo != nullptr && clues_.vmcoreinfo->physical_base) {
      const std::int64_t said = *clues_.vmcoreinfo->physical_base;
      if (found && *found != said) {
        return fail(ErrorCode::kUsage, fmt::format("phys_base is {} by {}, but {} by VMCOREINFO",
                                                   signed_hex(*found), physical_witness_, signed_hex(said)));
      }
      if (!found) physical_witness_ = "VMCOREINFO";
      found = said;
    }
    if (!found) {
      return fail(ErrorCode::kNoBoot,
                  fmt::format("the kernel's physical place cannot be found (slide {:#x} by {}): {}",
                              location_.slide, slide_witnesses_.front(), sentence(reasons_)));
    }
    location_.physical_base = *found;
    return {};
  }

  // The kernel's own tables must lead where the shift does.
  Expected<> verify_tables() {
    const auto table = clues_.symbols.address("init_top_pgt");
    if (!table) return std::unexpected(table.error());
    location_.init_top_pgt = location_.gpa(location_.kva(*table));
    if (clues_.vmcoreinfo != nullptr && clues_.vmcoreinfo->init_top_pgt &&
        *clues_.vmcoreinfo->init_top_pgt != location_.kva(*table)) {
      return fail(ErrorCode::kUsage, fmt::format("init_top_pgt is at {} by VMCOREINFO, at {} by the symbols",
                                                 *clues_.vmcoreinfo->init_top_pgt, location_.kva(*table)));
    }
    return must_lead(text_, location_.gpa(text_), "_text");
  }

  // By init_top_pgt, `kva` is at `gpa`.
  Expected<> must_lead(Kva kva, Gpa gpa, std::string_view name) {
    const auto place = walk(location_.init_top_pgt.value()).translate(clues_.memory, kva, budget_);
    if (!place) {
      return fail(ErrorCode::kUsage,
                  fmt::format("{} at {} should be at physical {}, but init_top_pgt ({}) does not map it: {}",
                              name, kva, gpa, location_.init_top_pgt, place.error().to_string()));
    }
    if (place->gpa != gpa) {
      return fail(ErrorCode::kUsage,
                  fmt::format("{} at {} should be at physical {}, but init_top_pgt ({}) maps it to {}", name,
                              kva, gpa, location_.init_top_pgt, place->gpa));
    }
    return {};
  }

  Expected<> find_direct_map() {
    location_.page_offset_base = location_.levels == PagingLevels::kFive ? kPageOffset5 : kPageOffset4;
    if (const auto variable = clues_.symbols.find("page_offset_base")) {
      const Kva kva = location_.kva(*variable);
      const auto value = clues_.memory.read<Kva>(location_.gpa(kva), budget_);
      if (!value) {
        return fail(ErrorCode::kUsage,
                    fmt::format("page_offset_base at {} cannot be read: {}", kva, value.error().to_string()));
      }
      if (value->value() % kPageOffsetAlign != 0 || *value < Kva(0xff00000000000000) ||
          !walk(0).canonical(*value)) {
        return fail(ErrorCode::kUsage,
                    fmt::format("page_offset_base holds {}, where a direct map cannot begin", *value));
      }
      location_.page_offset_base = *value;
    }
    return must_lead(location_.page_offset_base + location_.init_top_pgt.value(), location_.init_top_pgt,
                     "init_top_pgt in the direct map");
  }

  Expected<> verify_image() {
    if (const auto banner = clues_.symbols.find("linux_banner")) {
      const Gpa place = location_.gpa(location_.kva(*banner));
      const auto text = clues_.memory.read_c_string(place, kMaxBanner, budget_);
      if (!text)
        return fail(ErrorCode::kUsage,
                    fmt::format("the banner at {} cannot be read: {}", place, text.error().to_string()));
      if (!text->text.starts_with(kBannerBegin)) {
        return fail(ErrorCode::kUsage,
                    fmt::format("the banner at {} should begin with {}, there is {}", place,
                                quote(kBannerBegin), quote(std::string_view(text->text).substr(0, 40))));
      }
    }
    for (const ImageBytes& expected : clues_.expected) {
      std::vector<std::byte> there(expected.bytes.size());
      const Kva kva = location_.kva(expected.address);
      ReadBudget budget(expected.bytes.size(), 1);
      if (const auto read = clues_.memory.read(location_.gpa(kva), there, budget); !read) {
        return fail(ErrorCode::kUsage, fmt::format("{} bytes of the image at {} cannot be read: {}",
                                                   there.size(), kva, read.error().to_string()));
      }
      const auto [mine, theirs] = std::ranges::mismatch(expected.bytes, there);
      if (mine == expected.bytes.end()) continue;
      return fail(
          ErrorCode::kUsage,
          fmt::format(
              "the guest runs another kernel than the image: at {} (linked at {:#x}) it has {:#04x}, the "
              "image {:#04x}",
              kva + static_cast<std::uint64_t>(mine - expected.bytes.begin()), expected.address,
              std::to_integer<int>(*theirs), std::to_integer<int>(*mine)));
    }
    return {};
  }

  const KernelClues& clues_;
  ReadBudget budget_;
  KernelLocation location_;
  Kva text_;
  std::vector<std::string> slide_witnesses_;
  std::string physical_witness_;
  std::vector<std::string> reasons_;
};

}  // namespace

Expected<KernelLocation> find_kernel(const KernelClues& clues) {
  return Finder(clues).find();
}

Expected<KernelLayout> make_layout(const KernelLocation& location, const SymbolTable& symbols, Gpa ram_end,
                                   std::uint32_t physical_bits) {
  const auto text = symbols.address("_text");
  if (!text) return std::unexpected(text.error());
  const auto end = symbols.address("_end");
  if (!end) return std::unexpected(end.error());
  if (*end <= *text || *end - *text > kMaxSlide || Kva(*text) < kStartKernelMap) {
    return fail(ErrorCode::kKernelLacks,
                fmt::format("_text {:#x} and _end {:#x} do not delimit a kernel image", *text, *end));
  }
  return KernelLayout{
      .direct_map = KernelLayout::DirectMap{.base = location.page_offset_base, .size = ram_end.value()},
      .image = KernelLayout::Image{.begin = location.kva(*text),
                                   .size = *end - *text,
                                   .map_base = kStartKernelMap,
                                   .physical_base = location.physical_base},
      .page_tables = PageTableWalk(location.init_top_pgt, location.levels, physical_bits)};
}

}  // namespace ktstr
