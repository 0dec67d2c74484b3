#include "ir/base/diag.hpp"

namespace ag {

std::string render(const Diag& diag, const Sources&, DiagFormat) {
  std::string place = diag.spans.empty() ? "" : diag.spans[0].loc.str();
  std::string level = diag.level == Level::error ? "error" : "warning";
  return (place.empty() ? "" : place + ": ") + level + "[" + code_name(diag.code) + "]: " + diag.message + "\n";
}

std::string render(const Diags& diags, const Sources& sources, DiagFormat format) {
  std::string out;
  for (const Diag& d : diags) out += render(d, sources, format);
  return out;
}

}  // namespace ag
