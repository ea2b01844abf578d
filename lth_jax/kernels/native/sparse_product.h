// A matrix product with a sparse right-hand side, and its two gradients, for batches of examples.
//
// W [inputs, outputs] is held in compressed columns, a band of its rows after the other, so that a band's
// inputs stay in the nearest cache: column k of band b has the entries values[p], in the rows index[p], for
// start[c] <= p < start[c + 1], c = b * outputs + k. The examples are taken TILE at a time and transposed, so
// that those of one input lie side by side ('across'): one weight then meets a whole tile of them in a few
// vector registers.

#pragma once

#include <utility>

#include "vectors.h"

namespace lth {

constexpr int VECTORS = LANES == 16 ? 4 : 8;
constexpr int TILE = LANES * VECTORS;

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define LTH_SHUFFLEVECTOR
#endif
#endif

#ifdef LTH_SHUFFLEVECTOR
template <int... J>
inline Vector pick(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, J...);
}
#else
typedef int32_t Places __attribute__((vector_size(4 * LANES)));
template <int... J>
inline Vector pick(Vector a, Vector b) {
  return __builtin_shuffle(a, b, Places{J...});
}
#endif

// Of two vectors, in blocks of S lanes: the even blocks of both, and the odd blocks of both.
template <int S, int... J>
inline Vector even(Vector a, Vector b, std::integer_sequence<int, J...>) {
  return pick<((J & S) == 0 ? J : LANES + J - S)...>(a, b);
}
template <int S, int... J>
inline Vector odd(Vector a, Vector b, std::integer_sequence<int, J...>) {
  return pick<((J & S) == 0 ? J + S : LANES + J)...>(a, b);
}
using Lanes = std::make_integer_sequence<int, LANES>;

template <int S>
inline void exchange(Vector* rows) {
  for (int i = 0; i < LANES; i++) {
    if (i & S) continue;
    const Vector a = rows[i], b = rows[i + S];
    rows[i] = even<S>(a, b, Lanes{});
    rows[i + S] = odd<S>(a, b, Lanes{});
  }
  if constexpr (2 * S < LANES) exchange<2 * S>(rows);
}

// LANES x LANES floats transposed in place.
inline void transpose(Vector* rows) { exchange<1>(rows); }

// The sums over the lanes of LANES vectors, as one vector.
template <int S = 1, int COUNT = LANES>
inline Vector sums(Vector* vectors) {
  if constexpr (COUNT == 1) {
    return vectors[0];
  } else {
    for (int i = 0; i < COUNT / 2; i++) {
      const Vector a = vectors[2 * i], b = vectors[2 * i + 1];
      vectors[i] = even<S>(a, b, Lanes{}) + odd<S>(a, b, Lanes{});
    }
    return sums<2 * S, COUNT / 2>(vectors);
  }
}

// How many vectors a tile of so many examples needs.
inline int vectors_for(int64_t examples) { return static_cast<int>((examples + LANES - 1) / LANES); }

// rows [examples, width] to across [width, N * LANES], zeros where there is no example.
template <int N>
void gather(const float* rows, float* across, int64_t width, int64_t examples) {
  for (int64_t i = 0; i < width; i += LANES) {
    const int columns = static_cast<int>(least(LANES, width - i));
    for (int n = 0; n < N; n++) {
      Vector block[LANES];
      for (int r = 0; r < LANES; r++) {
        const int64_t example = n * LANES + r;
        const float* from = rows + example * width + i;
        block[r] = example >= examples ? Vector{} : columns == LANES ? load(from) : load_some(from, columns);
      }
      transpose(block);
      for (int c = 0; c < columns; c++) store(across + (i + c) * N * LANES + n * LANES, block[c]);
    }
  }
}

// across [width, N * LANES] to rows [examples, width].
template <int N>
void scatter(const float* across, float* rows, int64_t width, int64_t examples) {
  for (int64_t i = 0; i < width; i += LANES) {
    const int columns = static_cast<int>(least(LANES, width - i));
    for (int n = 0; n < N && n * LANES < examples; n++) {
      Vector block[LANES];
      for (int c = 0; c < LANES; c++)
        block[c] = c < columns ? load(across + (i + c) * N * LANES + n * LANES) : Vector{};
      transpose(block);
      const int64_t some = least(LANES, examples - n * LANES);
      for (int r = 0; r < some; r++)
        std::memcpy(rows + (n * LANES + r) * width + i, &block[r], sizeof(float) * columns);
    }
  }
}

struct Columns {
  const float* values;
  const int32_t* start;
  const int32_t* index;
  int64_t inputs, outputs, bands;

  // Calls f(k, first entry, end, band) for each column of each band.
  template <typename F>
  void each(F&& f) const {
    for (int64_t b = 0; b < bands; b++)
      for (int64_t k = 0; k < outputs; k++) f(k, start[b * outputs + k], start[b * outputs + k + 1], b);
  }
  int32_t entries() const { return start[bands * outputs]; }
};

template <int N>
void forward_tile(const Columns& w, const float* x, float* y) {
  w.each([&](int64_t k, int32_t first, int32_t end, int64_t band) {
    float* to = y + k * N * LANES;
    Vector sum[N] = {};
    if (band)
      for (int n = 0; n < N; n++) sum[n] = load(to + n * LANES);
    for (int32_t p = first; p < end; p++) {
      const float* from = x + static_cast<int64_t>(w.index[p]) * N * LANES;
      for (int n = 0; n < N; n++) sum[n] += w.values[p] * load(from + n * LANES);
    }
    for (int n = 0; n < N; n++) store(to + n * LANES, sum[n]);
  });
}

