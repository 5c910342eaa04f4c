//! A device by cudarc's types, whose version the feature is named after.

use super::{Device, ElementKind};
use crate::element::Element;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};
use std::sync::Arc;

impl Device {
    /// Takes an engine's context and stream as cudarc has them.
    ///
    /// cudarc orders a context's streams by events, from the second on ([`CudaContext::new_stream`] makes a first second one,
    /// beside the default stream): then every call records the use of its buffers and waits for earlier ones. An engine that
    /// orders its streams itself turns that off ([`CudaContext::disable_event_tracking`], with the promise that it asks for)
    /// before it allocates, and saves the calls.
    ///
    /// [`CudaContext::per_thread_stream`] names another stream in each thread by one handle, which nothing tells apart: a program that uses
    /// memory of such a stream in several threads waits between them itself.
    ///
    /// A capture cannot wait for events. With tracking, a call in a capture takes memory that was allocated on the stream that
    /// is captured, and refuses that of another stream; without, it takes any. To replay a graph where its memory is there,
    /// and in order with what other streams do, is up to who launches it.
    ///
    /// # Errors
    /// As [`Device::new`].
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        Self::opened(stream)
    }

    /// The same device and kernels with another stream of its context.
    ///
    /// Memory has a home, the stream that it was allocated on. A call on another stream is ordered with what else uses the
    /// memory: by cudarc's events if [`CudaContext::new_stream`] made the stream, by waiting for the home, and letting it
    /// wait, otherwise. Both make every call cost some calls of the driver more; in a capture, memory of another stream is
    /// refused (see [`Device::with_stream`]).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a stream of another context.
    pub fn on_stream(&self, stream: Arc<CudaStream>) -> Result<Self> {
        match **stream.context() == **self.context() {
            true => Ok(Self { shared: self.shared.clone(), stream }),
            false => Err(Error::Unsupported {
                what: "stream",
                expected: "a stream of the device's context",
                got: "one of another".into(),
            }),
        }
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.stream.context()
    }

    /// The stream on which operations run.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Finds a kernel by module, as `w4a8/gemm`, and symbol, and loads its module if nothing has asked for it yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is in no table of kernels, [`Error::UnsupportedArchitecture`] if the kernels were
    /// not built for the device, [`Error::Driver`] if the driver does not load them.
    pub fn function(&self, module: &'static str, symbol: &'static str) -> Result<&CudaFunction> {
        self.shared.function(module, symbol)
    }
}

/// A floating-point element that kernels take: `f32`, `f16` or `bf16`.
pub trait DeviceElement: Element + DeviceRepr + ValidAsZeroBits + Unpin + Default {
    /// The type's number.
    const KIND: ElementKind;
}

impl DeviceElement for f32 {
    const KIND: ElementKind = ElementKind::F32;
}

impl DeviceElement for f16 {
    const KIND: ElementKind = ElementKind::F16;
}

impl DeviceElement for bf16 {
    const KIND: ElementKind = ElementKind::Bf16;
}
