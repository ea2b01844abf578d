// A convolution and the gradient of its filters against plain loops in double precision, for every kind of
// tail: run under sanitizers. Arrays are exactly as long as what they hold, so that a read or write beyond
// them is found.

#include <thread>
#include <vector>

#include "check.h"
#include "convolution.h"

static void check(const lth::Convolution& c, int64_t helpers) {
  std::mt19937 random(static_cast<unsigned>(c.examples * 131 + c.width * 17 + c.features));
  const auto x = drawn(random, c.examples * c.height * c.width * c.channels);
  const auto w = drawn(random, c.rows * c.columns * c.channels * c.features);
  const auto dy = drawn(random, c.examples * c.out_height * c.out_width * c.features);
  std::vector<double> y(dy.size()), dw(w.size());
  for (int64_t e = 0; e < c.examples; e++)
    for (int64_t i = 0; i < c.out_height; i++)
      for (int64_t j = 0; j < c.out_width; j++)
        for (int64_t a = 0; a < c.rows; a++)
          for (int64_t b = 0; b < c.columns; b++) {
            const int64_t row = i * c.down - c.top + a * c.spread, column = j * c.along - c.left + b;
            if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
            for (int64_t k = 0; k < c.channels; k++)
              for (int64_t f = 0; f < c.features; f++) {
                const int64_t in = ((e * c.height + row) * c.width + column) * c.channels + k;
                const int64_t filter = ((a * c.columns + b) * c.channels + k) * c.features + f;
                const int64_t out = ((e * c.out_height + i) * c.out_width + j) * c.features + f;
                y[out] += double(x[in]) * w[filter];
                dw[filter] += double(x[in]) * dy[out];
              }
          }
  std::vector<std::thread> threads;
  const lth::Helpers start{helpers, [&](std::function<void()> task) { threads.emplace_back(task); }};
  std::vector<float> found_y(y.size(), NAN), found_w(w.size(), NAN), again(w.size(), NAN);
  problems += !lth::convolve(c, x.data(), w.data(), found_y.data(), start);
  problems += !lth::gradient_of_filters(c, x.data(), dy.data(), found_w.data(), start);
  problems += !lth::gradient_of_filters(c, x.data(), dy.data(), again.data(), {0, nullptr});
  for (std::thread& thread : threads) thread.join();
  compare("y", found_y, y);
  compare("dw", found_w, dw);
  if (found_w != again) {
    std::printf("the gradient depends on who helped\n");
    problems++;
  }
}

int main() {
  // Examples, height, width, channels, rows, columns, features, out_height, out_width, top, left, down,
  // along, spread.
  check({1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1}, 0);
  check({3, 5, 6, 3, 3, 3, 16, 5, 6, 1, 1, 1, 1, 1}, 2);     // SAME
  check({20, 7, 9, 5, 3, 2, 70, 5, 8, 0, 0, 1, 1, 1}, 3);    // VALID, several blocks of features
  check({4, 9, 8, 17, 3, 3, 33, 5, 4, 1, 1, 2, 2, 1}, 1);    // strides
  check({2, 9, 9, 4, 3, 3, 64, 5, 7, 0, 0, 1, 1, 2}, 1);     // rows apart
  check({2, 4, 4, 2, 2, 2, 10, 3, 2, -1, -1, 1, 1, 1}, 1);   // pixels cut off
  check({2, 3, 3, 2, 2, 2, 5, 8, 9, 3, 4, 1, 1, 1}, 1);      // windows beyond the image on every side
  check({2, 3, 2, 2, 1, 1, 5, 3, 2, 0, -5, 1, 1, 1}, 1);     // nothing of the image is seen
  check({0, 3, 3, 2, 2, 2, 5, 2, 2, 0, 0, 1, 1, 1}, 1);      // no examples: the gradient is 0
  check({5, 6, 40, 40, 3, 3, 48, 6, 40, 1, 1, 1, 1, 1}, 2);  // many pixels, many channels
  for (int64_t features : {1, 15, 16, 31, 32, 64, 65})
    check({2, 4, 5, 7, 3, 3, features, 4, 5, 1, 1, 1, 1, 1}, 1);
  std::printf("lanes %d: %d problems\n", lth::LANES, problems);
  return problems != 0;
}
