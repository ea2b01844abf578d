// What XLA calls: see sparse_product.h and convolution.h.

#include "convolution.h"
#include "sparse_product.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Whole = ffi::Buffer<ffi::S32>;

static lth::Columns columns(Floats& values, Whole& start, Whole& index, int64_t inputs, int64_t outputs) {
  const int64_t bands = outputs ? (start.dimensions()[0] - 1) / outputs : 0;
  return {values.typed_data(), start.typed_data(), index.typed_data(), inputs, outputs, bands};
}

static ffi::Error done(bool enough_memory) {
  if (enough_memory) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a product's scratch");
}

static ffi::Error Forward(Floats x, Floats values, Whole start, Whole index, ffi::Result<Floats> y,
                          ffi::Result<Floats> across) {
  const auto size = x.dimensions();
  if (static_cast<int64_t>(across->element_count()) < lth::across_size(size[0], size[1]))
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "the transposed examples do not fit");
  const lth::Columns w = columns(values, start, index, size[1], y->dimensions()[1]);
  return done(lth::forward(w, x.typed_data(), size[0], y->typed_data(), across->typed_data()));
}

static ffi::Error Values(Floats dy, Floats across, Floats values, Whole start, Whole index,
                         ffi::Result<Floats> dvalues, int64_t inputs) {
  const lth::Columns w = columns(values, start, index, inputs, dy.dimensions()[1]);
  return done(lth::gradient_of_values(w, across.typed_data(), dy.typed_data(), dy.dimensions()[0],
                                      values.element_count(), dvalues->typed_data()));
}

static ffi::Error Inputs(Floats dy, Floats values, Whole start, Whole index, ffi::Result<Floats> dx) {
  const lth::Columns w = columns(values, start, index, dx->dimensions()[1], dy.dimensions()[1]);
  return done(lth::gradient_of_inputs(w, dy.typed_data(), dy.dimensions()[0], dx->typed_data()));
}

// Sizes, or a geometry: top, left, down, along, spread.
using Numbers = ffi::Span<const int64_t>;

static lth::Helpers helpers(ffi::ThreadPool& pool) {
  return {pool.num_threads() - 1, [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); }};
}

static lth::Convolution convolution(Floats& x, Numbers w, Numbers y, Numbers by) {
  const auto size = x.dimensions();
  lth::Convolution c{};
  c.examples = size[0], c.height = size[1], c.width = size[2], c.channels = size[3];
  c.rows = w[0], c.columns = w[1], c.features = w[3];
  c.out_height = y[1], c.out_width = y[2];
  c.top = by[0], c.left = by[1], c.down = by[2], c.along = by[3], c.spread = by[4];
  return c;
}

static ffi::Error Convolve(ffi::ThreadPool pool, Floats images, Floats filters, ffi::Result<Floats> outputs,
                           Numbers geometry) {
  const lth::Convolution c = convolution(images, filters.dimensions(), outputs->dimensions(), geometry);
  return done(lth::convolve(c, images.typed_data(), filters.typed_data(), outputs->typed_data(),
                            helpers(pool)));
}

static ffi::Error Filters(ffi::ThreadPool pool, Floats images, Floats dy, ffi::Result<Floats> dfilters,
                          Numbers geometry) {
  const lth::Convolution c = convolution(images, dfilters->dimensions(), dy.dimensions(), geometry);
  return done(lth::gradient_of_filters(c, images.typed_data(), dy.typed_data(), dfilters->typed_data(),
                                       helpers(pool)));
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_convolve, Convolve,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>()
                                  .Ret<Floats>().Attr<Numbers>("geometry"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_filters, Filters,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>()
                                  .Ret<Floats>().Attr<Numbers>("geometry"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_forward, Forward,
                              ffi::Ffi::Bind().Arg<Floats>().Arg<Floats>().Arg<Whole>().Arg<Whole>()
                                  .Ret<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_values, Values,
                              ffi::Ffi::Bind().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Whole>()
                                  .Arg<Whole>().Ret<Floats>().Attr<int64_t>("inputs"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lth_inputs, Inputs,
                              ffi::Ffi::Bind().Arg<Floats>().Arg<Floats>().Arg<Whole>().Arg<Whole>()
                                  .Ret<Floats>());

extern "C" int lth_lanes() { return lth::LANES; }
extern "C" int lth_tile() { return lth::TILE; }