// The products of LANES weights are summed over the examples together, across the ends of columns.
template <int N>
void values_tile(const Columns& w, const float* x, const float* dy, float* gradient, bool first_tile) {
  Vector product[LANES] = {};
  auto flush = [&](int32_t from, int count) {
    Vector total = sums(product);
    if (!first_tile) total += count == LANES ? load(gradient + from) : load_some(gradient + from, count);
    std::memcpy(gradient + from, &total, sizeof(float) * count);
  };
  w.each([&](int64_t k, int32_t first, int32_t end, int64_t) {
    Vector d[N];
    for (int n = 0; n < N; n++) d[n] = load(dy + (k * N + n) * LANES);
    for (int32_t p = first; p < end; p++) {
      const float* from = x + static_cast<int64_t>(w.index[p]) * N * LANES;
      Vector sum = d[0] * load(from);
      for (int n = 1; n < N; n++) sum += d[n] * load(from + n * LANES);
      product[p % LANES] = sum;
      if (p % LANES == LANES - 1) flush(p - LANES + 1, LANES);
    }
  });
  const int32_t end = w.entries();
  if (end % LANES) flush(end - end % LANES, end % LANES);
}

template <int N>
void inputs_tile(const Columns& w, const float* dy, float* dx) {
  std::memset(dx, 0, sizeof(float) * w.inputs * N * LANES);
  w.each([&](int64_t k, int32_t first, int32_t end, int64_t) {
    Vector d[N];
    for (int n = 0; n < N; n++) d[n] = load(dy + (k * N + n) * LANES);
    for (int32_t p = first; p < end; p++) {
      float* to = dx + static_cast<int64_t>(w.index[p]) * N * LANES;
      for (int n = 0; n < N; n++) store(to + n * LANES, load(to + n * LANES) + w.values[p] * d[n]);
    }
  });
}

// Calls f(std::integral_constant<int, N>) with N = vectors, 1 ... VECTORS.
template <typename F, int N = VECTORS>
inline void with_vectors(int vectors, F&& f) {
  if constexpr (N > 1) {
    if (vectors < N) return with_vectors<F, N - 1>(vectors, static_cast<F&&>(f));
  }
  f(std::integral_constant<int, N>{});
}

// Calls f(N, first example, examples) for each tile of a batch.
template <typename F>
inline void for_tiles(int64_t batch, F&& f) {
  for (int64_t b = 0; b < batch; b += TILE) {
    const int64_t some = least(TILE, batch - b);
    with_vectors(vectors_for(some), [&](auto n) { f(n, b, some); });
  }
}

// Floats that the transposed examples of a batch take: all tiles are full but the last.
inline int64_t across_size(int64_t batch, int64_t width) {
  return (batch / TILE * TILE + int64_t{LANES} * vectors_for(batch % TILE)) * width;
}

// y = x W. Also leaves the examples transposed, for the gradient: across_size(batch, inputs) floats.
inline bool forward(const Columns& w, const float* x, int64_t batch, float* y, float* across) {
  thread_local Scratch scratch;
  float* out = scratch.at_least(static_cast<size_t>(w.outputs) * TILE);
  if (!out) return false;
  for_tiles(batch, [&](auto n, int64_t b, int64_t some) {
    float* in = across + b * w.inputs;
    gather<n>(x + b * w.inputs, in, w.inputs, some);
    forward_tile<n>(w, in, out);
    scatter<n>(out, y + b * w.outputs, w.outputs, some);
  });
  return true;
}

// The gradient for the values: across as forward left it; entries of no column get 0.
inline bool gradient_of_values(const Columns& w, const float* across, const float* dy, int64_t batch,
                               int64_t entries, float* dvalues) {
  thread_local Scratch scratch;
  float* d = scratch.at_least(static_cast<size_t>(w.outputs) * TILE);
  if (!d) return false;
  const int64_t used = batch > 0 ? w.entries() : 0;
  if (used < entries) std::memset(dvalues + used, 0, sizeof(float) * (entries - used));
  for_tiles(batch, [&](auto n, int64_t b, int64_t some) {
    gather<n>(dy + b * w.outputs, d, w.outputs, some);
    values_tile<n>(w, across + b * w.inputs, d, dvalues, b == 0);
  });
  return true;
}

// The gradient for the inputs: dy W'.
inline bool gradient_of_inputs(const Columns& w, const float* dy, int64_t batch, float* dx) {
  thread_local Scratch scratch_dy, scratch_dx;
  float* d = scratch_dy.at_least(static_cast<size_t>(w.outputs) * TILE);
  float* in = scratch_dx.at_least(static_cast<size_t>(w.inputs) * TILE);
  if (!d || !in) return false;
  for_tiles(batch, [&](auto n, int64_t b, int64_t some) {
    gather<n>(dy + b * w.outputs, d, w.outputs, some);
    inputs_tile<n>(w, d, in);
    scatter<n>(in, dx + b * w.inputs, w.inputs, some);
  });
  return true;
}

}  // namespace lth
