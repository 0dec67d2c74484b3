// Trains a classifier of handwritten digits (8 x 8 pixels) and draws its loss. Usage: digits [DATA.npz]
#include <ag/ag.hpp>
#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>

namespace {

void draw(const std::vector<double>& losses, const std::string& path) {
  const double width = 640, height = 320, margin = 40, top = losses.front();
  std::ofstream svg(path);
  svg << "<svg xmlns='http://www.w3.org/2000/svg' width='" << width << "' height='" << height
      << "' font-family='sans-serif' font-size='12'><rect width='100%' height='100%' fill='white'/>"
      << "<text x='40' y='24'>training loss, from " << top << " to " << losses.back() << "</text>"
      << "<polyline fill='none' stroke='#1f77b4' stroke-width='2' points='";
  for (std::size_t i = 0; i < losses.size(); ++i)
    svg << margin + (width - 2 * margin) * static_cast<double>(i) / static_cast<double>(losses.size() - 1) << ','
        << height - margin - (height - 2 * margin) * losses[i] / top << ' ';
  svg << "'/></svg>\n";
}

}  // namespace

int main(int argc, char** argv) try {
  const auto start = std::chrono::steady_clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  ag::Tensor x, y, test_x, test_y;
  for (auto& [name, t] : ag::load_tensors(argc > 1 ? argv[1] : "examples/digits.npz"))
    (name == "x_train" ? x : name == "y_train" ? y : name == "x_test" ? test_x : test_y) = t;
  const double scale = 1 / x.max().item();
  x = (x * scale).eval();
  test_x = (test_x * scale).eval();

  ag::manual_seed(0);
  ag::nn::Sequential model(ag::nn::Linear(64, 64), ag::nn::ReLU(), ag::nn::Linear(64, 10));
  ag::optim::Adam optimizer(model.parameters(), {.lr = 5e-3});
  const std::int64_t batch = 64, epochs = 30, n = x.size(0) / batch * batch;
  std::vector<double> losses;
  for (std::int64_t epoch = 1; epoch <= epochs; ++epoch) {
    ag::Tensor order = ag::randperm(x.size(0));
    double sum = 0;
    for (std::int64_t i = 0; i < n; i += batch) {
      const std::int64_t* p = order.data<std::int64_t>() + i;
      ag::Tensor rows = ag::from_vector(std::vector<std::int64_t>(p, p + batch), batch);
      optimizer.zero_grad();
      ag::Tensor loss = ag::cross_entropy(model(x.index_select(0, rows)), y.index_select(0, rows));
      loss.backward();
      optimizer.step();
      sum += loss.item();
    }
    losses.push_back(sum / static_cast<double>(n / batch));
    std::cout << "epoch " << epoch << "/" << epochs << "  loss " << losses.back() << "  " << seconds() << " s\n";
  }
  draw(losses, "digits_loss.svg");
  ag::NoGradGuard no_grad;
  const double accuracy = (model(test_x).argmax(1) == test_y).to(ag::f32).mean().item();
  std::cout << "test accuracy " << accuracy << " in " << seconds() << " s, " << ag::compilations()
            << " programs compiled\n";
  return accuracy >= 0.97 ? 0 : 1;
} catch (const ag::Error& e) {
  std::cerr << e.render();
  return 1;
}
