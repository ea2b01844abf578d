// A convolution and the gradient of its filters, of images [examples, height, width, channels] and filters
// [rows, columns, channels, features].
//
// The pixels of one row that a window sees lie side by side, 'reach' = columns * channels floats, so both are
// matrix products of the image as it is: for each of the filters' rows, pixels * reach by reach * features.
// Some rows of an image are copied at a time, with the zeros around them; a few pixels (or a few of reach)
// and a few vectors of features are summed in registers.

#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <type_traits>

#include "vectors.h"

namespace lth {

struct Convolution {
  int64_t examples, height, width, channels;
  int64_t rows, columns, features;
  int64_t out_height, out_width;
  int64_t top, left;     // zeros above and at the left; below 0, pixels that are cut off
  int64_t down, along;   // strides
  int64_t spread;        // pixels from one of the filters' rows to the next

  bool empty() const {
    return examples < 1 || height < 1 || width < 1 || rows < 1 || reach() < 1 || features < 1 ||
           out_height < 1 || out_width < 1;
  }
  int64_t reach() const { return columns * channels; }
  int64_t vectors() const { return (features + LANES - 1) / LANES; }
  int64_t padded() const { return vectors() * LANES; }
  int64_t seen_width() const { return ((out_width - 1) * along + columns) * channels; }
  int64_t seen_rows(int64_t out_rows) const { return (out_rows - 1) * down + (rows - 1) * spread + 1; }
};

constexpr int MOST = REGISTERS / 8;  // vectors of features at a time

// How many sums of so many vectors: what the registers hold beside as many vectors and a number that meets
// them, and no more than the addresses that one loop can go along.
constexpr int sums_of(int vectors) {
  const int room = (REGISTERS - vectors - 2) / vectors;
  return room < REGISTERS / 2 ? room : REGISTERS / 2;
}

// Threads that may help, and what hands one of them something to do, at any time or never.
struct Helpers {
  int64_t count;
  std::function<void(std::function<void()>)> start;
};

// Calls block(b) for all blocks, once each, on this thread and on helpers; those that come late find nothing.
template <typename F>
inline void in_parallel(int64_t blocks, const Helpers& helpers, F block) {
  struct Loop {
    F block;
    int64_t blocks;
    std::atomic<int64_t> next{0}, done{0};
    Loop(F f, int64_t count) : block(f), blocks(count) {}
    void work() {
      for (int64_t b; (b = next.fetch_add(1)) < blocks; done.fetch_add(1)) block(b);
    }
  };
  std::shared_ptr<Loop> loop;
  try {
    loop = std::make_shared<Loop>(block, blocks);
    for (int64_t h = 0; h < least(helpers.count, blocks - 1); h++) helpers.start([loop] { loop->work(); });
  } catch (...) {  // no memory for helpers: those that there are will do
  }
  if (!loop) {
    for (int64_t b = 0; b < blocks; b++) block(b);
    return;
  }
  loop->work();
  while (loop->done.load() < blocks) std::this_thread::yield();
}

// Blocks of examples: their number depends on sizes alone, and so does the order of sums.
inline int64_t blocks_of(int64_t examples, int64_t floats_each) {
  const int64_t fit = (int64_t{1} << 23) / floats_each;
  return least(least(examples, 16), fit < 1 ? 1 : fit);
}

// The rows of an image that so many rows of the output see, from output row 'first' on.
inline void see(const Convolution& c, const float* image, int64_t first, int64_t out_rows, float* seen) {
  const int64_t wide = c.seen_width(), pixels = wide / c.channels;
  const int64_t before = least(c.left > 0 ? c.left : 0, pixels);
  const int64_t from = c.left > 0 ? 0 : -c.left;
  const int64_t there = c.width - from, room = pixels - before;
  const int64_t some = there < room ? (there > 0 ? there : 0) : room;
  for (int64_t r = 0; r < c.seen_rows(out_rows); r++, seen += wide) {
    const int64_t y = first * c.down - c.top + r;
    if (y < 0 || y >= c.height) {
      std::memset(seen, 0, sizeof(float) * wide);
      continue;
    }
    std::memset(seen, 0, sizeof(float) * before * c.channels);
    std::memcpy(seen + before * c.channels, image + (y * c.width + from) * c.channels,
                sizeof(float) * some * c.channels);
    std::memset(seen + (before + some) * c.channels, 0, sizeof(float) * (room - some) * c.channels);
  }
}

// rows [count, features] to rows of whole vectors, zeros behind them.
inline void pad(const float* from, int64_t count, int64_t features, int64_t padded, float* to) {
  for (int64_t i = 0; i < count; i++) {
    std::memcpy(to + i * padded, from + i * features, sizeof(float) * features);
    std::memset(to + i * padded + features, 0, sizeof(float) * (padded - features));
  }
}

// Calls f(std::integral_constant<int, N>) for N = count, which is 1 ... LARGEST.
template <int LARGEST, typename F>
inline void with_count(int64_t count, F&& f) {
  if constexpr (LARGEST > 1) {
    if (count < LARGEST) return with_count<LARGEST - 1>(count, static_cast<F&&>(f));
  }
  f(std::integral_constant<int, LARGEST>{});
}

// Calls f(V, N, first vector, first) for blocks of at most MOST vectors by as many sums as there is room for.
template <typename F>
inline void for_blocks(int64_t vectors, int64_t count, F&& f) {
  for (int64_t v = 0; v < vectors; v += MOST)
    with_count<MOST>(least(MOST, vectors - v), [&](auto some_vectors) {
      constexpr int V = some_vectors, LARGEST = sums_of(V);
      for (int64_t i = 0; i < count; i += LARGEST)
        with_count<LARGEST>(least(LARGEST, count - i), [&](auto some) { f(some_vectors, some, v, i); });
    });
}

// Outputs of P pixels, V vectors of features each.
template <int V, int P>
inline void pixels_block(const Convolution& c, const float* seen, const float* filters, float* out) {
  const int64_t wide = c.seen_width(), step = c.along * c.channels, padded = c.padded();
  Vector sum[P][V] = {};
  for (int64_t a = 0; a < c.rows; a++) {
    const float* x = seen + a * c.spread * wide;
    for (int64_t m = 0; m < c.reach(); m++, filters += padded) {
      Vector w[V];
      for (int v = 0; v < V; v++) w[v] = load(filters + v * LANES);
      for (int p = 0; p < P; p++)
        for (int v = 0; v < V; v++) sum[p][v] += x[p * step + m] * w[v];
    }
  }
  for (int p = 0; p < P; p++)
    for (int v = 0; v < V; v++) store(out + p * padded + v * LANES, sum[p][v]);
}

// Sums over pixels for M of a row's reach, V vectors of features each.
template <int V, int M>
inline void filters_block(const Convolution& c, const float* seen, const float* dy, int64_t out_rows,
                          float* sums) {
  const int64_t wide = c.seen_width(), step = c.along * c.channels, padded = c.padded();
  Vector sum[M][V];
  for (int m = 0; m < M; m++)
    for (int v = 0; v < V; v++) sum[m][v] = load(sums + m * padded + v * LANES);
  for (int64_t y = 0; y < out_rows; y++) {
    const float* x = seen + y * c.down * wide;
    for (int64_t p = 0; p < c.out_width; p++, x += step, dy += padded) {
      Vector d[V];
      for (int v = 0; v < V; v++) d[v] = load(dy + v * LANES);
      for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) sum[m][v] += x[m] * d[v];
    }
  }
  for (int m = 0; m < M; m++)
    for (int v = 0; v < V; v++) store(sums + m * padded + v * LANES, sum[m][v]);
}

