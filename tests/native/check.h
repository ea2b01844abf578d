// What the checks of the native kernels share.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

static int problems = 0;

static void compare(const char* what, const std::vector<float>& found, const std::vector<double>& expected) {
  for (size_t i = 0; i < expected.size(); i++)
    if (!(std::fabs(found[i] - expected[i]) <= 1e-4 * (1 + std::fabs(expected[i])))) {
      std::printf("%s[%zu] is %g, expected %g\n", what, i, found[i], expected[i]);
      problems++;
      return;
    }
}

// Numbers of a normal distribution.
static std::vector<float> drawn(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}
