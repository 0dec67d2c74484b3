// The list of code generators, and target names.
#include "codegen/backend.hpp"

namespace ag::codegen {

extern const Backend cpu_backend;
extern const Backend cuda_backend;

const std::vector<const Backend*>& backends() {
  static const std::vector<const Backend*> list{&cpu_backend, &cuda_backend};
  return list;
}

Result<TargetSpec> describe_target(std::string_view target) {
  auto colon = target.find(':');
  std::string_view family = target.substr(0, colon);
  std::string_view rest = colon == std::string_view::npos ? "" : target.substr(colon + 1);
  for (const Backend* b : backends())
    if (b->name == family) return b->describe(rest);
  std::string known;
  for (const Backend* b : backends())
    for (const std::string& name : b->known_targets())
      known += (known.empty() ? "" : ", ") + std::string(b->name) + ":" + name;
  return fail(error(Code::AG4001, {}, "unknown target `" + std::string(target) + "`").note("known targets: " + known));
}

const Backend& backend_of(const TargetSpec& target) {
  return target.kind == TargetSpec::Kind::cpu ? cpu_backend : cuda_backend;
}

}  // namespace ag::codegen