// outputs [examples, out_height, out_width, features]; false if there is no memory.
inline bool convolve(const Convolution& c, const float* images, const float* filters, float* outputs,
                     const Helpers& helpers) {
  thread_local Scratch scratch_filters;
  if (c.empty()) {
    std::fill_n(outputs, c.examples * c.out_height * c.out_width * c.features, 0.0f);
    return true;
  }
  const int64_t padded = c.padded();
  float* padded_filters = scratch_filters.at_least(c.rows * c.reach() * padded);
  if (!padded_filters) return false;
  pad(filters, c.rows * c.reach(), c.features, padded, padded_filters);
  const int64_t blocks = blocks_of(c.examples, 1);
  std::atomic<bool> enough{true};
  in_parallel(blocks, helpers, [&, padded_filters](int64_t block) {
    thread_local Scratch scratch_seen, scratch_out;
    float* seen = scratch_seen.at_least(c.seen_rows(1) * c.seen_width());
    float* out = scratch_out.at_least(c.out_width * padded);
    if (!seen || !out) {
      enough = false;
      return;
    }
    for (int64_t e = c.examples * block / blocks; e < c.examples * (block + 1) / blocks; e++)
      for (int64_t y = 0; y < c.out_height; y++) {
        see(c, images + e * c.height * c.width * c.channels, y, 1, seen);
        float* to = outputs + (e * c.out_height + y) * c.out_width * c.features;
        float* row = padded == c.features ? to : out;
        for_blocks(c.vectors(), c.out_width, [&](auto V, auto P, int64_t v, int64_t p) {
          pixels_block<V, P>(c, seen + p * c.along * c.channels, padded_filters + v * LANES,
                             row + p * padded + v * LANES);
        });
        if (row == out)
          for (int64_t p = 0; p < c.out_width; p++)
            std::memcpy(to + p * c.features, out + p * padded, sizeof(float) * c.features);
      }
  });
  return enough;
}

