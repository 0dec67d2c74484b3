// Printing as torch does (torch/_tensor_str.py, version 2: its rules, in our words): one number format for the whole
// tensor, integers of a float type as `1.`, scientific where the range is wide, the middle left out above 1000
// elements, what is not the default behind it.
#include <cmath>
#include <cstdio>
#include <limits>
#include <ostream>

#include "runtime/api/tensor_impl.hpp"

namespace ag::api {
namespace {

constexpr int precision = 4;
constexpr std::size_t line_width = 80;
constexpr std::int64_t edge_items = 3, threshold = 1000;

template <class... A>
std::string text_of(const char* format, A... args) {
  char buffer[512];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

class Printer {
 public:
  explicit Printer(const Array& a) : a_(a), shape_(a.shape()), summarised_(a.elems() > threshold) { choose_format(); }

  std::string body(std::size_t indent) const {
    if (shape_.empty()) return element(0);
    return block(0, 0, indent);
  }

 private:
  const Array& a_;
  const std::vector<std::int64_t>& shape_;
  bool summarised_;
  bool integers_ = false, scientific_ = false;
  std::size_t width_ = 1;

  /// Calls f for each element that is shown.
  template <class F>
  void each_shown(std::size_t axis, std::int64_t offset, F&& f) const {
    if (axis == shape_.size()) return f(offset);
    const std::int64_t n = shape_[axis], stride = stride_of(axis);
    for (std::int64_t i = 0; i < n; ++i) {
      if (summarised_ && n > 2 * edge_items && i == edge_items) i = n - edge_items;
      each_shown(axis + 1, offset + i * stride, f);
    }
  }
  std::int64_t stride_of(std::size_t axis) const {
    std::int64_t s = 1;
    for (std::size_t i = axis + 1; i < shape_.size(); ++i) s *= shape_[i];
    return s;
  }

  void choose_format() {
    if (a_.elems() == 0) return;
    if (!is_float(a_.dtype())) {
      each_shown(0, 0, [&](std::int64_t i) { width_ = std::max(width_, element(i).size()); });
      return;
    }
    double low = std::numeric_limits<double>::infinity(), high = 0;
    bool any = false, all_whole = true;
    each_shown(0, 0, [&](std::int64_t i) {
      const double v = a_.get_double(i);
      if (!std::isfinite(v) || v == 0) return;
      any = true;
      low = std::min(low, std::fabs(v));
      high = std::max(high, std::fabs(v));
      all_whole &= std::ceil(v) == v;
    });
    integers_ = all_whole;  // also where nothing is finite or all is zero: `0.`
    if (!any) return;
    scientific_ = high / low > 1000 || high > 1e8 || low < 1e-4;
    each_shown(0, 0, [&](std::int64_t i) {
      if (const double v = a_.get_double(i); std::isfinite(v) && v != 0) width_ = std::max(width_, element(i).size());
    });
  }

  std::string element(std::int64_t i) const {
    if (a_.dtype() == ag::DType::boolean) return a_.get_int(i) ? "True" : "False";
    if (a_.dtype() == ag::DType::u64) return std::to_string(static_cast<std::uint64_t>(a_.get_int(i)));
    if (!is_float(a_.dtype())) return std::to_string(a_.get_int(i));
    const double v = a_.get_double(i);
    if (scientific_) {
      if (!std::isfinite(v)) return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
      return text_of("%.*e", precision, v);
    }
    if (!std::isfinite(v)) return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
    if (integers_) return text_of("%.0f.", v);
    return text_of("%.*f", precision, v);
  }
  std::string padded(std::int64_t i) const {
    std::string e = element(i);
    return std::string(width_ - std::min(width_, e.size()), ' ') + e;
  }

  std::string row(std::int64_t offset, std::size_t indent) const {
    const std::int64_t n = shape_.back();
    const std::size_t each = width_ + 2;
    const std::size_t per_line = std::max<std::size_t>(1, indent < line_width ? (line_width - indent) / each : 1);
    std::vector<std::string> items;
    for (std::int64_t i = 0; i < n; ++i) {
      if (summarised_ && n > 2 * edge_items && i == edge_items) {
        items.emplace_back(" ...");
        i = n - edge_items;
      }
      items.push_back(padded(offset + i));
    }
    std::string text = "[";
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i) text += i % per_line ? ", " : ",\n" + std::string(indent + 1, ' ');
      text += items[i];
    }
    return text + "]";
  }

  std::string block(std::size_t axis, std::int64_t offset, std::size_t indent) const {
    if (axis + 1 == shape_.size()) return row(offset, indent);
    const std::int64_t n = shape_[axis], stride = stride_of(axis);
    std::string gap = "," + std::string(shape_.size() - axis - 1, '\n') + std::string(indent + 1, ' ');
    std::string text = "[";
    for (std::int64_t i = 0; i < n; ++i) {
      if (i) text += gap;
      if (summarised_ && n > 2 * edge_items && i == edge_items) {
        text += "..." + gap;
        i = n - edge_items;
      }
      text += block(axis + 1, offset + i * stride, indent + 1);
    }
    return text + "]";
  }
};

std::string torch_dtype(ag::DType t) {
  static constexpr const char* names[] = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16",
                                          "int8",    "uint64",  "uint32",  "uint16",   "uint8", "bool"};
  return std::string("torch.") + names[static_cast<int>(t)];
}

}  // namespace

std::string Tensor::str() const {
  if (!defined()) return "None";
  lazy::Value& v = lazy::value_of(*this, "printing", {});
  std::vector<std::string> suffixes;
  std::string body;
  const ag::DType t = v.dtype();
  const bool usual = t == ag::DType::f32 || t == ag::DType::i64 || t == ag::DType::boolean;
  bool traced = false;
  for (auto* f = lazy::Session::current().frame; f && v.home; f = nullptr) traced = true;
  if (traced && !v.data) {
    body = "...";
    suffixes.push_back("type=" + v.type->type.str());
  } else {
    if (v.home || v.failed) lazy::Session::current().materialise(v, {});
    const Array a = lazy::to_array(v);
    if (a.elems() == 0) {
      body = "[]";
      if (a.shape().size() != 1) {
        std::string size = "size=(";
        for (std::size_t i = 0; i < a.shape().size(); ++i) size += (i ? ", " : "") + std::to_string(a.shape()[i]);
        suffixes.push_back(size + ")");
      }
      if (t != ag::DType::f32) suffixes.push_back("dtype=" + torch_dtype(t));
    } else {
      if (!usual) suffixes.push_back("dtype=" + torch_dtype(t));
      body = Printer(a).body(std::string_view("tensor(").size());
    }
  }
  if (impl_->grad_fn)
    suffixes.push_back("grad_fn=<" + std::string(impl_->grad_fn->name) + ">");
  else if (impl_->requires_grad)
    suffixes.push_back("requires_grad=True");

  // What does not fit on the last line goes to the next.
  const std::size_t indent = std::string_view("tensor(").size();
  std::string text = "tensor(" + body;
  const std::size_t newline = text.rfind('\n');
  std::size_t last = newline == text.npos ? text.size() + 2 : text.size() - newline + 1;
  for (const std::string& s : suffixes) {
    if (last + s.size() + 2 > line_width) {
      text += ",\n" + std::string(indent, ' ') + s;
      last = indent + s.size();
    } else {
      text += ", " + s;
      last += s.size() + 2;
    }
  }
  return text + ")";
}

std::ostream& operator<<(std::ostream& out, const Tensor& t) { return out << t.str(); }

}  // namespace ag::api
