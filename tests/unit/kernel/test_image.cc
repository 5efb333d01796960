#include "tests/unit/kernel/test_image.h"

#include <archive.h>
#include <archive_entry.h>

#include <memory>
#include <stdexcept>

#include <bpf/btf.h>

namespace ktstr::test {
namespace {

void pad(std::string& text, std::size_t alignment) {
  text.resize((text.size() + alignment - 1) / alignment * alignment);
}

template <typename T>
void append(std::string& text, const T& value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_note(std::string& notes, std::string name, std::uint32_t type, const std::string& contents) {
  name.push_back('\0');
  append(notes, Elf64_Nhdr{.n_namesz = static_cast<Elf64_Word>(name.size()),
                           .n_descsz = static_cast<Elf64_Word>(contents.size()),
                           .n_type = type});
  notes += name;
  pad(notes, 4);
  notes += contents;
  pad(notes, 4);
}

struct Section {
  const char* name;
  std::uint32_t type;
  std::string contents;
  const TestSection* made = nullptr;
};

std::string literal_blocks(const std::string& data) {
  // Legacy frames: magic, then blocks of up to 8 MiB, each one sequence of literals only.
  std::string stream("\x02\x21\x4c\x18", 4);
  std::string block(1, '\xf0');
  if (data.size() < 15) throw std::runtime_error("too little data for this encoder");
  std::size_t rest = data.size() - 15;
  for (; rest >= 255; rest -= 255) block.push_back('\xff');
  block.push_back(static_cast<char>(rest));
  block += data;
  append(stream, static_cast<std::uint32_t>(block.size()));
  return stream + block;
}

int filter_of(Compression method) {
  switch (method) {
    case Compression::kGzip:
      return ARCHIVE_FILTER_GZIP;
    case Compression::kBzip2:
      return ARCHIVE_FILTER_BZIP2;
    case Compression::kLzma:
      return ARCHIVE_FILTER_LZMA;
    case Compression::kXz:
      return ARCHIVE_FILTER_XZ;
    case Compression::kZstd:
      return ARCHIVE_FILTER_ZSTD;
    default:
      throw std::runtime_error("no encoder");
  }
}

}  // namespace

std::string make_elf(const ElfOptions& options) {
  std::string rodata = "some strings";
  rodata.push_back('\0');
  rodata += options.banner;
  rodata.push_back('\0');
  if (!options.config.empty())
    rodata += "IKCFG_ST" + compress(options.config, Compression::kGzip) + "IKCFG_ED";
  std::string notes;
  append_note(notes, "Linux", 0x101, std::string(1, '\0'));
  if (!options.build_id.empty()) append_note(notes, "GNU", NT_GNU_BUILD_ID, options.build_id);
  if (options.pvh) append_note(notes, "Xen", 18, std::string("\x00\x02\x00\x01\x00\x00\x00\x00", 8));

  std::vector<Section> sections{{"", SHT_NULL, ""},
                                {".text", SHT_PROGBITS, std::string(64 + options.padding, '\0')},
                                {".rodata", SHT_PROGBITS, rodata},
                                {".notes", SHT_NOTE, notes}};
  if (!options.btf.empty()) sections.push_back({".BTF", SHT_PROGBITS, options.btf});
  if (!options.symbols.empty()) {
    std::string table(sizeof(Elf64_Sym), '\0');
    std::string strings(1, '\0');
    for (const TestSymbol& symbol : options.symbols) {
      append(table, Elf64_Sym{.st_name = static_cast<Elf64_Word>(strings.size()),
                              .st_info = static_cast<unsigned char>(
                                  ELF64_ST_INFO(symbol.weak ? STB_WEAK : STB_GLOBAL, STT_NOTYPE)),
                              .st_other = 0,
                              .st_shndx = 1,
                              .st_value = symbol.address,
                              .st_size = 0});
      strings += symbol.name;
      strings.push_back('\0');
    }
    sections.push_back({".symtab", SHT_SYMTAB, table});
    sections.push_back({".strtab", SHT_STRTAB, strings});
  }
  std::size_t placed = 0;
  for (const TestSection& section : options.more) {
    sections.push_back({section.name.c_str(), SHT_PROGBITS, "", &section});
    if (section.address) ++placed;
  }
  std::string names(1, '\0');
  std::vector<Elf64_Shdr> headers;
  std::vector<Elf64_Phdr> segments;
  std::string body(sizeof(Elf64_Ehdr) + (2 + placed) * sizeof(Elf64_Phdr), '\0');
  std::size_t notes_at = 0;
  sections.push_back({".shstrtab", SHT_STRTAB, ""});
  for (Section& section : sections) {
    pad(body, 16);
    Elf64_Shdr header = {};
    if (section.type != SHT_NULL) {
      header.sh_name = static_cast<Elf64_Word>(names.size());
      names += section.name;
      names.push_back('\0');
      if (section.name == std::string_view(".shstrtab")) section.contents = names;
      if (section.name == std::string_view(".rodata") && options.rodata) {
        pad(section.contents, 8);
        section.contents += options.rodata(0xffffffff81000000 + body.size() + section.contents.size());
      }
      if (section.type == SHT_NOTE) notes_at = body.size();
      header.sh_type = section.type;
      header.sh_addr = 0xffffffff81000000 + body.size();
      if (section.made != nullptr) {
        header.sh_addr = section.made->address.value_or(header.sh_addr);
        section.contents = section.made->contents(header.sh_addr);
      }
      if (section.made != nullptr && section.made->address) {
        segments.push_back({.p_type = PT_LOAD,
                            .p_flags = PF_R | PF_W,
                            .p_offset = body.size(),
                            .p_vaddr = header.sh_addr,
                            .p_paddr = 0x1000000 + body.size(),
                            .p_filesz = section.contents.size(),
                            .p_memsz = section.contents.size(),
                            .p_align = 0x1000});
      }
      header.sh_offset = body.size();
      header.sh_size = section.contents.size();
      body += section.contents;
    }
    headers.push_back(header);
  }
  Elf64_Ehdr elf = {};
  std::memcpy(elf.e_ident, ELFMAG, SELFMAG);
  elf.e_ident[EI_CLASS] = ELFCLASS64;
  elf.e_ident[EI_DATA] = ELFDATA2LSB;
  elf.e_ident[EI_VERSION] = EV_CURRENT;
  elf.e_type = ET_EXEC;
  elf.e_machine = EM_X86_64;
  elf.e_version = EV_CURRENT;
  elf.e_entry = 0x1000000;
  elf.e_ehsize = sizeof(Elf64_Ehdr);
  elf.e_phoff = sizeof(Elf64_Ehdr);
  elf.e_phentsize = sizeof(Elf64_Phdr);
  elf.e_phnum = static_cast<Elf64_Half>(2 + placed);
  const Elf64_Phdr load{.p_type = PT_LOAD,
                        .p_flags = PF_R | PF_X,
                        .p_offset = 0,
                        .p_vaddr = 0xffffffff81000000,
                        .p_paddr = 0x1000000,
                        .p_filesz = body.size(),
                        .p_memsz = body.size() + 0x1000,
                        .p_align = 0x200000};
  const Elf64_Phdr note{.p_type = PT_NOTE,
                        .p_flags = PF_R,
                        .p_offset = notes_at,
                        .p_vaddr = 0,
                        .p_paddr = 0,
                        .p_filesz = notes.size(),
                        .p_memsz = notes.size(),
                        .p_align = 4};
  if (options.sections) {
    pad(body, 8);
    elf.e_shoff = body.size();
    elf.e_shentsize = sizeof(Elf64_Shdr);
    elf.e_shnum = static_cast<Elf64_Half>(headers.size());
    elf.e_shstrndx = static_cast<Elf64_Half>(headers.size() - 1);
    for (const Elf64_Shdr& header : headers) append(body, header);
  }
  poke(body, 0, elf);
  poke(body, sizeof elf, load);
  poke(body, sizeof elf + sizeof load, note);
  for (std::size_t i = 0; i < segments.size(); ++i)
    poke(body, sizeof elf + (2 + i) * sizeof(Elf64_Phdr), segments[i]);
  return body;
}

std::string compress(const std::string& data, Compression method) {
  if (method == Compression::kLz4) return literal_blocks(data);
  const std::unique_ptr<archive, int (*)(archive*)> writer(archive_write_new(), archive_write_free);
  const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                       archive_entry_free);
  std::string stream(data.size() * 2 + 65536, '\0');
  std::size_t used = 0;
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_pathname(entry.get(), "data");
  archive_write_set_format_raw(writer.get());
  archive_write_set_bytes_per_block(writer.get(), 0);
  if (archive_write_add_filter(writer.get(), filter_of(method)) != ARCHIVE_OK ||
      archive_write_open_memory(writer.get(), stream.data(), stream.size(), &used) != ARCHIVE_OK ||
      archive_write_header(writer.get(), entry.get()) != ARCHIVE_OK ||
      archive_write_data(writer.get(), data.data(), data.size()) != static_cast<la_ssize_t>(data.size()) ||
      archive_write_close(writer.get()) != ARCHIVE_OK) {
    throw std::runtime_error("cannot compress");
  }
  stream.resize(used);
  return stream;
}

std::string make_payload(const std::string& data, Compression method) {
  std::string payload = compress(data, method);
  if (method != Compression::kGzip) append(payload, static_cast<std::uint32_t>(data.size()));
  return payload;
}

std::string make_bzimage(const std::string& payload) {
  constexpr std::size_t kSetupSize = 5 * 512;
  constexpr std::size_t kCodeBefore = 256;
  std::string image(kSetupSize + kCodeBefore, '\0');
  image += payload;
  image.resize(image.size() + 512);
  pad(image, 16);
  poke<std::uint8_t>(image, kSetupSects, 4);
  poke(image, kSyssize, static_cast<std::uint32_t>((image.size() - kSetupSize) / 16));
  poke<std::uint16_t>(image, kBootFlag, 0xaa55);
  std::memcpy(image.data() + kMagic, "HdrS", 4);
  poke<std::uint16_t>(image, kProtocol, 0x20f);
  poke<std::uint16_t>(image, kVersionPointer, 0x300);
  poke<std::uint8_t>(image, kLoadflags, 1);
  poke<std::uint16_t>(image, kXloadflags, 0x7f);
  poke(image, kPayloadOffset, static_cast<std::uint32_t>(kCodeBefore));
  poke(image, kPayloadLength, static_cast<std::uint32_t>(payload.size()));
  poke<std::uint32_t>(image, kInitSize, 0x3c00000);
  const std::string version = std::string(kRelease) + " (me@here) " + kUtsVersion;
  std::memcpy(image.data() + 0x500, version.c_str(), version.size() + 1);
  return image;
}

std::string make_bzimage() {
  return make_bzimage(make_payload(make_elf(), Compression::kGzip));
}

std::string make_btf(const BtfOptions& options) {
  const std::unique_ptr<btf, void (*)(btf*)> types(btf__new_empty(), btf__free);
  btf* b = types.get();
  const int integer = btf__add_int(b, "int", 4, BTF_INT_SIGNED);
  const int word = btf__add_int(b, "long unsigned int", 8, 0);
  const int bits = btf__add_array(b, word, word, 2);
  btf__add_struct(b, "cpumask", 16);
  btf__add_field(b, "bits", bits, 0, 0);
  if (options.sched_ext) {
    btf__add_struct(b, "sched_ext_entity", 8);
    btf__add_field(b, "weight", integer, 0, 0);
    btf__add_struct(b, "scx_task_group", 4);
    btf__add_field(b, "weight", integer, 0, 0);
  } else {
    btf__add_fwd(b, "sched_ext_entity", BTF_FWD_STRUCT);
  }
  // An anonymous union inside, as task_struct has several.
  const int inner = btf__add_union(b, nullptr, 8);
  btf__add_field(b, "inner_member", word, 0, 0);
  btf__add_struct(b, "task_struct", 32);
  btf__add_field(b, "cgroups", word, 0, 0);
  btf__add_field(b, nullptr, inner, 64, 0);
  if (options.preempt_rcu) btf__add_field(b, "rcu_read_lock_nesting", integer, 128, 0);
  if (options.no_hz_full) btf__add_field(b, "tick_dep_mask", integer, 160, 0);
  btf__add_struct(b, "rq", 8);
  btf__add_field(b, "nohz_csd", word, 0, 0);
  const int prototype = btf__add_func_proto(b, integer);
  btf__add_func(b, "x86_core_flags", BTF_FUNC_STATIC, prototype);
  btf__add_var(b, "cpu_sibling_map", BTF_VAR_GLOBAL_ALLOCATED, word);
  btf__add_enum(b, "cgroup_subsys_id", 4);
  btf__add_enum_value(b, "cpuset_cgrp_id", 0);
  btf__add_enum_value(b, "pids_cgrp_id", 1);
  std::uint32_t size = 0;
  const void* raw = btf__raw_data(b, &size);
  return {static_cast<const char*>(raw), size};
}

}  // namespace ktstr::test
