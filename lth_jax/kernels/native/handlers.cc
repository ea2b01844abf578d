// What XLA calls: see sparse_product.h.

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
