//! What operations share.

use std::sync::Arc;

use moray::sparse_mlp::{Shape, Weights, Workspace};
use moray::w4a8::Activations;
use moray::{Cpu, input_sparse};

use crate::cuda::Buffers;
use crate::pool::Pool;

/// A team of threads and the buffers that calls use again: the handle that every operation takes, and that all share.
///
/// Calls may come from any number of threads at once. Each has buffers of its own; phases of those on the same team take turns.
///
/// # Example
/// ```
/// use moray_candle::Runtime;
/// use moray_candle::moray::{Cpu, Isa};
///
/// let all = Runtime::detect();
/// let two = Runtime::new(Cpu::new(2, Isa::detect())?);
/// assert_eq!((two.cpu().threads(), all.cpu().isa()), (2, Isa::detect()));
/// # Ok::<(), moray_candle::moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cpu: Cpu,
    activations: Pool<Activations>,
    mlp: Pool<MlpBuffers>,
    by_input: Pool<input_sparse::Workspace>,
    on_device: Buffers,
}

/// A workspace and what it was made for.
#[derive(Debug)]
struct MlpBuffers {
    shape: Shape,
    four_bit: bool,
    tokens: usize,
    workspace: Workspace,
}

impl Runtime {
    /// All cores that this process may use and the best instruction set.
    pub fn detect() -> Self {
        Self::new(Cpu::detect())
    }

    /// A given team.
    pub fn new(cpu: Cpu) -> Self {
        let (activations, mlp, by_input) = (Pool::new(), Pool::new(), Pool::new());
        Runtime(Arc::new(Shared { cpu, activations, mlp, by_input, on_device: Buffers::new() }))
    }

    /// The team.
    pub fn cpu(&self) -> &Cpu {
        &self.0.cpu
    }

    /// Lends activations, as some call left them.
    pub(crate) fn with_activations<R>(&self, f: impl FnOnce(&mut Activations) -> R) -> R {
        let mut activations = self.0.activations.take(|_| true).unwrap_or_default();
        let result = f(&mut activations);
        self.0.activations.give(activations);
        result
    }

    /// Lends what a product by input works in, as some call left it.
    pub(crate) fn with_by_input<R>(&self, f: impl FnOnce(&mut input_sparse::Workspace) -> R) -> R {
        let mut workspace = self.0.by_input.take(|_| true).unwrap_or_default();
        let result = f(&mut workspace);
        self.0.by_input.give(workspace);
        result
    }

    /// What calls on devices work in.
    pub(crate) fn on_device(&self) -> &Buffers {
        &self.0.on_device
    }

    /// Lends what a call with so many tokens of such an MLP works in.
    ///
    /// # Errors
    /// Those of [`Workspace::new`].
    pub(crate) fn with_mlp_workspace<R>(
        &self,
        weights: &Weights,
        four_bit: bool,
        tokens: usize,
        f: impl FnOnce(&mut Workspace) -> moray::Result<R>,
    ) -> moray::Result<R> {
        let shape = weights.shape();
        let fits = |kept: &MlpBuffers| (kept.shape, kept.four_bit) == (shape, four_bit) && kept.tokens >= tokens;
        let mut buffers = match self.0.mlp.take(fits) {
            Some(kept) => kept,
            None => MlpBuffers { shape, four_bit, tokens, workspace: Workspace::new(weights, tokens)? },
        };
        let result = f(&mut buffers.workspace);
        self.0.mlp.give(buffers);
        result
    }
}
