// sin and its derivative, with the numeric derivative beside it, as a picture: sine.svg in the folder it runs in.
#include <ag/ag.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <sstream>

namespace {

constexpr double pi = 3.14159265358979323846, width = 720, height = 360, margin = 48;

double place_x(double x) { return margin + (x + 2 * pi) / (4 * pi) * (width - 2 * margin); }
double place_y(double y) { return height / 2 - y / 1.25 * (height / 2 - margin); }

std::string curve(const std::vector<float>& x, const std::vector<float>& y, const char* style) {
  std::ostringstream s;
  s << "<polyline fill='none' " << style << " points='";
  for (std::size_t i = 0; i < x.size(); ++i) s << place_x(x[i]) << ',' << place_y(y[i]) << ' ';
  s << "'/>\n";
  return s.str();
}

}  // namespace

int main() {
  ag::Tensor x = ag::linspace(-2 * pi, 2 * pi, 401).requires_grad_();
  ag::Tensor y = ag::sin(x);
  y.sum().backward();
  auto xs = x.to_vector<float>(), ys = y.to_vector<float>(), slopes = x.grad().to_vector<float>();
  std::vector<float> middle, numeric;
  double worst = 0;
  for (std::size_t i = 1; i + 1 < xs.size(); ++i) {
    middle.push_back(xs[i]);
    numeric.push_back((ys[i + 1] - ys[i - 1]) / (xs[i + 1] - xs[i - 1]));
    worst = std::max(worst, std::fabs(static_cast<double>(numeric.back()) - slopes[i]));
  }
  std::ofstream svg("sine.svg");
  svg << "<svg xmlns='http://www.w3.org/2000/svg' width='" << width << "' height='" << height
      << "' font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n";
  const char* ticks[] = {"-2π", "-π", "0", "π", "2π"};
  for (int k = -2; k <= 2; ++k)
    svg << "<line stroke='#ddd' x1='" << place_x(k * pi) << "' x2='" << place_x(k * pi) << "' y1='" << margin
        << "' y2='" << height - margin << "'/>\n<text text-anchor='middle' x='" << place_x(k * pi) << "' y='"
        << height - margin + 18 << "'>" << ticks[k + 2] << "</text>\n";
  for (int k = -1; k <= 1; ++k)
    svg << "<line stroke='#ddd' x1='" << margin << "' x2='" << width - margin << "' y1='" << place_y(k) << "' y2='"
        << place_y(k) << "'/>\n<text text-anchor='end' x='" << margin - 8 << "' y='" << place_y(k) + 4 << "'>" << k
        << "</text>\n";
  svg << curve(xs, ys, "stroke='#1f77b4' stroke-width='2'") << curve(xs, slopes, "stroke='#d62728' stroke-width='2'")
      << curve(middle, numeric, "stroke='black' stroke-width='1' stroke-dasharray='2 5'");
  const char* names[] = {"sin(x)", "derivative", "numeric derivative"};
  const char* colours[] = {"#1f77b4", "#d62728", "black"};
  for (int i = 0; i < 3; ++i)
    svg << "<line stroke-width='2' stroke='" << colours[i] << "' x1='" << margin + 150 * i << "' x2='"
        << margin + 150 * i + 24 << "' y1='20' y2='20'/>\n<text x='" << margin + 150 * i + 30 << "' y='24'>" << names[i]
        << "</text>\n";
  svg << "</svg>\n";
  std::cout << std::boolalpha << ag::allclose(x.grad(), ag::cos(x), 1e-5, 1e-6) << ' ' << (worst < 1e-3) << ' '
            << static_cast<bool>(svg.flush()) << '\n';
}
