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
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a sparse product");
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

// The geometry: top, left, down, along, spread.
using Numbers = ffi::Span<const int64_t>;

static lth::Helpers helpers(ffi::ThreadPool& pool) {
  return {pool.num_threads() - 1, [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); }};
}

static ffi::Error Convolve(ffi::ThreadPool pool, Floats images, Floats filters, ffi::Result<Floats> outputs,
                           Numbers geometry) {
  const auto x = images.dimensions(), w = filters.dimensions(), y = outputs->dimensions();
  const lth::Convolution c{x[0], x[1], x[2], x[3], w[0], w[1], w[3],
                           y[1], y[2], geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]};
  return done(lth::convolve(c, images.typed_data(), filters.typed_data(), outputs->typed_data(),
                            helpers(pool)));
}

static ffi::Error Filters(ffi::ThreadPool pool, Floats images, Floats dy, ffi::Result<Floats> dfilters,
                          Numbers geometry) {
  const auto x = images.dimensions(), y = dy.dimensions(), w = dfilters->dimensions();
  const lth::Convolution c{x[0], x[1], x[2], x[3], w[0], w[1], w[3],
                           y[1], y[2], geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]};
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
