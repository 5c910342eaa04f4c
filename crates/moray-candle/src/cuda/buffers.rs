//! What calls on a device work in.

use std::thread::{self, ThreadId};

use moray::Device;
use moray::sparse_mlp::Shape;
use moray::sparse_mlp::cuda::{MAX_TOKENS, RowFormat, Weights, Workspace as MlpWorkspace};
use moray::w4a8::cuda::{Activations, Workspace};
use moray::{Result, input_sparse};

use super::PER_THREAD;
use crate::pool::Pool;

/// Buffers that calls use again. Those of a stream serve that stream alone: what it has been given before is done when its next work
/// begins, so that nothing waits.
#[derive(Debug)]
pub(crate) struct Buffers {
    products: Pool<(Stream, Product)>,
    mlps: Pool<(Stream, Mlp)>,
    by_input: Pool<(Stream, ByInput)>,
}

/// A stream by what tells it from every other: the context, its handle, and the thread where each has its own under one handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    context: usize,
    handle: usize,
    thread: Option<ThreadId>,
}

impl Stream {
    fn of(device: &Device) -> Self {
        let handle = device.raw_stream() as usize;
        let thread = (handle == PER_THREAD).then(|| thread::current().id());
        Stream { context: device.context().cu_ctx() as usize, handle, thread }
    }
}

/// Quantized tokens and where blocks add their parts.
#[derive(Debug)]
struct Product {
    m: usize,
    k: usize,
    activations: Activations,
    workspace: Workspace,
}

#[derive(Debug)]
struct Mlp {
    shape: Shape,
    format: RowFormat,
    workspace: MlpWorkspace,
}

#[derive(Debug)]
struct ByInput {
    sizes: [usize; 3],
    workspace: input_sparse::cuda::Workspace,
}

impl Buffers {
    pub(crate) const fn new() -> Self {
        Buffers { products: Pool::new(), mlps: Pool::new(), by_input: Pool::new() }
    }

    /// Lends what a product of M tokens of K features works in.
    pub(crate) fn with_product<R>(
        &self,
        device: &Device,
        m: usize,
        k: usize,
        f: impl FnOnce(&mut Activations, &mut Workspace) -> Result<R>,
    ) -> Result<R> {
        let stream = Stream::of(device);
        let (_, mut product) = match self.products.take(|(of, _)| *of == stream) {
            Some((_, kept)) if kept.m >= m && kept.k >= k => (stream, kept),
            Some((_, kept)) => {
                let (m, k) = (m.max(kept.m), k.max(kept.k));
                (stream, Product { m, k, activations: Activations::with_capacity(device, m, k)?, ..kept })
            }
            None => {
                let workspace = Workspace::new(device)?;
                (stream, Product { m, k, activations: Activations::with_capacity(device, m, k)?, workspace })
            }
        };
        let result = f(&mut product.activations, &mut product.workspace);
        self.products.give((stream, product));
        result
    }

    /// Lends what a call of such an MLP works in. It is made for the most tokens that any call has, since results depend on it.
    pub(crate) fn with_mlp<R>(
        &self,
        device: &Device,
        weights: &Weights,
        f: impl FnOnce(&mut MlpWorkspace) -> Result<R>,
    ) -> Result<R> {
        let (stream, shape, format) = (Stream::of(device), weights.shape(), weights.format());
        let fits = |(of, mlp): &(Stream, Mlp)| *of == stream && mlp.shape == shape && mlp.format == format;
        let mut mlp = match self.mlps.take(fits) {
            Some((_, mlp)) => mlp,
            None => Mlp { shape, format, workspace: MlpWorkspace::new(device, weights, MAX_TOKENS)? },
        };
        let result = f(&mut mlp.workspace);
        self.mlps.give((stream, mlp));
        result
    }

    /// Lends what a product by input works in.
    pub(crate) fn with_by_input<R>(
        &self,
        device: &Device,
        sizes: [usize; 3],
        f: impl FnOnce(&mut input_sparse::cuda::Workspace) -> Result<R>,
    ) -> Result<R> {
        let stream = Stream::of(device);
        let fits = |(of, kept): &(Stream, ByInput)| *of == stream && kept.sizes.iter().zip(sizes).all(|(a, b)| *a >= b);
        let mut kept = match self.by_input.take(fits) {
            Some((_, kept)) => kept,
            None => {
                // the stream's other one, if there is one, is too small
                let smaller = self.by_input.take(|(of, _)| *of == stream).map_or([0; 3], |(_, kept)| kept.sizes);
                let [m, n, k]: [usize; 3] = std::array::from_fn(|i| sizes[i].max(smaller[i]));
                let workspace = input_sparse::cuda::Workspace::with_capacity(device, m, n, k)?;
                ByInput { sizes: [m, n, k], workspace }
            }
        };
        let result = f(&mut kept.workspace);
        self.by_input.give((stream, kept));
        result
    }
}
