#include "tests/codegen/loader.hpp"

#include <elf.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

namespace ag::test {

Code::Code(const std::string& object, const std::string& symbol) { load(object, symbol); }

Code::~Code() {
  if (memory_) munmap(memory_, size_);
}

void Code::load(const std::string& object, const std::string& symbol) {
  const char* base = object.data();
  auto header = reinterpret_cast<const Elf64_Ehdr*>(base);
  if (object.size() < sizeof(*header) || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
    problem = "not an ELF object";
    return;
  }
  auto sections = reinterpret_cast<const Elf64_Shdr*>(base + header->e_shoff);
  std::vector<std::size_t> at(header->e_shnum, 0);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (!(sections[i].sh_flags & SHF_ALLOC)) continue;
    std::size_t align = std::max<std::size_t>(sections[i].sh_addralign, 64);
    size_ = (size_ + align - 1) / align * align;
    at[static_cast<std::size_t>(i)] = size_;
    size_ += sections[i].sh_size;
  }
  size_ = (size_ + 4095) / 4096 * 4096;
  void* p = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    problem = "no memory";
    return;
  }
  memory_ = static_cast<char*>(p);
  for (std::size_t i = 0; i < at.size(); ++i)
    if ((sections[i].sh_flags & SHF_ALLOC) && sections[i].sh_type != SHT_NOBITS)
      std::memcpy(memory_ + at[i], base + sections[i].sh_offset, sections[i].sh_size);

  for (std::size_t i = 0; i < at.size(); ++i) {
    const Elf64_Shdr& s = sections[i];
    if (s.sh_type != SHT_RELA || !(sections[s.sh_info].sh_flags & SHF_ALLOC)) continue;
    auto symbols = reinterpret_cast<const Elf64_Sym*>(base + sections[s.sh_link].sh_offset);
    const char* names = base + sections[sections[s.sh_link].sh_link].sh_offset;
    for (std::size_t k = 0; k < s.sh_size / sizeof(Elf64_Rela); ++k) {
      auto rela = reinterpret_cast<const Elf64_Rela*>(base + s.sh_offset)[k];
      const Elf64_Sym& sym = symbols[ELF64_R_SYM(rela.r_info)];
      if (sym.st_shndx == SHN_UNDEF || sym.st_shndx >= at.size()) {
        problem = std::string("undefined symbol ") + (names + sym.st_name);
        return;
      }
      char* target = memory_ + at[sym.st_shndx] + sym.st_value;
      char* place = memory_ + at[s.sh_info] + rela.r_offset;
      auto type = ELF64_R_TYPE(rela.r_info);
      if (type == R_X86_64_PC32 || type == R_X86_64_PLT32) {
        auto v = static_cast<std::int32_t>(target + rela.r_addend - place);
        std::memcpy(place, &v, 4);
      } else if (type == R_X86_64_64) {
        auto v = reinterpret_cast<std::int64_t>(target) + rela.r_addend;
        std::memcpy(place, &v, 8);
      } else {
        problem = "relocation type " + std::to_string(type);
        return;
      }
    }
  }
  for (std::size_t i = 0; i < at.size(); ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    auto symbols = reinterpret_cast<const Elf64_Sym*>(base + sections[i].sh_offset);
    const char* names = base + sections[sections[i].sh_link].sh_offset;
    for (std::size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); ++k)
      if (symbols[k].st_shndx != SHN_UNDEF && symbols[k].st_shndx < at.size() && symbol == names + symbols[k].st_name)
        fn = reinterpret_cast<loop::KernelFn>(memory_ + at[symbols[k].st_shndx] + symbols[k].st_value);
  }
  if (!fn) problem = "no symbol " + symbol;
  if (mprotect(memory_, size_, PROT_READ | PROT_EXEC) != 0) problem = "memory cannot be made executable";
}

}  // namespace ag::test