// What some examples give to the gradient of the filters, added to sums [rows, reach, padded].
inline bool add_gradient(const Convolution& c, const float* images, const float* dy, int64_t first,
                         int64_t end, float* sums) {
  thread_local Scratch scratch_seen, scratch_dy;
  const int64_t padded = c.padded(), reach = c.reach();
  const int64_t fit = 4096 / (c.out_width * padded);  // with what they see, in the nearest cache
  const int64_t at_once = fit < 1 ? 1 : least(fit, c.out_height);
  float* seen = scratch_seen.at_least(c.seen_rows(at_once) * c.seen_width());
  float* padded_dy = scratch_dy.at_least(at_once * c.out_width * padded);
  if (!seen || !padded_dy) return false;
  for (int64_t e = first; e < end; e++)
    for (int64_t y = 0; y < c.out_height; y += at_once) {
      const int64_t some = least(at_once, c.out_height - y);
      see(c, images + e * c.height * c.width * c.channels, y, some, seen);
      const float* d = dy + (e * c.out_height + y) * c.out_width * c.features;
      if (padded != c.features) {
        pad(d, some * c.out_width, c.features, padded, padded_dy);
        d = padded_dy;
      }
      for (int64_t a = 0; a < c.rows; a++)
        for_blocks(c.vectors(), reach, [&](auto V, auto M, int64_t v, int64_t m) {
          filters_block<V, M>(c, seen + a * c.spread * c.seen_width() + m, d + v * LANES, some,
                              sums + (a * reach + m) * padded + v * LANES);
        });
    }
  return true;
}

// The gradient of the filters, from that of the outputs; false if there is no memory.
inline bool gradient_of_filters(const Convolution& c, const float* images, const float* dy, float* dfilters,
                                const Helpers& helpers) {
  thread_local Scratch scratch;
  if (c.empty()) {
    std::fill_n(dfilters, c.rows * c.reach() * c.features, 0.0f);
    return true;
  }
  const int64_t padded = c.padded(), rows = c.rows * c.reach(), size = rows * padded;
  const int64_t blocks = blocks_of(c.examples, size);
  float* sums = scratch.at_least(blocks * size);
  if (!sums) return false;
  std::atomic<bool> enough{true};
  in_parallel(blocks, helpers, [&, sums](int64_t block) {
    float* own = sums + block * size;
    std::memset(own, 0, sizeof(float) * size);
    const int64_t first = c.examples * block / blocks, end = c.examples * (block + 1) / blocks;
    if (!add_gradient(c, images, dy, first, end, own)) enough = false;
  });
  for (int64_t block = 1; block < blocks; block++)
    for (int64_t i = 0; i < size; i++) sums[i] += sums[block * size + i];
  for (int64_t i = 0; i < rows; i++)
    std::memcpy(dfilters + i * c.features, sums + i * padded, sizeof(float) * c.features);
  return enough;
}

}  // namespace lth
