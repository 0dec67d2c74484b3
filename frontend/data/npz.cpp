#include <zip.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "frontend/data/arrays.hpp"
#include "frontend/data/keys.hpp"

namespace ag::data {
namespace {

struct ZipClose {
  void operator()(zip_t* z) const { zip_discard(z); }
  void operator()(zip_file_t* f) const { zip_fclose(f); }
};
using Archive = std::unique_ptr<zip_t, ZipClose>;
using Entry = std::unique_ptr<zip_file_t, ZipClose>;
constexpr zip_int64_t max_entries = 1 << 20;

std::string text_of(zip_error_t& e) {
  std::string text = zip_error_strerror(&e);
  zip_error_fini(&e);
  return text;
}

/// The whole entry, once its header has said how long it ought to be.
Result<Array> read_entry(zip_t* archive, zip_uint64_t index, std::string_view name, const Limits& limits,
                         const Loc& loc) {
  auto refuse = [&](std::string why) {
    return fail(Code::AG0016, loc, fmt::format("`{}` is not readable: {}", name, why));
  };
  zip_stat_t st;
  if (zip_stat_index(archive, index, 0, &st) != 0 || !(st.valid & ZIP_STAT_SIZE))
    return refuse("its size is not known");
  if (st.valid & ZIP_STAT_ENCRYPTION_METHOD && st.encryption_method != ZIP_EM_NONE) return refuse("it is encrypted");
  if (st.size > limits.max_array_bytes)
    return refuse(fmt::format("it has {} bytes; the limit is {}", st.size, limits.max_array_bytes));
  Entry file(zip_fopen_index(archive, index, 0));
  if (!file) return refuse(zip_strerror(archive));
  // Grown as data arrives: the declared size is the archive's word, not a fact.
  std::string bytes;
  constexpr std::size_t chunk = 1 << 20;
  for (;;) {
    std::size_t old = bytes.size();
    bytes.resize(old + chunk);
    zip_int64_t n = zip_fread(file.get(), bytes.data() + old, chunk);
    if (n < 0) return refuse(zip_file_strerror(file.get()));
    bytes.resize(old + static_cast<std::size_t>(n));
    if (n == 0) break;
    if (bytes.size() > st.size) return refuse("it is longer than the archive says");
  }
  if (bytes.size() != st.size) return refuse("it is shorter than the archive says");
  return parse_npy(bytes, name, limits, loc);
}

std::string array_name(std::string_view entry) {
  if (entry.ends_with(".npy")) entry.remove_suffix(4);
  return std::string(entry);
}

}  // namespace

Result<NamedArrays> parse_npz(std::string_view bytes, std::string_view name, const std::string* key,
                              const Limits& limits, const Loc& loc) {
  auto refuse = [&](std::string why) {
    return fail(Code::AG0016, loc, fmt::format("`{}` is not a readable .npz file: {}", name, why));
  };
  // libzip takes a file of no bytes for an empty archive.
  if (bytes.size() < 22) return refuse("it is too short");
  zip_error_t e;
  zip_error_init(&e);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &e);
  if (!source) return refuse(text_of(e));
  Archive archive(zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &e));
  if (!archive) {
    zip_source_free(source);
    return refuse(text_of(e));
  }
  zip_int64_t count = zip_get_num_entries(archive.get(), 0);
  if (count < 0 || count > max_entries) return refuse("it has too many entries");
  NamedArrays out;
  std::vector<std::string> names;
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* entry = zip_get_name(archive.get(), static_cast<zip_uint64_t>(i), ZIP_FL_ENC_STRICT);
    if (!entry) return refuse(zip_strerror(archive.get()));
    names.push_back(array_name(entry));
    if (key && names.back() != *key) continue;
    auto array =
        read_entry(archive.get(), static_cast<zip_uint64_t>(i), fmt::format("{}:{}", name, names.back()), limits, loc);
    if (!array) return fail(std::move(array).error());
    out.emplace_back(names.back(), std::move(*array));
  }
  if (key && out.empty()) return fail(no_such_array(name, *key, names, loc));
  return out;
}

Result<std::string> format_npz(const NamedArrays& arrays) {
  auto give_up = [](const char* why) {
    return fail(Code::AG0020, {}, fmt::format("cannot build the archive: {}", why));
  };
  zip_error_t e;
  zip_error_init(&e);
  zip_source_t* target = zip_source_buffer_create(nullptr, 0, 0, &e);
  if (!target) return give_up(zip_error_strerror(&e));
  zip_source_keep(target);
  std::unique_ptr<zip_source_t, void (*)(zip_source_t*)> kept(target, zip_source_free);
  Archive archive(zip_open_from_source(target, ZIP_CREATE | ZIP_TRUNCATE, &e));
  if (!archive) {
    zip_source_free(target);
    return give_up(zip_error_strerror(&e));
  }
  std::vector<std::string> files;  // must live until zip_close
  files.reserve(arrays.size());
  for (const auto& [name, array] : arrays) {
    files.push_back(format_npy(array));
    zip_source_t* part = zip_source_buffer(archive.get(), files.back().data(), files.back().size(), 0);
    if (!part) return give_up(zip_strerror(archive.get()));
    zip_int64_t index = zip_file_add(archive.get(), (name + ".npy").c_str(), part, ZIP_FL_ENC_UTF_8);
    if (index < 0) {
      zip_source_free(part);
      return give_up(zip_strerror(archive.get()));
    }
    zip_set_file_compression(archive.get(), static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
    zip_file_set_dostime(archive.get(), static_cast<zip_uint64_t>(index), 0, 0x21,
                         0);  // 1 January 1980: no clock in the bytes
  }
  // An archive without entries is no file to libzip; numpy's empty archive is the end record alone.
  if (arrays.empty()) return std::string("PK\x05\x06", 4) + std::string(18, '\0');
  if (zip_close(archive.get()) != 0) return give_up(zip_strerror(archive.get()));
  (void)archive.release();
  if (zip_source_open(target) != 0) return give_up("it cannot be read back");
  zip_source_seek(target, 0, SEEK_END);
  zip_int64_t size = zip_source_tell(target);
  zip_source_seek(target, 0, SEEK_SET);
  std::string out(static_cast<std::size_t>(std::max<zip_int64_t>(size, 0)), '\0');
  zip_int64_t n = zip_source_read(target, out.data(), out.size());
  zip_source_close(target);
  if (n != size) return give_up("it cannot be read back");
  return out;
}

}  // namespace ag::data
