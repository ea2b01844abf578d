// The sparse product against plain loops in double precision, for every kind of tail: run under sanitizers.
// Arrays are exactly as long as what they hold, so that a read or write beyond them is found.

#include <vector>

#include "check.h"
#include "sparse_product.h"

static void check(int64_t batch, int64_t inputs, int64_t outputs, double density, int64_t room, int64_t bands) {
  std::mt19937 random(static_cast<unsigned>(batch * 131 + inputs * 17 + outputs));
  std::uniform_real_distribution<double> uniform;
  std::vector<int32_t> start{0}, index;
  const int64_t height = (inputs + bands - 1) / bands;
  for (int64_t b = 0; b < bands; b++)
    for (int64_t k = 0; k < outputs; k++) {
      for (int64_t i = b * height; i < lth::least(inputs, (b + 1) * height); i++)
        if (uniform(random) < density) index.push_back(static_cast<int32_t>(i));
      start.push_back(static_cast<int32_t>(index.size()));
    }
  const size_t kept = index.size();
  index.resize(kept + room, 0);
  const auto x = drawn(random, batch * inputs), dy = drawn(random, batch * outputs);
  const auto values = drawn(random, kept + room);
  const lth::Columns w{values.data(), start.data(), index.data(), inputs, outputs, bands};

  std::vector<double> y(batch * outputs), dvalues(kept + room), dx(batch * inputs);
  for (int64_t b = 0; b < batch; b++)
    for (int64_t c = 0, k = 0; c < bands * outputs; c++, k = c % outputs)
      for (int32_t p = start[c]; p < start[c + 1]; p++) {
        y[b * outputs + k] += double(x[b * inputs + index[p]]) * values[p];
        dvalues[p] += double(x[b * inputs + index[p]]) * dy[b * outputs + k];
        dx[b * inputs + index[p]] += double(values[p]) * dy[b * outputs + k];
      }
  std::vector<float> found_y(batch * outputs), across(lth::across_size(batch, inputs));
  std::vector<float> found_values(kept + room, NAN), found_x(batch * inputs, NAN);
  problems += !lth::forward(w, x.data(), batch, found_y.data(), across.data());
  problems += !lth::gradient_of_values(w, across.data(), dy.data(), batch, kept + room, found_values.data());
  problems += !lth::gradient_of_inputs(w, dy.data(), batch, found_x.data());
  compare("y", found_y, y);
  compare("dvalues", found_values, dvalues);
  compare("dx", found_x, dx);
}

int main() {
  for (int64_t batch : {1, 2, 15, 16, 17, 33, 60, 63, 64, 65, 127, 128, 200})
    for (int64_t inputs : {1, 3, 15, 16, 17, 50})
      for (int64_t outputs : {1, 7, 16, 33})
        for (double density : {0.0, 0.2, 1.0}) check(batch, inputs, outputs, density, inputs % 3, 1 + inputs % 4);
  std::printf("lanes %d, tile %d: %d problems\n", lth::LANES, lth::TILE, problems);
  return problems != 0;
}
